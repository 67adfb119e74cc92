"""Open files run out, or nearly: agents as processes with a low limit, and strangers who hold connections to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.connections import affordable
from meshpki.agent.socket.server import LIMITS, SocketServer
from meshpki.agent.socket.sessions import OneIdentity
from support.agent_process import AgentProcess, fake_token
from support.crowd import ScriptedCa, Subscriber, look_once, places, until
from support.fake_ca import SERVER_NAME
from support.node_agent import NodeAgentProcess, Stream, leaf_of, links_of, with_token

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("failures-open-files")]

SOFT, HARD = 48, 96
STRANGERS = 2 * HARD
LIFE = 8.0


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def settled(pid: int) -> int:
    """How many there are when there have been as many for a second: gRPC closes some of a call's a moment after it."""
    seen, since = descriptors(pid), time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        now = descriptors(pid)
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > 1

    until(still, "as many descriptors for a second")
    return seen


def calls_of(pid: int, ca: ScriptedCa) -> int:
    """Connections of that process to the CA, by the kernel's word."""
    port = f":{int(ca.address.rpartition(':')[2]):04X}"
    own = set(links_of(pid))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()]
    return sum(row[2].endswith(port) and f"socket:[{row[9]}]" in own for row in rows)


def lines(log: Path) -> list[dict[str, Any]]:  # Any: JSON, looked at in assertions
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]


def failures(log: Path) -> list[str]:
    """Of renewals; whether the CA heard of the roots is told at debug level."""
    return [f"{line['fault']}/{line['reason']}" for line in lines(log) if "fault" in line and line["level"] != "debug"]


@contextlib.contextmanager
def strangers(path: Path) -> Iterator[list[socket.socket]]:
    """Connections that say nothing, more than there are files."""
    with ExitStack() as stack:
        clients = []
        for _ in range(STRANGERS):
            client = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
            client.connect(str(path))
            client.setblocking(False)
            clients.append(client)
        yield clients


def is_open(client: socket.socket) -> bool:
    try:
        return client.recv(4096) != b""  # the server's SETTINGS
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


@pytest.fixture
def ca() -> Iterator[ScriptedCa]:
    with ScriptedCa(life=LIFE) as made:
        yield made


@pytest.fixture
def node(short_dir: Path, ca: ScriptedCa) -> Iterator[NodeAgentProcess]:
    made = NodeAgentProcess(short_dir, ca.address, SERVER_NAME, log_level="info")
    made.open_files = (SOFT, HARD)
    made.roots.write_bytes(ca.authority.roots_pem)
    with made:
        yield made


def stream(node: NodeAgentProcess, mark: str) -> Stream:
    return Stream(node.socket, with_token(fake_token(expires_at=time.time() + 3600, mark=mark)), "default")


def served(one: Stream) -> int:
    return leaf_of(one.secrets()["default"]).serial_number


def comes_in(node: NodeAgentProcess) -> bool:
    """Whether somebody new is served; tries once, as Envoy does again and again."""
    with stream(node, "c") as one, contextlib.suppress(grpc.RpcError):
        return served(one) > 0
    return False


def test_node_strangers_take_no_file_that_a_renewal_needs(node: NodeAgentProcess) -> None:
    assert node.process is not None
    pid = node.process.pid
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (HARD, HARD), "raised as far as allowed"
    with stream(node, "a") as a, stream(node, "b") as b:
        first = [served(a), served(b)]
        with strangers(node.socket) as clients:
            until(lambda: not all(map(is_open, clients)), "more are not taken")
            second = [served(a), served(b)]
            assert any(map(is_open, clients)), "they are still there"
            assert descriptors(pid) < HARD - 8
        until(lambda: comes_in(node), "somebody new is served, once the agent has seen the strangers leave")
    assert len({*first, *second}) == 4
    assert failures(node.log) == []
    assert node.process.poll() is None
    (said,) = [line for line in lines(node.log) if line["level"] == "warning"]
    assert said["message"] == "fewer connections than workloads may want: each takes an open file"
    assert said["open_files"] == HARD


def test_node_without_a_file_left_says_so_goes_on_serving_and_comes_back(
    node: NodeAgentProcess, ca: ScriptedCa
) -> None:
    """The limit is taken away from the running process: no reserve helps against that."""
    assert node.process is not None
    pid = node.process.pid
    with stream(node, "a") as a:
        first = served(a)
        until(lambda: not calls_of(pid, ca), "no call to the CA")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (settled(pid) + 2, HARD))
        until(lambda: failures(node.log), "a renewal that could not be made")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (HARD, HARD))
        assert served(a) != first, "the same stream has the next certificate"
    assert set(failures(node.log)) == {"machine/open_files"}
    said = next(line for line in lines(node.log) if "fault" in line)
    assert (said["message"], said["state"]) == ("no renewal: this machine is at fault", "overdue")
    assert "Too many open files; this process may have" in said["seen"]
    assert "RLIMIT_NOFILE" in said["seen"]
    assert "ulimit -n" in said["todo"]
    assert node.process.poll() is None


def test_pod_strangers_take_no_file_that_a_renewal_needs(ca: ScriptedCa) -> None:
    with places() as at:
        config = at.agent("one", ca)
        with AgentProcess(config, at["one"].log, open_files=(SOFT, HARD)) as agent:
            until(at["one"].socket.is_socket, "a socket")
            with Subscriber(at["one"].socket) as subscriber:
                until(lambda: subscriber.pushed, "the secret")
                with strangers(at["one"].socket) as clients:
                    until(lambda: not all(map(is_open, clients)), "more are not taken")
                    until(lambda: len(subscriber.pushed) > 1, "a renewal")
                    assert any(map(is_open, clients)), "they are still there"
                until(lambda: look_once(at["one"].socket).valid, "somebody new is served")
                assert subscriber.status is None
            assert agent.process is not None
            assert agent.process.poll() is None
            assert failures(at["one"].log) == []


@pytest.mark.parametrize(
    ("wanted", "files", "calls", "share"),
    [(512, 1024, 1, 512), (4096, 1024, 16, 896), (512, 64, 16, 32), (4096, 1_048_576, 16, 4096)],
    ids=["pod", "node", "few", "many"],
)
def test_how_many_connections_a_limit_allows(wanted: int, files: int, calls: int, share: int) -> None:
    assert affordable(wanted, files, calls) == share


def test_each_connection_is_one_file_and_nothing_else_grows(node: NodeAgentProcess, ca: ScriptedCa) -> None:
    ca.life = 3600
    assert node.process is not None
    pid = node.process.pid
    with ExitStack() as stack:
        served(stack.enter_context(stream(node, "first")))
        until(lambda: not calls_of(pid, ca), "no call to the CA")
        before = settled(pid)
        for number in range(10):
            served(stack.enter_context(stream(node, str(number))))
        until(lambda: descriptors(pid) == before + 10, lambda: f"{descriptors(pid)} from {before}")
    until(lambda: descriptors(pid) == before - 1, lambda: f"{descriptors(pid)} from {before}")


_CALL = """
import asyncio, os, resource, sys
from pathlib import Path
from meshpki.agent.renewal.ca_client import CaClient
from meshpki.agent.renewal.credential import TokenCredential
from meshpki.agent.renewal.roots_file import RootsFile
from meshpki.runtime.open_files import OpenFilesError
from meshpki.runtime.watch import Watcher

async def main():
    roots = RootsFile(Path(sys.argv[1]), Watcher())
    roots.reload()
    client = CaClient("127.0.0.1:1", "ca.test", roots)
    here = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 2, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        await client.sign("csr", TokenCredential("a.b.c"), 60)
    except OpenFilesError as error:
        print(error)

asyncio.run(main())
"""


def test_a_first_call_without_files_does_not_end_the_process(short_dir: Path, ca: ScriptedCa) -> None:
    """In gRPC itself a missing epoll descriptor is fatal."""
    roots = short_dir / "roots.pem"
    roots.write_bytes(ca.authority.roots_pem)
    done = subprocess.run([sys.executable, "-c", _CALL, str(roots)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("could not call the CA: Too many open files; this process may have ")


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\0\x04\x01\0\0\0\0"
"""All that an HTTP/2 client has to say before it asks anything: its settings, and that it has seen the server's."""


@pytest.mark.parametrize(
    ("option", "usual", "says"),
    [("greeting", 10.0, b""), ("greeting", 10.0, PREFACE[:30]), ("idle", 120.0, PREFACE)],
    ids=["says-nothing", "says-half", "asks-nothing"],
)
def test_who_says_or_asks_nothing_is_closed_after_a_while(
    short_dir: Path, option: str, usual: float, says: bytes
) -> None:
    assert getattr(LIMITS, option) == usual
    limits = replace(replace(LIMITS, greeting=20.0, idle=20.0), **{option: 0.2})  # type: ignore[arg-type]  # seconds
    path = short_dir / "s.sock"

    async def scene() -> None:
        server = SocketServer(path, OneIdentity(Feed()), sds_methods(), limits=limits)
        await server.start()
        try:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(says)
            async with asyncio.timeout(10):
                await reader.read()
            writer.close()
        finally:
            await server.stop()

    asyncio.run(scene())
