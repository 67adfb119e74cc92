"""Two real Envoys with mTLS between them, every secret from our sockets: start order, rotation, kill and restart."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from meshpki_demo.app import EchoApp
from meshpki_demo.bootstrap import SdsSecrets, client_bootstrap, server_bootstrap
from meshpki_demo.envoy import Envoy
from meshpki_demo.traffic import Traffic, ask
from support.agent_process import AgentFiles, AgentProcess, wait_until
from support.fake_ca import FakeAuthority, FakeCa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

CLIENT = "spiffe://mesh.test/ns/default/sa/client"
SERVER = "spiffe://mesh.test/ns/default/sa/server"
LIFE = 6.0
"""Seconds of a certificate where rotations are to be seen: a new one about every three seconds."""


@dataclass
class Side:
    """One workload: its CA (which knows no other identity), its agent, its files."""

    files: AgentFiles
    ca: FakeCa
    agent: AgentProcess

    @property
    def secrets(self) -> SdsSecrets:
        return SdsSecrets(self.files.socket)


@dataclass
class Mesh:
    client: Side
    server: Side
    app: EchoApp

    def start_agents(self) -> None:
        for side in (self.client, self.server):
            side.agent.start()

    @contextlib.contextmanager
    def envoys(self) -> Iterator[Envoy]:
        """Both Envoys, live; gives the calling one."""
        with self.server_envoy() as server, self.client_envoy(server) as client:
            yield client

    def server_envoy(self, *, wait: bool = True) -> Envoy:
        directory = self.server.files.directory / "envoy"
        bootstrap = server_bootstrap(
            node="server",
            admin=Envoy.admin_path(directory),
            secrets=self.server.secrets,
            peer=CLIENT,
            app=self.app.address,
        )
        return Envoy.start(directory, bootstrap, wait=wait)

    def client_envoy(self, server: Envoy, *, wait: bool = True) -> Envoy:
        directory = self.client.files.directory / "envoy"
        bootstrap = client_bootstrap(
            node="client",
            admin=Envoy.admin_path(directory),
            secrets=self.client.secrets,
            peer=SERVER,
            upstream=server.listener(),
        )
        return Envoy.start(directory, bootstrap, wait=wait)


@pytest.fixture
def mesh(short_dir: Path) -> Iterator[Mesh]:
    authority = FakeAuthority()
    with contextlib.ExitStack() as stack:
        sides = []
        for name, uri in (("c", CLIENT), ("s", SERVER)):
            files = AgentFiles(short_dir / name)
            files.directory.mkdir()
            files.roots.write_bytes(authority.roots_pem)
            files.write_token(expires_at=time.time() + 3600)
            ca = stack.enter_context(FakeCa(authority, uri=uri))
            agent = AgentProcess(files.config(ca), files.log)
            stack.callback(agent.stop_if_running)
            sides.append(Side(files, ca, agent))
        yield Mesh(sides[0], sides[1], stack.enter_context(EchoApp()))


def test_agent_first(mesh: Mesh) -> None:
    mesh.start_agents()
    for side in (mesh.client, mesh.server):
        wait_until(side.files.socket.is_socket, "a socket")
    with mesh.envoys() as client:
        reply = ask(client.listener())
        assert (reply.caller, reply.server, reply.tls) == (CLIENT, SERVER, "TLSv1.3")
        assert client.serials() == (mesh.client.files.read_status()["serial"],)


def test_envoy_first(mesh: Mesh) -> None:
    """The server's Envoy starts before its agent, and again before its agent's CA is up."""
    mesh.server.ca.stop()
    with mesh.server_envoy(wait=False) as server:
        mesh.start_agents()
        wait_until(lambda: mesh.server.files.read_status().get("state") == "failed", "an agent without a CA")
        mesh.server.ca.start()
        server.wait_live(40)
        with mesh.client_envoy(server) as client:
            assert ask(client.listener()).server == SERVER


def test_a_rotation_under_traffic_fails_no_request(mesh: Mesh) -> None:
    for side in (mesh.client, mesh.server):
        side.ca.life = LIFE
    mesh.start_agents()
    with mesh.envoys() as client, Traffic(client.listener()) as traffic:
        wait_until(lambda: len(traffic.tally.serials) >= 4, "four certificates at work", seconds=40)
        wait_until(lambda: len(mesh.server.ca.calls) >= 4, "as many on the other side")
        traffic.wait_sent(50)
    assert traffic.tally.failed == 0, traffic.tally.failures
    assert traffic.tally.sent > 200


def test_agents_killed_and_restarted_under_traffic_fail_no_request(mesh: Mesh) -> None:
    mesh.start_agents()
    with mesh.envoys() as client, Traffic(client.listener()) as traffic:
        traffic.wait_sent(20)
        for side in (mesh.server, mesh.client):
            side.agent.kill()
            traffic.wait_sent(50)
            side.agent.start()
        wait_until(lambda: len(traffic.tally.serials) == 2, "the new agent's certificate", seconds=60)
        traffic.wait_sent(50)
    assert traffic.tally.failed == 0, traffic.tally.failures


def test_a_ca_away_for_a_while_under_traffic_fails_no_request(mesh: Mesh) -> None:
    for side in (mesh.client, mesh.server):
        side.ca.life = 20
    mesh.start_agents()
    with mesh.envoys() as client, Traffic(client.listener()) as traffic:
        traffic.wait_sent(20)
        mesh.client.ca.stop()
        wait_until(lambda: mesh.client.files.read_status()["state"] == "overdue", "overdue", seconds=40)
        traffic.wait_sent(50)
        mesh.client.ca.start()
        wait_until(lambda: len(traffic.tally.serials) >= 2, "the next certificate", seconds=40)
    assert traffic.tally.failed == 0, traffic.tally.failures
