"""The supervisor as a real process over stand-in children: killed, nudged, stopped, and never doubled."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import MachineError, UsageError
from meshpki_local import control, issuer_key, processes, single, token_files
from meshpki_local.layout import Layout
from meshpki_local.supervisor import supervise
from support import local_supervisor as support
from support.local_supervisor import (
    BOUND,
    DIES,
    SLEEPER,
    STUBBORN,
    WEB,
    kill,
    pids,
    prepare,
    record,
    running,
    until,
    wish,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e


@pytest.fixture
def in_this_process() -> Iterator[None]:
    """For `supervise` called here: the tests after this one are to find the umask that they are used to."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture
def state() -> Iterator[Path]:
    with support.short_directory() as path:
        yield path


def test_a_killed_child_comes_back_and_no_other_is_touched(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER, "agent-a": SLEEPER, "agent-b": SLEEPER})
    with running(layout):
        until(lambda: len(pids(layout)) == 3, "all run")
        before = pids(layout)
        kill(before["agent-a"])
        until(lambda: pids(layout).get("agent-a", before["agent-a"]) != before["agent-a"], "it is back")
        after = pids(layout)
        assert {name: pid for name, pid in after.items() if before[name] == pid}.keys() == {"ca", "agent-b"}
        until(lambda: record(layout).children[0].restarts == 1, "the restart is told")
        assert record(layout).children[0].reason == "killed by SIGKILL"


def test_children_outlive_a_killed_supervisor_and_are_adopted(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER, "agent-a": SLEEPER})
    with running(layout) as first:
        until(lambda: len(pids(layout)) == 2, "all run")
        before = pids(layout)
        kill(before["agent-a"])
        until(lambda: any(child.restarts == 1 for child in record(layout).children), "a restart to remember")
        before = pids(layout)
        first.kill()
        first.wait(BOUND)
    assert pids(layout) == before
    with running(layout):
        until(lambda: len(record(layout).children) == 2, "adopted")
        assert {child.name: child.pid for child in record(layout).children} == before
        assert {child.name: child.restarts for child in record(layout).children} == {"agent-a": 1, "ca": 0}
        kill(before["ca"])  # No child of this supervisor, and noticed all the same.
        until(lambda: pids(layout).get("ca", before["ca"]) != before["ca"], "an adopted child comes back")
        assert pids(layout)["agent-a"] == before["agent-a"]
    control.stop(layout)


def test_adoption_needs_no_run_file(state: Path) -> None:
    """Killed after a child was started and before that was written down."""
    layout = prepare(state, {"ca": SLEEPER})
    with running(layout):
        until(lambda: len(pids(layout)) == 1, "it runs")
        before = pids(layout)
    layout.run_file.unlink()
    with running(layout):
        until(lambda: len(record(layout).children) == 1, "adopted")
        assert pids(layout) == before


def test_a_reused_pid_is_not_adopted(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER})
    with running(layout):
        until(lambda: len(record(layout).children) == 1, "it runs")
    said = json.loads(layout.run_file.read_text())
    control.stop(layout)
    bystander = subprocess.Popen([sys.executable, "-c", SLEEPER])
    try:
        said["children"][0]["pid"] = bystander.pid
        layout.run.mkdir(mode=0o700, exist_ok=True)
        layout.run_file.write_text(json.dumps(said))
        with running(layout) as supervisor:
            until(lambda: len(record(layout).children) == 1, "a new one runs")
            assert record(layout).children[0].pid != bystander.pid
            supervisor.send_signal(signal.SIGTERM)
            supervisor.wait(BOUND)
        assert bystander.poll() is None, "somebody else's process is left alone"
    finally:
        bystander.kill()
        bystander.wait()


def test_the_surplus_of_two_is_ended(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER})
    environment = {**os.environ, processes.MARK: processes.mark("ca", "old", state)}
    strays = [subprocess.Popen([sys.executable, "-c", SLEEPER], env=environment) for _ in range(2)]
    until(lambda: len(processes.find(state)) == 2, "two strays")
    with running(layout):
        for stray in strays:  # One as surplus, one because it is not what is wanted.
            assert stray.wait(BOUND) == -signal.SIGTERM
        until(lambda: len(pids(layout)) == 1, "one remains")
        assert pids(layout)["ca"] not in {stray.pid for stray in strays}


def test_what_dies_at_once_is_tried_ever_later_and_the_reason_is_told(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER, "agent-a": DIES})
    with running(layout):
        until(lambda: record(layout).children[0].failures >= 3, "three failures")
        child = record(layout).children[0]
        assert (child.name, child.reason) == ("agent-a", "exit status 7")
        until(lambda: record(layout).children[0].phase == "waiting", "it waits")


def test_a_change_restarts_only_what_changed(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER, "agent-a": SLEEPER, "agent-b": SLEEPER})
    with running(layout):
        until(lambda: len(pids(layout)) == 3, "all run")
        before = pids(layout)
        wish(layout, {"ca": SLEEPER, "agent-b": f"{SLEEPER} # changed", "agent-c": SLEEPER})
        assert control.reload(layout)
        until(lambda: set(pids(layout)) == {"ca", "agent-b", "agent-c"}, "the new set")
        until(lambda: pids(layout).get("agent-b") not in {None, before["agent-b"]}, "the changed one anew")
        assert pids(layout)["ca"] == before["ca"]


def test_a_changed_file_is_noticed_without_a_signal(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER})
    with running(layout):
        wish(layout, {"ca": SLEEPER, "agent-a": SLEEPER})
        until(lambda: set(pids(layout)) == {"ca", "agent-a"}, "the new set")


def test_a_broken_file_changes_nothing_but_is_told(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER})
    with running(layout):
        until(lambda: len(pids(layout)) == 1, "it runs")
        before, good = pids(layout), layout.installation.read_bytes()
        layout.installation.write_bytes(b"{")
        until(lambda: record(layout).problems, "told")
        assert pids(layout) == before
        layout.installation.write_bytes(good)
        until(lambda: not record(layout).problems, "forgotten")


def test_a_file_that_was_away_and_came_back_is_no_problem_any_more(state: Path) -> None:
    """The same file, with the same inode and times: nothing of it tells that it was away."""
    layout = prepare(state, {"ca": SLEEPER})
    with running(layout):
        until(lambda: len(pids(layout)) == 1, "it runs")
        before = pids(layout)
        layout.installation.rename(state / "aside")
        until(lambda: record(layout).problems, "told")
        (state / "aside").rename(layout.installation)
        until(lambda: not record(layout).problems, "forgotten")
        assert pids(layout) == before
    said = [json.loads(line)["message"] for line in layout.log("supervisor").read_text().splitlines()]
    assert said.count("configuration not read, the old one stays") == 1


def test_sigterm_ends_everything_agents_before_the_ca(state: Path) -> None:
    note = "import signal, sys, time, pathlib\n"
    note += "def end(*_):\n time.sleep({pause})\n open({path!r}, 'a').write({name!r} + '\\n')\n sys.exit()\n"
    note += "signal.signal(signal.SIGTERM, end)\npathlib.Path({path!r} + {name!r}).touch()\ntime.sleep(600)"
    path = str(state / "order")
    children = {name: note.format(pause=pause, path=path, name=name) for name, pause in (("ca", 0), ("agent-a", 0.5))}
    layout = prepare(state, children)
    with running(layout) as supervisor:
        until(lambda: all(Path(path + name).exists() for name in children), "all have set their handlers")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(BOUND) == 0
    assert (state / "order").read_text().split() == ["agent-a", "ca"]
    assert pids(layout) == {}
    assert not layout.run_file.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stubborn_child_is_killed_after_its_bound(state: Path, number: signal.Signals) -> None:
    deaf = state / "deaf"
    source = STUBBORN.replace("time.sleep", f"open({str(deaf)!r}, 'w'); time.sleep")
    layout = prepare(state, {"ca": SLEEPER, "agent-a": source})
    with running(layout) as supervisor:
        until(lambda: len(pids(layout)) == 2 and deaf.exists(), "all run")
        supervisor.send_signal(number)
        assert supervisor.wait(BOUND) == 0
    assert pids(layout) == {}


@pytest.mark.usefixtures("in_this_process")
def test_a_nudge_is_borne_for_as_long_as_the_lock_names_the_supervisor(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`provision` sends SIGHUP to whoever is named there: one that does not listen yet, or no more, would die of it."""
    layout = prepare(state, {})
    deaf: list[bool] = []
    sign, close = single._sign, os.close

    def look() -> None:
        deaf.append(signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)

    def signing(descriptor: int) -> None:
        sign(descriptor)
        look()

        def closing(number: int) -> None:
            if number == descriptor:
                look()
            close(number)

        monkeypatch.setattr(os, "close", closing)

    def begun() -> None:
        raise InterruptedError

    monkeypatch.setattr(single, "_sign", signing)
    with pytest.raises(InterruptedError):
        supervise(layout, begun)
    assert deaf == [False, False], "when the name is written, and when it goes"


@pytest.mark.usefixtures("in_this_process")
def test_a_second_supervisor_is_refused_and_names_the_first(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER})
    with running(layout) as first:
        with pytest.raises(MachineError, match=f"pid {first.pid} "):
            supervise(layout)
        assert control.running(layout) == processes.refer(first.pid)


def test_only_looking_never_disturbs_a_start(state: Path) -> None:
    layout = prepare(state, {})
    layout.run.mkdir(mode=0o700)
    assert single.holder(layout.lock) is None
    with single.only_supervisor(layout.lock):
        assert single.holder(layout.lock) == processes.refer(os.getpid())
    assert single.holder(layout.lock) is None


def test_a_lock_that_is_a_link_is_refused(state: Path) -> None:
    layout = prepare(state, {})
    layout.run.mkdir(mode=0o700)
    layout.lock.symlink_to(state / "elsewhere")
    with pytest.raises(MachineError, match="symbolic link"), single.only_supervisor(layout.lock):
        pass
    assert not (state / "elsewhere").exists()


def test_nothing_provisioned_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="provision --platform local"):
        supervise(Layout(tmp_path))


def test_tokens_are_written_and_written_again_when_lost(state: Path) -> None:
    layout = prepare(state, {})
    path, kid = layout.workload(WEB).token, issuer_key.load(layout.token_key).kid
    with running(layout):
        until(path.exists, "a token")
        assert path.stat().st_mode & 0o777 == 0o600
        seen = token_files.read_seen(path.read_bytes())
        assert seen is not None
        assert (seen.kid, seen.subject) == (kid, WEB.subject)
        path.write_text("not a token")
        control.reload(layout)
        until(lambda: token_files.read_seen(path.read_bytes()), "written again")


def test_a_token_that_cannot_be_written_is_told_and_tried_again(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER})
    directory = layout.workload(WEB).directory
    directory.rmdir()
    directory.write_text("in the way")
    with running(layout):
        until(lambda: record(layout).problems, "told")
        assert "default/web" in record(layout).problems[0]
        directory.unlink()
        directory.mkdir(mode=0o700)
        until(lambda: not record(layout).problems, "done")
        assert layout.workload(WEB).token.exists()


def test_no_secret_of_our_environment_reaches_a_child(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    monkeypatch.setenv("https_proxy", "http://user:canary-secret@proxy")
    layout = prepare(state, {"ca": SLEEPER})
    with running(layout):
        until(lambda: len(pids(layout)) == 1, "it runs")
        environment = Path(f"/proc/{pids(layout)['ca']}/environ").read_bytes()
        assert processes.MARK.encode() in environment
        assert b"canary" not in environment


def test_the_supervisor_hands_no_descriptor_on(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER})
    with running(layout):
        until(lambda: len(pids(layout)) == 1, "it runs")
        open_files = Path(f"/proc/{pids(layout)['ca']}/fd")
        own = {"0": "/dev/null", "1": str(layout.log("ca")), "2": str(layout.log("ca"))}

        def targets() -> dict[str, str]:
            with contextlib.suppress(FileNotFoundError):  # It still imports, and closes what we were about to read.
                return {entry.name: str(entry.readlink()) for entry in open_files.iterdir()}
            return {}

        until(lambda: targets() == own, "it has nothing else open once it has come up")
