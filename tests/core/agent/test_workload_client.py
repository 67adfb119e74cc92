"""The unmodified public client (PyPI `spiffe`) with an agent as a process: it gets, follows and uses its SVID."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from spiffe import SpiffeId, TrustDomain, WorkloadApiClient, X509Source
from spiffe.errors import PySpiffeError
from spiffe.workloadapi.errors import WorkloadApiError

from support.agent_process import AgentFiles, AgentProcess, wait_until
from support.fake_ca import SPIFFE_ID, FakeAuthority, FakeCa

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

DOMAIN = TrustDomain("mesh.test")
TESTS = Path(__file__).parents[2]


@pytest.fixture
def agent(ca: FakeCa, files: AgentFiles) -> Iterator[AgentProcess]:
    with AgentProcess(files.config(ca), files.log) as process:
        wait_until(files.socket.is_socket, "a socket")
        yield process


def address(files: AgentFiles) -> str:
    return f"unix://{files.socket}"


def served_serial(files: AgentFiles) -> int:
    return int(str(files.read_status().get("serial") or "0"), 16)


@pytest.mark.usefixtures("agent")
def test_the_client_gets_svid_key_chain_and_bundle(ca: FakeCa, files: AgentFiles) -> None:
    with WorkloadApiClient(address(files), default_timeout=60) as client:
        svid = client.fetch_x509_svid()
        (only,) = client.fetch_x509_svids()
        held = client.fetch_x509_context()
        bundles = client.fetch_x509_bundles()
    assert svid.spiffe_id == SpiffeId(SPIFFE_ID)
    assert svid.leaf == only.leaf == held.default_svid.leaf
    assert svid.private_key.public_key() == svid.leaf.public_key()
    assert svid.cert_chain[1:] == [ca.authority.issuer.certificate]
    for found in (bundles, held.x509_bundle_set):
        (bundle,) = found.bundles
        assert bundle.trust_domain == DOMAIN
        assert bundle.x509_authorities == {ca.authority.root.certificate}


@pytest.mark.usefixtures("agent")
def test_the_client_finds_the_socket_by_its_well_known_variable(
    files: AgentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", address(files))
    with WorkloadApiClient(default_timeout=60) as client:
        assert client.fetch_x509_svid().spiffe_id == SpiffeId(SPIFFE_ID)


@pytest.mark.usefixtures("agent")
def test_the_other_profile_is_a_clear_no(files: AgentFiles) -> None:
    with WorkloadApiClient(address(files), default_timeout=60) as client:
        for ask in (
            lambda: client.fetch_jwt_svid({"somebody"}),
            client.fetch_jwt_bundles,
            lambda: client.validate_jwt_svid("a.b.c", "somebody"),
        ):
            with pytest.raises(PySpiffeError, match=r"X\.509 profile only"):
                ask()
        assert client.fetch_x509_svid().spiffe_id == SpiffeId(SPIFFE_ID), "and the rest goes on"


def test_a_source_follows_every_rotation(ca: FakeCa, files: AgentFiles) -> None:
    ca.life = 4
    with (
        AgentProcess(files.config(ca), files.log),
        _source(files) as source,
    ):
        seen: list[int] = []
        arrived = threading.Condition()

        def note() -> None:
            with arrived:
                svid = source.get_x509_context().default_svid
                assert svid.private_key.public_key() == svid.leaf.public_key()
                seen.append(svid.leaf.serial_number)
                arrived.notify_all()

        source.subscribe_for_updates(note)
        with arrived:
            assert arrived.wait_for(lambda: len(seen) >= 4, 60)
        assert len(set(seen)) == len(seen), "each message brought something new"
        wait_until(
            lambda: source.get_x509_context().default_svid.leaf.serial_number == served_serial(files), "the newest"
        )
        assert not source.is_closed()


def _source(files: AgentFiles) -> X509Source:
    wait_until(files.socket.is_socket, "a socket")
    return X509Source(socket_path=address(files), timeout_in_seconds=60)


def test_a_source_outlives_its_agent(ca: FakeCa, files: AgentFiles) -> None:
    process = AgentProcess(files.config(ca), files.log)
    with process, _source(files) as source:
        for end in (process.stop, process.kill):
            before = source.get_x509_context().default_svid.leaf.serial_number
            end()
            assert source.get_x509_context().default_svid.leaf.serial_number == before
            process.start()
            wait_until(
                lambda: source.get_x509_context().default_svid.leaf.serial_number != before,  # noqa: B023 - called here
                "the certificate of the agent's next life",
            )


def test_an_identity_that_the_ca_denies_is_permission_denied_once_the_certificate_is_over(
    ca: FakeCa, files: AgentFiles
) -> None:
    ca.life = 16
    with AgentProcess(files.config(ca), files.log):
        wait_until(files.socket.is_socket, "a socket")
        ca.status = grpc.StatusCode.PERMISSION_DENIED
        wait_until(lambda: files.read_status().get("state") == "denied", "denied")
        with WorkloadApiClient(address(files), default_timeout=60) as client:
            assert client.fetch_x509_svid().spiffe_id == SpiffeId(SPIFFE_ID), "still valid, still served"
            wait_until(lambda: files.read_status().get("state") == "expired", "expired")
            with pytest.raises(WorkloadApiError, match="no identity is issued"):
                client.fetch_x509_svid()
            assert len(client.fetch_x509_bundles().bundles) == 1
            ca.status = None
            files.write_token(expires_at=time.time() + 600, mark="new")
            wait_until(lambda: files.read_status().get("state") == "fresh", "fresh")
            assert client.fetch_x509_svid().spiffe_id == SpiffeId(SPIFFE_ID)


def start_peer(files: AgentFiles, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "support.mtls_peer", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "SPIFFE_ENDPOINT_SOCKET": address(files),
        },
        stdout=subprocess.PIPE,
        text=True,
    )


def met(files: AgentFiles, port: int) -> dict[str, object]:
    """Call the server as that agent's workload; gives whom it met."""
    with start_peer(files, "call", str(port)) as peer:
        told, _ = peer.communicate(timeout=60)
    return dict(json.loads(told)) if peer.returncode == 0 else {"exit status": peer.returncode}


def test_two_programs_meet_by_mutual_tls(ca: FakeCa, files: AgentFiles, tmp_path: Path) -> None:
    """A server and its callers, each a process, each with its own agent; a stranger's caller is turned away."""
    client_files = beside(files, "client", ca.authority)
    with (
        FakeCa(ca.authority, uri=SPIFFE_ID + "-client") as client_ca,
        AgentProcess(files.config(ca), files.log),
        AgentProcess(client_files.config(client_ca), client_files.log),
    ):
        for one in (files, client_files):
            wait_until(one.socket.is_socket, "a socket")
        server = start_peer(files, "serve")
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            assert met(client_files, port) == {"met": [SPIFFE_ID], "serial": f"{served_serial(files):x}"}
            assert json.loads(server.stdout.readline()) == {
                "met": [SPIFFE_ID + "-client"],
                "serial": f"{served_serial(client_files):x}",
            }
            with FakeCa(FakeAuthority(), uri=SPIFFE_ID + "-client") as strange_ca:
                strange = beside(files, "strange", strange_ca.authority)
                with AgentProcess(strange.config(strange_ca), strange.log):
                    wait_until(strange.socket.is_socket, "a socket")
                    assert met(strange, port) == {"exit status": 1}
            assert "refused" in json.loads(server.stdout.readline())
        finally:
            server.kill()
            server.wait()
            server.stdout.close()


def beside(files: AgentFiles, name: str, authority: FakeAuthority) -> AgentFiles:
    """The files of another agent."""
    directory = files.directory / name
    directory.mkdir()
    other = AgentFiles(directory)
    other.roots.write_bytes(authority.roots_pem)
    other.write_token(expires_at=time.time() + 3600)
    return other
