"""The agent with the project's own CA server: a token of a Kubernetes shape in, a certificate for its account out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from meshpki.agent.process.config import AgentConfig
from meshpki.agent.renewal.ca_client import CaRefusedError, sign_once
from meshpki.agent.rotation.key_request import KeyType, new_key_request
from meshpki.hooks import CaEndpoint
from meshpki.tokens.reasons import TokenReason
from support import ca_server
from support.agent_process import AgentFiles, AgentProcess, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.ca_server import RunningCa

pytestmark = pytest.mark.e2e

SPIFFE_ID = "spiffe://mesh.local/ns/default/sa/web"


@pytest.fixture
def real_ca(tmp_path: Path) -> Iterator[RunningCa]:
    with ca_server.running(tmp_path) as running:
        yield running


@pytest.fixture
def own_files(short_dir: Path, real_ca: RunningCa) -> AgentFiles:
    files = AgentFiles(short_dir)
    files.roots.write_bytes(real_ca.authority.root_pem)
    put_token(files, real_ca)
    return files


def put_token(files: AgentFiles, ca: RunningCa, audience: str = "istio-ca") -> None:
    passing = files.directory / "token.new"
    passing.write_bytes(ca.maker.token(**ca.maker.claims(now=time.time(), audience=(audience,))))
    passing.replace(files.token)


def config(files: AgentFiles, ca: RunningCa) -> AgentConfig:
    return AgentConfig(
        ca_address=ca.server.address,
        ca_roots=files.roots,
        ca_server_name=ca_server.SERVER_NAME,
        token_file=files.token,
        sds_socket=files.socket,
        files=files.certs,
        ttl_seconds=600,
        status_file=files.status,
    )


def fault(files: AgentFiles) -> object:
    return (files.read_status().get("last_failure") or {}).get("reason")


@pytest.mark.parametrize("kind", KeyType)
def test_gets_a_certificate_for_the_tokens_account(real_ca: RunningCa, own_files: AgentFiles, kind: KeyType) -> None:
    with AgentProcess(replace(config(own_files, real_ca), key_type=kind), own_files.log):
        wait_until(lambda: own_files.read_status().get("state") == "fresh", "fresh")
        status = own_files.read_status()
        assert status["spiffe_id"] == SPIFFE_ID
        assert 500 < status["not_after"] - time.time() <= 600
        chain = x509.load_pem_x509_certificates((own_files.certs / "cert-chain.pem").read_bytes())
        roots = x509.load_pem_x509_certificates((own_files.certs / "root-cert.pem").read_bytes())
        chain[-1].verify_directly_issued_by(roots[0])
        assert len(chain) == 2


def test_a_wrong_audience_is_denied_in_the_cas_own_word_and_mended_by_a_new_token(
    real_ca: RunningCa, own_files: AgentFiles
) -> None:
    put_token(own_files, real_ca, audience="api")
    with AgentProcess(config(own_files, real_ca), own_files.log):
        wait_until(lambda: own_files.read_status().get("state") == "denied", "denied")
        assert fault(own_files) == TokenReason.WRONG_AUDIENCE
        put_token(own_files, real_ca)
        wait_until(
            lambda: own_files.read_status().get("state") == "fresh", "fresh", seconds=20
        )  # sooner than the next try of one that was refused


def test_sign_once_tells_the_reason(real_ca: RunningCa) -> None:
    endpoint = CaEndpoint(real_ca.server.address, ca_server.SERVER_NAME, real_ca.authority.root_pem)
    csr = new_key_request(KeyType.EC_P256).csr_pem
    good = real_ca.maker.token(**real_ca.maker.claims(now=time.time())).decode()
    late = real_ca.maker.token(**real_ca.maker.claims(now=time.time() - 7200)).decode()
    assert len(sign_once(endpoint, good, csr, 60)) == 3
    with pytest.raises(CaRefusedError) as caught:
        sign_once(endpoint, late, csr, 60)
    assert (caught.value.status, caught.value.reason) == ("UNAUTHENTICATED", TokenReason.EXPIRED)
