"""What stands where an agent's socket should be, and how an agent leaves: the process's own word and exit status."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from support.agent_process import AgentFiles, AgentProcess
from support.crowd import Orders, Places, Subscriber, Watch, places, until
from support.fake_ca import FakeCa
from support.node_agent import NodeAgentProcess
from support.node_crowd import NodeCa, Workload, agent_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("failures-socket")]


def own_directory(files: AgentFiles, mode: int = 0o750) -> Path:
    files.socket.parent.mkdir()
    files.socket.parent.chmod(mode)
    return files.socket.parent


def listening(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    return server


def regular_file(files: AgentFiles) -> None:
    own_directory(files)
    files.socket.write_text("somebody's")


def dangling_symlink(files: AgentFiles) -> None:
    own_directory(files)
    files.socket.symlink_to("nowhere")


def symlink_to_a_socket(files: AgentFiles) -> None:
    listening(own_directory(files) / "other.sock").close()
    files.socket.symlink_to("other.sock")


def directory_at_the_path(files: AgentFiles) -> None:
    (own_directory(files) / files.socket.name).mkdir()


def open_directory(files: AgentFiles) -> None:
    own_directory(files, 0o777)


def group_writable_directory(files: AgentFiles) -> None:
    own_directory(files, 0o770)


def symlinked_directory(files: AgentFiles) -> None:
    real = files.directory / "real"
    real.mkdir(mode=0o750)
    files.socket.parent.symlink_to(real)


def file_as_directory(files: AgentFiles) -> None:
    files.socket.parent.write_text("")


REFUSED: dict[str, tuple[Callable[[AgentFiles], None], str]] = {
    "regular-file": (regular_file, "is something that is no socket"),
    "dangling-symlink": (dangling_symlink, "is a symbolic link"),
    "symlink-to-socket": (symlink_to_a_socket, "is a symbolic link"),
    "directory": (directory_at_the_path, "is something that is no socket"),
    "open-directory": (open_directory, "has mode 0777"),
    "group-writable": (group_writable_directory, "has mode 0770"),
    "symlinked-directory": (symlinked_directory, "is a symbolic link"),
    "file-as-directory": (file_as_directory, "is no directory"),
}
LIVE, DEAD = "live", "dead"
LONG_CALL = 60.0
"""Seconds for which an agent would wait for the CA."""


@dataclass
class Outcome:
    status: int
    log: str
    before: tuple[str, ...]
    after: tuple[str, ...]


def listing(files: AgentFiles) -> tuple[str, ...]:
    """What stands there, told by kind, mode, content and number of the file."""
    found = []
    for path in sorted([files.socket.parent, *files.socket.parent.glob("*")]):
        status = path.lstat()
        content = path.readlink() if path.is_symlink() else path.read_text() if path.is_file() else ""
        found.append(f"{path.name} {status.st_mode:o} {status.st_ino} {content}")
    return tuple(found)


def pod_process(at: Places, name: str, ca: FakeCa, log: str) -> AgentProcess:
    config = at.agent(name, ca) if name not in at.made else at[name].config(ca)
    return AgentProcess(config, at[name].directory / log)


def node_process(at: Places, name: str, ca: FakeCa, log: str) -> NodeAgentProcess:
    if name not in at.made:
        at.agent(name, ca)
    made = agent_of(ca, at[name].directory)
    made.at, made.log_name = at[name].socket, log
    return made


@pytest.fixture(scope="module", params=[pod_process, node_process], ids=["pod", "node"])
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Outcome]]:
    """Eight agents that must not start, all at once; a ninth wants the socket of one that serves."""
    make: Callable[[Places, str, FakeCa, str], AgentProcess | NodeAgentProcess] = request.param
    with places() as at, FakeCa() as ca, contextlib.ExitStack() as stack:
        agents, before = {}, {}
        for name in (*REFUSED, LIVE):
            agent = make(at, name, ca, "agent.log")
            if name in REFUSED:
                REFUSED[name][0](at[name])
            else:
                stack.enter_context(make(at, name, ca, "first.log"))
                until(at[name].socket.is_socket, "a socket")
            before[name] = listing(at[name])
            agents[name] = agent.launch()
        found = {}
        for name, agent in agents.items():
            assert agent.process is not None
            status = agent.process.wait(120)
            found[name] = Outcome(status, at[name].log.read_text(), before[name], listing(at[name]))
        asked = 1 if make is pod_process else 0
        assert len(ca.calls) == asked, "whoever must not serve does not ask for a certificate"
        yield found


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_ours_is_refused_and_left_alone(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.status == 1
    assert REFUSED[name][1] in outcome.log
    assert "Traceback" not in outcome.log
    assert outcome.after == outcome.before


def test_a_live_agents_socket_is_refused_and_the_live_one_goes_on(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[LIVE]
    assert outcome.status == 1
    assert "already listens" in outcome.log
    assert outcome.after == outcome.before


def test_a_dead_socket_is_taken_over_without_a_moment_without_one() -> None:
    with places() as at, FakeCa() as ca:
        config = at.agent(DEAD, ca)
        listening(own_directory(at[DEAD]) / "sds.sock").close()
        dead = at[DEAD].socket.stat().st_ino
        with AgentProcess(config, at[DEAD].log) as agent:
            while at[DEAD].socket.stat().st_ino == dead:  # raises were the path ever empty
                assert agent.process is not None
                assert agent.process.poll() is None
            with Watch({DEAD: at[DEAD].socket}, every=0.01) as watch:
                until(lambda: len(watch.of(DEAD)) > 5, "looks")
            assert [look for look in watch.of(DEAD) if not look.valid] == [], "who finds the socket finds a server"


def test_sigterm_ends_streams_with_ok_while_a_renewal_hangs_and_leaves_no_socket() -> None:
    with (
        places() as at,
        FakeCa(life=4) as ca,
        AgentProcess(at.agent("a", ca, call_seconds=LONG_CALL), at["a"].log) as agent,
    ):
        until(at["a"].socket.is_socket, "a socket")
        with contextlib.ExitStack() as stack:
            subscribers = [stack.enter_context(Subscriber(at["a"].socket)) for _ in range(3)]
            until(lambda: all(subscriber.pushed for subscriber in subscribers), "the secret")
            ca.hang.clear()
            ca.wait_for_calls(2)
            began = time.monotonic()
            assert agent.stop() == 0
            assert time.monotonic() - began < LONG_CALL / 3, "the call under way is not waited for"
            until(lambda: all(subscriber.status for subscriber in subscribers), "ends")
            assert {subscriber.status for subscriber in subscribers} == {grpc.StatusCode.OK}
        assert list(at["a"].socket.parent.iterdir()) == []
        assert "Traceback" not in at["a"].log.read_text()


def test_node_a_dead_socket_is_taken_over() -> None:
    with places() as at, NodeCa() as ca:
        first = node_process(at, DEAD, ca, "first.log").start()
        first.kill()
        dead = at[DEAD].socket.stat().st_ino
        with node_process(at, DEAD, ca, "agent.log") as agent:
            until(lambda: at[DEAD].socket.stat().st_ino != dead, "another socket")  # raises were the path ever empty
            with Workload(agent, "a") as workload:
                until(lambda: workload.leaves, "who finds the socket finds a server")


def test_node_sigterm_ends_streams_with_ok_while_renewals_hang_and_leaves_no_socket() -> None:
    """One who waits for the CA since before any certificate is told to come back: it was given nothing."""
    with places() as at, NodeCa(life=4) as ca, contextlib.ExitStack() as running:
        agent = node_process(at, "n", ca, "agent.log")
        agent.options = ("--ca-timeout", str(int(LONG_CALL)))
        running.enter_context(agent)
        with contextlib.ExitStack() as stack:
            workloads = [stack.enter_context(Workload(agent, name)) for name in ("a", "b", "c")]
            until(lambda: all(one.leaves for one in workloads), "the secrets")
            ca.orders = {name: Orders(hangs=True) for name in ("a", "b", "c", "new")}
            new = stack.enter_context(Workload(agent, "new"))
            until(
                lambda: "new" in ca.taken and sum(map(len, ca.taken.values())) >= 5, "a newcomer and a renewal are here"
            )
            began = time.monotonic()
            assert agent.stop() == 0
            assert time.monotonic() - began < LONG_CALL / 3, "the call under way is not waited for"
            until(lambda: all(one.endings for one in (*workloads, new)), "ends")
            assert [one.endings[0] for one in workloads] == [grpc.StatusCode.OK] * 3
            assert new.endings[0] is grpc.StatusCode.UNAVAILABLE
            assert new.leaves == []
        assert list(at["n"].socket.parent.iterdir()) == []
        assert agent.tracebacks() == []
