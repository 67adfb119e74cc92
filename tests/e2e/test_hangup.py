"""SIGHUP, as docs/agent-running.md has it: the end of the terminal drains, `systemctl reload` ends nothing."""

from __future__ import annotations

import contextlib
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki.ca.audit.record import RecordKind
from meshpki.ca.audit.verify import tail
from meshpki_local import control
from support import local_supervisor
from support.agent_process import AgentFiles
from support.authority import make_authority
from support.ca_server import CONFIG, SERVE, SERVER_NAME, make_config
from support.command_line import COMMAND
from support.crowd import Subscriber, places, until
from support.fake_ca import SERVER_NAME as FAKE_NAME
from support.fake_ca import FakeCa
from support.terminal import Started
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = pytest.mark.e2e


@dataclass
class Program:
    """One that serves: how to start it, what it says once it does, and how to see that it left in good order."""

    argv: Sequence[str]
    says: str
    drained: Callable[[], object]
    looks: str
    """What it says when it is told to look."""
    cwd: Path | None = None
    files: AgentFiles | None = None


def agent(ca: FakeCa, files: AgentFiles, *options: str) -> Program:
    argv = [*COMMAND, "agent", "run", "--ca-address", ca.address, "--ca-roots", str(files.roots)]
    argv += ["--ca-server-name", FAKE_NAME, "--sds-socket", str(files.socket), *options]
    gone = lambda: not files.socket.exists()  # noqa: E731
    return Program(argv, "the socket is served", gone, "are looked at now", files=files)


@contextlib.contextmanager
def pod(directory: Path) -> Iterator[Program]:
    with places() as at, FakeCa() as ca:
        at.agent("a", ca)
        yield agent(ca, at["a"], "--token-file", str(at["a"].token))


@contextlib.contextmanager
def node(directory: Path) -> Iterator[Program]:
    with places() as at, FakeCa() as ca:
        at.agent("a", ca)
        yield agent(ca, at["a"], "--node")


def ca_file(directory: Path) -> Path:
    maker = TokenMaker()
    make_config(directory, maker, authority=make_authority())
    path = directory / "ca.yaml"
    path.write_text(CONFIG.format(name=SERVER_NAME, issuer=maker.issuer, jwks="{file: jwks-0.json}"))
    return path


@contextlib.contextmanager
def ca_server(directory: Path) -> Iterator[Program]:
    ca_file(directory)
    log = directory / "audit/issuance.jsonl"
    stopped = lambda: tail(log, 1)[0].record.kind is RecordKind.STOPPED  # noqa: E731
    yield Program(SERVE, "the CA serves", stopped, "the configuration is the one it runs by", cwd=directory)


@contextlib.contextmanager
def supervisor(directory: Path) -> Iterator[Program]:
    with local_supervisor.short_directory() as state:
        layout = local_supervisor.prepare(state, {"ca": local_supervisor.SLEEPER})
        argv = [sys.executable, "-P", local_supervisor.__file__, str(state)]
        gone = lambda: not local_supervisor.pids(layout) and not layout.run_file.exists()  # noqa: E731
        yield Program(argv, "supervisor started", gone, "configuration read", cwd=None)


PROGRAMS = {"pod": pod, "node": node, "ca": ca_server, "run": supervisor}


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    with PROGRAMS[request.param](tmp_path) as made:
        yield made


def test_a_terminal_that_closes_ends_it_in_good_order(program: Program) -> None:
    """Its log stood on that terminal, too: that there is nowhere to write to keeps it from nothing."""
    with Started(program.argv, terminal=True, cwd=program.cwd) as started:
        started.wait_for(program.says)
        started.close()
        assert started.process.wait(60) == 0
        assert program.drained()


def test_without_a_terminal_it_looks_and_goes_on(program: Program) -> None:
    with Started(program.argv, terminal=False, cwd=program.cwd) as started:
        started.wait_for(program.says)
        for _ in range(2):
            started.said = ""
            started.process.send_signal(signal.SIGHUP)
            started.wait_for(program.looks)
        assert not program.drained()
        assert started.end() == 0
        assert program.drained()


def test_behind_nohup_it_heeds_none(program: Program) -> None:
    with Started(program.argv, terminal=True, ignoring=True, cwd=program.cwd) as started:
        started.wait_for(program.says)
        started.close()
        assert ignores_hangups(started.process.pid)
        assert started.end() == 0
        assert program.drained()


def ignores_hangups(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [line.split()[1] for line in status if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> (signal.SIGHUP - 1) & 1)


def test_streams_end_with_ok_when_the_terminal_closes(tmp_path: Path) -> None:
    with pod(tmp_path) as program, Started(program.argv, terminal=True) as started:
        started.wait_for(program.says)
        assert program.files is not None
        with Subscriber(program.files.socket) as subscriber:
            until(lambda: subscriber.pushed, "the secret")
            started.close()
            assert started.process.wait(60) == 0
            until(lambda: subscriber.status, "the end")
            assert subscriber.status is not None
            assert subscriber.status.name == "OK"


def test_a_ca_says_whether_a_restart_would_read_something_else(tmp_path: Path) -> None:
    path = ca_file(tmp_path)
    good = path.read_text()
    with Started(SERVE, terminal=False, cwd=tmp_path) as started:
        started.wait_for("the CA serves")
        for content, words in (
            (good.replace("trust_domain: mesh.local", "trust_domain: mesh.other"), "the configuration has changed"),
            ("{", "cannot be read"),
            (good, "the configuration is the one it runs by"),
        ):
            path.write_text(content)
            started.process.send_signal(signal.SIGHUP)
            started.wait_for(words)
        assert started.end() == 0


def test_a_word_to_look_ends_nobody_who_is_still_loading(tmp_path: Path) -> None:
    """Once it is known that the command serves; whatever it is about to load stands still meanwhile."""
    script = """
import signal, sys
from meshpki.runtime import logs
before = logs.quiet_grpc
def halted():
    signal.raise_signal(signal.SIGHUP)
    print("still there", flush=True)
    before()
logs.quiet_grpc = halted
from meshpki_cli.entry import main
main()
"""
    ca_file(tmp_path)
    with Started([sys.executable, "-P", "-c", script, *SERVE[3:]], terminal=False, cwd=tmp_path) as started:
        started.wait_for("still there")
        started.wait_for("the CA serves")
        assert started.end() == 0


def test_a_supervisor_on_a_terminal_is_told_to_look_without_ending_it(tmp_path: Path) -> None:
    with local_supervisor.short_directory() as state:
        layout = local_supervisor.prepare(state, {})
        with Started([sys.executable, "-P", local_supervisor.__file__, str(state)], terminal=True) as started:
            local_supervisor.until(lambda: control.record(layout) is not None, "it has read what to run")
            assert control.reload(layout)
            started.wait_for("configuration read")
            assert started.end() == 0
