"""The token file broken under agents that already serve, and rewritten while they read it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from support.agent_process import fake_token
from support.crowd import Crowd, Orders, Places, ScriptedCa, Watch, all_in, places, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.agent_process import AgentFiles

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("failures-token")]

LIFE = 30.0
SWAPPED, TORN, NEWLINE = "swapped", "torn", "newline"


def missing(files: AgentFiles) -> None:
    files.token.unlink()


def empty(files: AgentFiles) -> None:
    files.token.write_text("")


def newline_only(files: AgentFiles) -> None:
    files.token.write_text("\n")


def truncated(files: AgentFiles) -> None:
    files.token.write_text(files.token.read_text()[:70])


def endless(files: AgentFiles) -> None:
    files.token.write_text("x" * 100_000)


def expired(files: AgentFiles) -> None:
    files.write_token(expires_at=time.time() - 1)


def dangling(files: AgentFiles) -> None:
    files.token.unlink()
    files.token.symlink_to("..data/token")


def directory(files: AgentFiles) -> None:
    files.token.unlink()
    files.token.mkdir()


BROKEN: dict[str, tuple[Callable[[AgentFiles], None], str]] = {
    "missing": (missing, "token/token_missing"),
    "empty": (empty, "token/token_missing"),
    "newline-only": (newline_only, "token/token_missing"),
    "truncated": (truncated, "token/token_malformed"),
    "endless": (endless, "token/token_too_large"),
    "expired": (expired, "token/token_expired"),
    "dangling": (dangling, "token/token_missing"),
    "directory": (directory, "machine/file"),
}


class Loop(threading.Thread):
    """Rewrites a token file without pause. What it wrote is in `written`."""

    pause = 0.001

    def __init__(self, files: AgentFiles) -> None:
        super().__init__()
        self._files = files
        self.over = threading.Event()
        self.written: set[str] = {files.token.read_text()}

    def run(self) -> None:
        while not self.over.wait(self.pause):
            token = fake_token(expires_at=time.time() + 600, mark=str(len(self.written)))
            self.written.add(token)
            self.put(token)

    def put(self, token: str) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        self.over.set()
        self.join()


class KubeletLoop(Loop):
    """A projected volume: a new directory, `..data` swung over to it, the old directory removed."""

    def __init__(self, files: AgentFiles) -> None:
        super().__init__(files)
        self._current: Path | None = None
        self.put(files.token.read_text())
        files.token.unlink()
        files.token.symlink_to("..data/token")

    def put(self, token: str) -> None:
        volume = self._files.directory
        fresh = volume / f"..{len(self.written)}"
        fresh.mkdir()
        (fresh / "token").write_text(token + "\n")
        passing = volume / "..data_tmp"
        passing.symlink_to(fresh.name)
        passing.replace(volume / "..data")
        old, self._current = self._current, fresh
        if old is not None:
            (old / "token").unlink()
            old.rmdir()


class TornLoop(Loop):
    """In place, as a careless script does it: for a fifth of the time the file is empty or cut short."""

    pause = 0.008

    def put(self, token: str) -> None:
        with self._files.token.open("w") as file:
            self.over.wait(0.001)
            file.write(token[: len(token) // 2])
            file.flush()
            self.over.wait(0.001)
            file.write(token[len(token) // 2 :])


@dataclass
class Record:
    """What happened, by agent."""

    watch: Watch
    crowd: Crowd
    places: Places
    ca: ScriptedCa
    during: dict[str, dict[str, Any]] = field(default_factory=dict)  # Any: JSON, looked at in assertions
    asked: dict[str, int] = field(default_factory=dict)
    """Calls to the CA before the file was broken, and while it was."""
    written: dict[str, set[str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def record() -> Iterator[Record]:
    with places() as at, ScriptedCa(life=LIFE) as ca:
        configs = {name: at.agent(name, ca) for name in (*BROKEN, SWAPPED, TORN, NEWLINE)}
        ca.orders = {SWAPPED: Orders(life=4.0), TORN: Orders(life=20.0), NEWLINE: Orders(life=4.0)}
        at[NEWLINE].write_token(expires_at=time.time() + 600, tail="\r\n\n")
        loops: dict[str, Loop] = {SWAPPED: KubeletLoop(at[SWAPPED]), TORN: TornLoop(at[TORN])}
        with Crowd(configs, at.root / "log") as crowd, Watch(at.sockets()) as watch:
            kept = Record(watch, crowd, at, ca)
            for loop in loops.values():
                loop.start()
            try:
                all_in(at, list(configs), "fresh")
                _break_and_mend(kept)
                until(lambda: len(ca.taken[SWAPPED]) > 5 and len(ca.taken[TORN]) > 1, "enough renewals")
            finally:
                for name, loop in loops.items():
                    loop.finish()
                    kept.written[name] = loop.written
            all_in(at, list(configs), "fresh")
        yield kept


def _break_and_mend(kept: Record) -> None:
    at = kept.places
    for name, (breaking, _) in BROKEN.items():
        kept.asked[name] = -len(kept.ca.taken[name])
        breaking(at[name])
    until(lambda: all(at[name].read_status()["last_failure"] for name in BROKEN), "each has failed")
    for name in BROKEN:
        kept.during[name] = at[name].read_status()
        kept.asked[name] += len(kept.ca.taken[name])
    for name in BROKEN:
        if at[name].token.is_dir():
            at[name].token.rmdir()
        at[name].write_token(expires_at=time.time() + 600, mark="mended")
    all_in(at, list(BROKEN), "fresh")
    until(lambda: all(len(kept.watch.serials(name)) > 1 for name in BROKEN), "each new certificate was seen")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_token_file_costs_nothing_but_a_renewal(record: Record, name: str) -> None:
    fault = BROKEN[name][1]
    said = record.during[name]
    assert record.watch.gaps(name) == [], "mended before the old one ended"
    assert f"{said['last_failure']['kind']}/{said['last_failure']['reason']}" == fault
    assert record.asked[name] == 0, "the CA is not asked with what is not worth sending"
    assert set(record.crowd.failures(name)) == {fault}
    told = next(line for line in record.crowd.lines(name) if "fault" in line)
    whose = "the token is at fault, the CA was not asked" if fault.startswith("token") else "this machine is at fault"
    assert told["message"] == f"no renewal: {whose}"
    assert told["level"] == "warning"
    assert told["state"] == "overdue"
    assert len(record.watch.serials(name)) >= 2


def test_a_volume_swapped_all_the_time_costs_not_one_attempt(record: Record) -> None:
    assert record.crowd.failures(SWAPPED) == []
    assert len(record.written[SWAPPED]) > 100
    assert {taken.token for taken in record.ca.taken[SWAPPED]} <= record.written[SWAPPED]


def test_a_file_rewritten_in_place_is_never_sent_torn(record: Record) -> None:
    assert set(record.crowd.failures(TORN)) <= {"token/token_missing", "token/token_malformed"}
    assert record.watch.gaps(TORN) == []
    assert {taken.token for taken in record.ca.taken[TORN]} <= record.written[TORN]


def test_line_ends_after_a_token_are_not_sent(record: Record) -> None:
    assert record.crowd.failures(NEWLINE) == []
    assert {taken.token for taken in record.ca.taken[NEWLINE]} == {record.places[NEWLINE].token.read_text().strip()}
