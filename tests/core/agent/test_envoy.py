"""Two real Envoys with mTLS between them, every secret from our sockets, by StreamSecrets and by DeltaSecrets.

Start order, rotation, kill and restart under traffic; trust bundles as plain roots and as Envoy's SPIFFE validator.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshpki.errors import UnavailableError
from meshpki_demo.app import EchoApp
from meshpki_demo.bootstrap import ApiType, Json, SdsSecrets, client_bootstrap, server_bootstrap
from meshpki_demo.envoy import Envoy
from meshpki_demo.traffic import Traffic, ask
from support.agent_process import AgentFiles, AgentProcess, wait_until
from support.fake_ca import FakeAuthority, FakeCa, key_pem, make_leaf, pem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.e2e

CLIENT = "spiffe://mesh.test/ns/default/sa/client"
SERVER = "spiffe://mesh.test/ns/default/sa/server"
OTHER_DOMAIN = "spiffe://other.test/ns/default/sa/server"
LIFE = 16.0
"""Seconds of a certificate where rotations are to be seen: a new one every eight seconds, and eight to be late."""


@dataclass
class Side:
    """One workload: its CA (which knows no other identity), its agent, its files."""

    files: AgentFiles
    ca: FakeCa
    agent: AgentProcess
    certificate: str = "default"

    @property
    def secret_files(self) -> Path:
        """What Envoy may name as a file."""
        return self.files.directory / "secrets"


@dataclass
class Mesh:
    client: Side
    server: Side
    app: EchoApp
    api_type: ApiType = "GRPC"
    roots: str = "ROOTCA"
    metadata: Mapping[str, Json] = field(default_factory=dict)

    def secrets(self, side: Side) -> SdsSecrets:
        return SdsSecrets(side.files.socket, side.certificate, self.roots, self.api_type)

    def start_agents(self) -> None:
        for side in (self.client, self.server):
            side.agent.start()

    @contextlib.contextmanager
    def envoys(self, server: str = SERVER) -> Iterator[Envoy]:
        """Both Envoys, live; gives the calling one, which wants to reach the SPIFFE ID `server`."""
        with self.server_envoy() as answering, self.client_envoy(answering, peer=server) as client:
            yield client

    def server_envoy(self, *, wait: bool = True) -> Envoy:
        directory = self.server.files.directory / "envoy"
        bootstrap = server_bootstrap(
            node="server",
            admin=Envoy.admin_path(directory),
            secrets=self.secrets(self.server),
            metadata=self.metadata,
            peer=CLIENT,
            app=self.app.address,
        )
        return Envoy.start(directory, bootstrap, wait=wait)

    def client_envoy(self, server: Envoy, *, peer: str = SERVER, wait: bool = True) -> Envoy:
        directory = self.client.files.directory / "envoy"
        bootstrap = client_bootstrap(
            node="client",
            admin=Envoy.admin_path(directory),
            secrets=self.secrets(self.client),
            metadata=self.metadata,
            peer=peer,
            upstream=server.listener(),
        )
        return Envoy.start(directory, bootstrap, wait=wait)


@pytest.fixture(params=["GRPC", "DELTA_GRPC"])
def mesh(short_dir: Path, request: pytest.FixtureRequest) -> Iterator[Mesh]:
    authority = FakeAuthority()
    with contextlib.ExitStack() as stack:
        sides = []
        for name, uri in (("c", CLIENT), ("s", SERVER)):
            files = AgentFiles(short_dir / name)
            files.directory.mkdir()
            files.roots.write_bytes(authority.roots_pem)
            files.write_token(expires_at=time.time() + 3600)
            ca = stack.enter_context(FakeCa(authority, uri=uri))
            config = replace(files.config(ca), secret_files=(files.directory / "secrets",))
            agent = AgentProcess(config, files.log)
            stack.callback(agent.stop_if_running)
            sides.append(Side(files, ca, agent))
            sides[-1].secret_files.mkdir()
        yield Mesh(sides[0], sides[1], stack.enter_context(EchoApp()), api_type=request.param)


def test_agent_first(mesh: Mesh) -> None:
    mesh.start_agents()
    for side in (mesh.client, mesh.server):
        wait_until(side.files.socket.is_socket, "a socket")
    with mesh.envoys() as client:
        reply = ask(client.listener())
        assert (reply.caller, reply.server, reply.tls) == (CLIENT, SERVER, "TLSv1.3")
        assert client.serials() == (mesh.client.files.read_status()["serial"],)
        rejected = {name: count for name, count in client.stats().items() if "update_rejected" in name and count}
        assert not rejected


def test_an_envoy_whose_node_says_much_of_itself(mesh: Mesh) -> None:
    """As Istio's do, with the pod's annotations, for which Kubernetes allows 256 KiB. Envoy's own part has 61 KiB."""
    mesh.metadata = {"ANNOTATIONS": {f"example.com/note-{number}": "x" * 1000 for number in range(256)}}
    mesh.start_agents()
    with mesh.envoys() as client:
        assert ask(client.listener()).server == SERVER


def test_envoy_first(mesh: Mesh) -> None:
    """The server's Envoy starts before its agent, and again before its agent's CA is up."""
    mesh.server.ca.stop()
    with mesh.server_envoy(wait=False) as server:
        mesh.start_agents()
        wait_until(lambda: mesh.server.files.read_status().get("state") == "failed", "an agent without a CA")
        mesh.server.ca.start()
        server.wait_live()
        with mesh.client_envoy(server) as client:
            assert ask(client.listener()).server == SERVER


def test_a_rotation_under_traffic_fails_no_request(mesh: Mesh) -> None:
    for side in (mesh.client, mesh.server):
        side.ca.life = LIFE
    mesh.start_agents()
    with mesh.envoys() as client, Traffic(client.listener()) as traffic:
        wait_until(lambda: len(traffic.tally.serials) >= 4, "four certificates at work")
        wait_until(lambda: len(mesh.server.ca.calls) >= 4, "as many on the other side")
        traffic.wait_sent(50)
    assert traffic.tally.failed == 0, traffic.tally.failures
    assert traffic.tally.sent > 100


def test_agents_killed_and_restarted_under_traffic_fail_no_request(mesh: Mesh) -> None:
    mesh.start_agents()
    with mesh.envoys() as client, Traffic(client.listener()) as traffic:
        traffic.wait_sent(20)
        for side in (mesh.server, mesh.client):
            side.agent.kill()
            traffic.wait_sent(50)
            side.agent.start()
        wait_until(lambda: len(traffic.tally.serials) == 2, "the new agent's certificate")
        traffic.wait_sent(50)
    assert traffic.tally.failed == 0, traffic.tally.failures


def test_a_ca_away_for_a_while_under_traffic_fails_no_request(mesh: Mesh) -> None:
    for side in (mesh.client, mesh.server):
        side.ca.life = 30
    mesh.start_agents()
    with mesh.envoys() as client, Traffic(client.listener()) as traffic:
        traffic.wait_sent(20)
        mesh.client.ca.stop()
        wait_until(lambda: mesh.client.files.read_status()["state"] == "overdue", "overdue")
        traffic.wait_sent(50)
        mesh.client.ca.start()
        wait_until(lambda: len(traffic.tally.serials) >= 2, "the next certificate")
    assert traffic.tally.failed == 0, traffic.tally.failures


VALIDATOR: dict[str, Json] = {"spiffe_cert_validation": True}
PLAIN: dict[str, Json] = {"disable_spiffe_cert_validation": True}


@pytest.mark.parametrize(
    ("roots", "metadata", "validator"),
    [
        ("ROOTCA", {}, False),
        ("ROOTCA", VALIDATOR, True),
        ("ALL", {}, True),
        ("ALL", PLAIN, False),
        ("spiffe://mesh.test", {}, True),
        ("spiffe://mesh.test", PLAIN, False),
    ],
)
def test_every_form_of_a_bundle_is_what_envoy_checks_peers_with(
    mesh: Mesh, roots: str, metadata: Mapping[str, Json], validator: bool
) -> None:
    mesh.roots, mesh.metadata = roots, metadata
    mesh.start_agents()
    with mesh.envoys() as client:
        reply = ask(client.listener())
        assert (reply.caller, reply.server) == (CLIENT, SERVER)
        assert uses_validator(client, roots) is validator


@pytest.mark.parametrize(("metadata", "refused"), [({}, False), (VALIDATOR, True)])
def test_the_validator_refuses_another_trust_domain_with_our_root_and_plain_roots_do_not(
    mesh: Mesh, metadata: Mapping[str, Json], refused: bool
) -> None:
    """What the two forms differ in: Istio's trust domain aliases need the plain one (ADR 0010)."""
    mesh.metadata = metadata
    mesh.server.ca.uri = OTHER_DOMAIN
    mesh.start_agents()
    with mesh.envoys(server=OTHER_DOMAIN) as client:
        if refused:
            with pytest.raises(UnavailableError, match="status 503"):
                ask(client.listener())
        else:
            assert ask(client.listener()).server == OTHER_DOMAIN


def test_a_rotation_under_traffic_with_the_validator_fails_no_request(mesh: Mesh) -> None:
    mesh.metadata = VALIDATOR
    mesh.client.ca.life = LIFE
    mesh.start_agents()
    with mesh.envoys() as client, Traffic(client.listener()) as traffic:
        wait_until(lambda: len(traffic.tally.serials) >= 3, "three certificates at work")
    assert traffic.tally.failed == 0, traffic.tally.failures


def put_pair(side: Side, uri: str) -> str:
    """Write a new pair of files as a program without any care does, certificate first; gives its serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = make_leaf(side.ca.authority.issuer, key.public_key(), uris=(uri,))
    (side.secret_files / "tls.crt").write_text(pem(leaf) + side.ca.authority.issuer.pem)
    time.sleep(0.2)
    (side.secret_files / "tls.key").write_bytes(key_pem(key))
    return f"{leaf.serial_number:x}"


def test_a_pair_of_files_replaced_under_traffic_fails_no_request(mesh: Mesh) -> None:
    side = mesh.client
    side.certificate = f"file-cert:{side.secret_files}/tls.crt~{side.secret_files}/tls.key"
    first = put_pair(side, CLIENT)
    mesh.start_agents()
    with mesh.envoys() as client, Traffic(client.listener()) as traffic:
        assert client.serials() == (first,)
        for number in range(2, 5):
            latest = put_pair(side, CLIENT)
            wait_until(lambda: latest in traffic.tally.serials, "the new pair at work")  # noqa: B023 - within the round
            assert len(traffic.tally.serials) == number
    assert traffic.tally.failed == 0, traffic.tally.failures


def test_a_pair_of_files_that_comes_late_is_served_then(mesh: Mesh) -> None:
    """A delta client is told that there is no such secret, and must be pushed it all the same."""
    side = mesh.server
    side.certificate = f"file-cert:{side.secret_files}/tls.crt~{side.secret_files}/tls.key"
    mesh.start_agents()
    with mesh.server_envoy(wait=False) as server:
        wait_until(lambda: b"tls.crt" in side.files.log.read_bytes(), "an agent that was asked")
        put_pair(side, SERVER)
        server.wait_live()
        wait_until(server.serials, "a certificate")
        with mesh.client_envoy(server) as client:
            assert ask(client.listener()).server == SERVER


def uses_validator(envoy: Envoy, secret: str) -> bool:
    """Whether Envoy holds the secret as a SPIFFE validator, by its own account."""
    told = json.dumps(
        [
            entry
            for entry in envoy.admin("/config_dump?resource=dynamic_active_secrets")["configs"]  # type: ignore[union-attr]  # a list of objects
            if entry["name"] == secret  # type: ignore[index,call-overload]  # see above
        ]
    )
    assert "trust" in told, told
    return "envoy.tls.cert_validator.spiffe" in told
