"""Real Envoys on one node socket, each with its own token file, and a real CA: nobody gets what is another's."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from meshpki.agent.socket.connections import for_node
from meshpki.ca.config_values import HostPort
from meshpki.ca.server.ca_server import CaServer
from meshpki.errors import UnavailableError
from meshpki.tokens.encoding import MAX_TOKEN_BYTES
from meshpki_demo.app import EchoApp
from meshpki_demo.bootstrap import NodeSecrets, client_bootstrap, server_bootstrap
from meshpki_demo.envoy import Envoy
from meshpki_demo.traffic import Traffic, ask
from support import ca_server
from support.agent_process import wait_until
from support.node_agent import NodeAgentProcess, links_of, put_token
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.ca_server import RunningCa

pytestmark = pytest.mark.e2e

CLIENT = "spiffe://mesh.local/ns/default/sa/client"
SERVER = "spiffe://mesh.local/ns/default/sa/server"


@dataclass
class Node:
    ca: RunningCa
    agent: NodeAgentProcess
    app: EchoApp
    directory: Path

    def token(self, name: str, *, lifetime: int = 3600) -> bytes:
        return self.ca.maker.token(now=time.time(), name=name, pod=f"{name}-0", lifetime=lifetime)

    def secrets(self, name: str) -> NodeSecrets:
        return NodeSecrets(self.agent.socket, self.directory / f"{name}.token")

    def give_token(self, name: str, *, lifetime: int = 3600) -> None:
        put_token(self.secrets(name).token, self.token(name, lifetime=lifetime))

    def server_envoy(self, *, wait: bool = True) -> Envoy:
        where = self.directory / "es"
        admin, secrets = Envoy.admin_path(where), self.secrets("server")
        bootstrap = server_bootstrap(node="server", admin=admin, secrets=secrets, peer=CLIENT, app=self.app.address)
        return Envoy.start(where, bootstrap, wait=wait)

    def client_envoy(self, server: Envoy, *, secrets: NodeSecrets | None = None, wait: bool = True) -> Envoy:
        where = self.directory / ("ec" if secrets is None else "ex")
        bootstrap = client_bootstrap(
            node="client",
            admin=Envoy.admin_path(where),
            secrets=secrets or self.secrets("client"),
            peer=SERVER,
            upstream=server.listener(),
        )
        return Envoy.start(where, bootstrap, wait=wait)

    @contextlib.contextmanager
    def envoys(self) -> Iterator[tuple[Envoy, Envoy]]:
        with self.server_envoy() as server, self.client_envoy(server) as client:
            yield server, client


@pytest.fixture
def node(short_dir: Path, tmp_path: Path) -> Iterator[Node]:
    with ca_server.running(tmp_path) as ca, EchoApp() as app:
        agent = NodeAgentProcess(short_dir, ca.server.address)
        agent.roots.write_bytes(ca.authority.root_pem)
        made = Node(ca, agent, app, short_dir)
        for name in ("client", "server"):
            made.give_token(name)
        try:
            yield made
        finally:
            if agent.process is not None:
                agent.stop()


def sockets(agent: NodeAgentProcess) -> int:
    assert agent.process is not None
    return sum(link.startswith("socket:") for link in links_of(agent.process.pid))


def test_an_envoy_has_as_many_connections_as_room_is_kept_for(node: Node) -> None:
    """One for each of its two secrets. Those of the agent to the CA are over a moment after it is live."""
    with node.agent:
        before = sockets(node.agent)
        with node.server_envoy():
            wait_until(lambda: sockets(node.agent) - before == for_node(1000) // 1000, "two more sockets")


def test_two_workloads_on_one_socket_each_get_their_own(node: Node) -> None:
    with node.agent, node.envoys() as (server, client):
        reply = ask(client.listener())
        assert (reply.caller, reply.server, reply.tls) == (CLIENT, SERVER, "TLSv1.3")
        assert client.serials() != server.serials()
        wait_until(lambda: len(node.agent.status().get("identities", [])) == 2, "both in the status")
        held = {one["spiffe_id"]: (one["serial"],) for one in node.agent.status()["identities"]}
        assert held == {CLIENT: client.serials(), SERVER: server.serials()}


def test_an_expiring_token_is_exchanged_by_reconnecting_and_no_request_fails(node: Node) -> None:
    """Tokens of 24 s, each in place for half of that; certificates of 20 s. Each stream's token is soon spent."""
    node.agent.ttl = "20s"
    stop = threading.Event()

    def kubelet() -> None:
        while not stop.wait(12):
            for name in ("client", "server"):
                node.give_token(name, lifetime=24)

    for name in ("client", "server"):
        node.give_token(name, lifetime=24)
    thread = threading.Thread(target=kubelet)
    with node.agent:
        thread.start()
        try:
            with node.envoys() as (_, client), Traffic(client.listener()) as traffic:
                wait_until(lambda: len(traffic.tally.serials) >= 4, "four certificates at work")
                wait_until(lambda: asked_back(node) >= 4, "tokens exchanged on both sides")
                traffic.wait_sent(50)
        finally:
            stop.set()
            thread.join()
    assert traffic.tally.failed == 0, traffic.tally.failures
    assert "Traceback" not in node.agent.log.read_text()


def test_the_longest_token_there_can_be(node: Node) -> None:
    """By its own limits gRPC lets such a one through by chance."""

    def padded(size: int) -> bytes:
        return node.ca.maker.token(now=time.time(), name="server", pod="server-0", padding="x" * size)

    size = bisect.bisect_right(range(MAX_TOKEN_BYTES), MAX_TOKEN_BYTES, key=lambda size: len(padded(size))) - 1
    assert MAX_TOKEN_BYTES - 2 <= len(padded(size)) <= MAX_TOKEN_BYTES
    put_token(node.secrets("server").token, padded(size))
    with node.agent, node.server_envoy() as server:
        assert len(server.serials()) == 1


def asked_back(node: Node) -> int:
    return node.agent.log.read_text().count("asked to come back")


def test_a_third_that_would_be_one_of_them_gets_nothing_until_it_has_a_token_of_its_own(node: Node) -> None:
    """It has a token with the client's very claims, signed by its own key; later, one that the cluster gave to it."""
    mallory = NodeSecrets(node.agent.socket, node.directory / "mallory.token")
    stranger = TokenMaker(slot=7)
    put_token(mallory.token, stranger.token(now=time.time(), name="client", pod="client-0"))
    with node.agent, node.envoys() as (server, client):
        assert ask(client.listener()).caller == CLIENT
        with node.client_envoy(server, secrets=mallory, wait=False) as envoy:
            wait_until(lambda: node.agent.log.read_text().count("token_bad_signature") >= 2, "refused more than once")
            assert envoy.serials() == ()
            put_token(mallory.token, node.token("mallory"))
            envoy.wait_live(100)  # Envoy's own retries are up to half a minute apart
            assert len(envoy.serials()) == 1
            assert set(envoy.serials()).isdisjoint((*client.serials(), *server.serials()))
            with pytest.raises(UnavailableError):  # it is mallory now, and the server lets only the client in
                ask(envoy.listener())
        assert ask(client.listener()).caller == CLIENT


def test_with_its_own_token_nobody_gets_anothers_name(node: Node) -> None:
    put_token(node.directory / "mallory.token", node.token("mallory"))
    theft = NodeSecrets(node.agent.socket, node.directory / "mallory.token", certificate=CLIENT)
    with node.agent, node.envoys() as (server, client), node.client_envoy(server, secrets=theft, wait=False) as envoy:
        wait_until(lambda: len(node.agent.status().get("identities", [])) == 3, "its own identity is there")
        wait_until(lambda: CLIENT in unknown_names(node), "the name it asks for is not")
        assert ask(client.listener()).caller == CLIENT
        assert envoy.serials() == ()


def unknown_names(node: Node) -> str:
    return "".join(line for line in node.agent.log.read_text().splitlines() if "does not have" in line)


@pytest.mark.parametrize("agent_first", [True, False])
def test_start_order_does_not_matter(node: Node, agent_first: bool) -> None:
    if agent_first:
        node.agent.start()
    with node.server_envoy(wait=False) as server:
        if not agent_first:
            time.sleep(1.5)  # Envoy has failed to connect at least once
            node.agent.start()
        server.wait_live()


def test_an_agent_killed_and_restarted_under_traffic_fails_no_request(node: Node) -> None:
    with node.agent, node.envoys() as (_, client), Traffic(client.listener()) as traffic:
        traffic.wait_sent(20)
        node.agent.kill()
        traffic.wait_sent(50)
        node.agent.start()
        wait_until(lambda: len(traffic.tally.serials) == 2, "the new agent's certificate")
        traffic.wait_sent(50)
    assert traffic.tally.failed == 0, traffic.tally.failures


def test_a_ca_away_at_the_start_is_waited_for(node: Node) -> None:
    """The streams wait, Envoy keeps warming, and nothing has to be restarted."""
    node.ca.server.stop()
    with node.agent, node.server_envoy(wait=False) as server:
        wait_until(lambda: "the CA gave no answer" in node.agent.log.read_text(), "an agent without a CA")
        wait_until(lambda: node.agent.status()["tokens"] == {"waiting": 1, "serving": 0, "reconnecting": 0}, "it waits")
        address = node.ca.server.address.rpartition(":")
        listen = HostPort(address[0], int(address[2]))
        with CaServer(dataclasses.replace(node.ca.config, listen=listen)):
            server.wait_live(100)
