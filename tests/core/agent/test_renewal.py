"""An agent whose token is gone goes on with its certificate, as far as the CA lets it, and says how it stands."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import grpc
import pytest
from cryptography import x509

from meshpki.agent.process.config import AgentConfig
from meshpki.agent.renewal.ca_client import BundleHeld, CaClient, CaRefusedError, CaUnavailableError
from meshpki.agent.renewal.credential import CertificateCredential, TokenCredential
from meshpki.agent.rotation.key_request import KeyType, new_key_request
from meshpki.ca.audit.record import RecordKind
from meshpki.ca.audit.verify import tail
from meshpki.ca.keys import private_pem
from meshpki.errors import UsageError
from support import ca_server, renewal
from support.agent_process import AgentFiles, AgentProcess, fake_token, roots_in, wait_until
from support.authority import make_authority
from support.fake_ca import FakeCa

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from support.ca_server import RunningCa

_Answer = TypeVar("_Answer")
BOUND = 8
DIGEST = "ab" * 32


@pytest.fixture
def renewing_ca(tmp_path: Path) -> Iterator[RunningCa]:
    with renewal.running(tmp_path, ttl=3, without_token=BOUND) as running:
        yield running


@pytest.fixture
def own_files(short_dir: Path, renewing_ca: RunningCa) -> AgentFiles:
    files = AgentFiles(short_dir)
    files.roots.write_bytes(renewing_ca.authority.root_pem)
    put_token(files, renewing_ca)
    return files


def put_token(files: AgentFiles, ca: RunningCa, lifetime: int = 3600) -> None:
    passing = files.directory / "token.new"
    passing.write_bytes(ca.maker.token(now=time.time(), lifetime=lifetime))
    passing.replace(files.token)


def config(files: AgentFiles, ca: RunningCa) -> AgentConfig:
    return AgentConfig(
        ca_address=ca.server.address,
        ca_renewal_address=ca.server.renewal_address,
        ca_roots=files.roots,
        ca_server_name=ca_server.SERVER_NAME,
        token_file=files.token,
        files=files.certs,
        ttl_seconds=600,
        status_file=files.status,
    )


def served(files: AgentFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificates((files.certs / "cert-chain.pem").read_bytes())[0]


def lines(files: AgentFiles, words: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in files.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in found if line.get("message") == words]


TOKEN_AT_FAULT = "the token is at fault: the certificate that is held is the credential instead"


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("lose", "reason"),
    [
        (lambda files, ca: files.token.unlink(), "token_missing"),
        (lambda files, ca: files.token.write_bytes(b""), "token_missing"),
        (lambda files, ca: files.token.write_text(fake_token(expires_at=time.time() - 5)), "token_expired"),
    ],
    ids=["gone", "empty", "expired"],
)
def test_alive_to_the_bound_then_denied_and_well_again_with_a_token(
    renewing_ca: RunningCa, own_files: AgentFiles, lose: Callable[[AgentFiles, RunningCa], None], reason: str
) -> None:
    with AgentProcess(config(own_files, renewing_ca), own_files.log):
        wait_until(lambda: own_files.read_status().get("state") == "fresh", "a first certificate")
        first = served(own_files)
        lose(own_files, renewing_ca)
        gaps = 0
        while own_files.read_status()["state"] == "fresh":
            assert time.time() < first.not_valid_before_utc.timestamp() + 60, "the bound was never reached"
            gaps += served(own_files).not_valid_after_utc.timestamp() <= time.time()
            time.sleep(0.05)
        assert gaps == 0
        last, status = served(own_files), own_files.read_status()
        assert status["state"] == "denied"
        assert status["last_failure"]["reason"] == "renewal_token_needed"
        assert last.serial_number != first.serial_number
        records = [line.record for line in tail(renewing_ca.config.audit, 100)]
        issued = [record for record in records if record.kind is RecordKind.ISSUED]
        assert len(issued) >= 3
        assert [record.renewed_from for record in issued] == ["", *(record.serial for record in issued[:-1])]
        assert len({record.attested_at for record in issued}) == 1
        assert len(lines(own_files, TOKEN_AT_FAULT)) >= 1
        assert {line["reason"] for line in lines(own_files, TOKEN_AT_FAULT) if line["level"] == "warning"} == {reason}
        wait_until(lambda: time.time() > last.not_valid_after_utc.timestamp(), "the bound")
        put_token(own_files, renewing_ca)
        wait_until(lambda: own_files.read_status().get("state") == "fresh", "well again", seconds=10)
        assert served(own_files).not_valid_after_utc > last.not_valid_after_utc


@pytest.mark.e2e
def test_a_listener_that_is_away_is_no_worse_than_no_token(renewing_ca: RunningCa, own_files: AgentFiles) -> None:
    with AgentProcess(replace(config(own_files, renewing_ca), ca_renewal_address="127.0.0.1:9"), own_files.log):
        wait_until(lambda: own_files.read_status().get("state") == "fresh", "a first certificate")
        own_files.token.unlink()
        wait_until(lambda: own_files.read_status().get("state") == "overdue", "overdue")
        assert own_files.read_status()["last_failure"]["kind"] == "network"
        put_token(own_files, renewing_ca)
        wait_until(lambda: own_files.read_status().get("state") == "fresh", "well again", seconds=15)


@pytest.mark.e2e
def test_a_restarted_agent_without_a_token_goes_on_from_its_cache(
    renewing_ca: RunningCa, own_files: AgentFiles
) -> None:
    cached = replace(config(own_files, renewing_ca), cache=own_files.directory / "cache")
    with AgentProcess(cached, own_files.log) as agent:
        wait_until(lambda: own_files.read_status().get("state") == "fresh", "a first certificate")
        wait_until(lambda: any((own_files.directory / "cache").iterdir()), "a cache")
        own_files.token.unlink()
        agent.kill()
    before = served(own_files)
    with AgentProcess(cached, own_files.log):
        wait_until(lambda: served(own_files).serial_number != before.serial_number, "a renewal by certificate")
    (*_, last) = [line.record for line in tail(renewing_ca.config.audit, 100) if line.record.kind is RecordKind.ISSUED]
    assert last.renewed_from


@pytest.mark.e2e
def test_the_ca_knows_which_roots_the_agent_serves(renewing_ca: RunningCa, own_files: AgentFiles) -> None:
    def reports() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(renewing_ca.http("/bundles")[1])["reports"]
        return found

    with AgentProcess(config(own_files, renewing_ca), own_files.log):
        wait_until(reports, "a first report", seconds=20)
        (first,) = reports()
        assert first["instance"] == "pod:0b0e4f3a-8f1e-4a57-9b6e-3d2c1b0a9f8e"
        assert (first["sequence"], first["roots"]) == (1, 1)
        own_files.roots.write_bytes(renewing_ca.authority.root_pem + make_authority().root_pem)
        wait_until(lambda: [each["roots"] for each in reports()] == [2], "word of the second root", seconds=20)
        (second,) = reports()
        assert second["digest"] != first["digest"]
        assert second["sequence"] == 2
        own_files.token.unlink()
        wait_until(
            lambda: any(str(each["instance"]).startswith("serial:") for each in reports()), "word by certificate"
        )


# --- the client


def client(ca: RunningCa, files: AgentFiles) -> CaClient:
    return CaClient(
        ca.server.address, ca_server.SERVER_NAME, roots_in(files.roots), renewal_address=ca.server.renewal_address
    )


def run(coroutine: Coroutine[None, None, _Answer]) -> _Answer:
    return asyncio.run(coroutine)


def credential(ca: RunningCa) -> CertificateCredential:
    held = renewal.obtain(ca)
    return CertificateCredential(held.presented, private_pem(held.key))


def test_the_client_asks_with_a_certificate(renewing_ca: RunningCa, own_files: AgentFiles) -> None:
    request = new_key_request(KeyType.EC_P256)
    answer = run(client(renewing_ca, own_files).sign(request.csr_pem, credential(renewing_ca), 60))
    assert len(answer.cert_chain) == 3
    run(client(renewing_ca, own_files).report(BundleHeld(DIGEST, 1, 1), credential(renewing_ca)))
    token = TokenCredential(renewing_ca.maker.token(now=time.time()).decode())
    run(client(renewing_ca, own_files).report(BundleHeld(DIGEST, 1, 1), token))
    assert len(json.loads(renewing_ca.http("/bundles")[1])["reports"]) == 2


def test_without_an_address_for_it_no_certificate_is_sent(renewing_ca: RunningCa, own_files: AgentFiles) -> None:
    with pytest.raises(UsageError, match="no address"):
        run(replace(client(renewing_ca, own_files), renewal_address="").sign("", credential(renewing_ca), 60))


def test_refusals_have_the_cas_own_word(renewing_ca: RunningCa, own_files: AgentFiles) -> None:
    held = renewal.forge(renewal.issuing_of(renewing_ca.authority), renewal.LeafShape(ends=BOUND + 60))
    spent = CertificateCredential(held.presented, private_pem(held.key))
    with pytest.raises(CaRefusedError) as caught:
        run(client(renewing_ca, own_files).sign(new_key_request(KeyType.EC_P256).csr_pem, spent, 60))
    assert (caught.value.status, caught.value.reason) == ("PERMISSION_DENIED", "renewal_token_needed")
    with pytest.raises(CaRefusedError) as caught:
        run(client(renewing_ca, own_files).report(BundleHeld("no digest", 1, 1), credential(renewing_ca)))
    assert caught.value.reason == "report_digest_malformed"


def test_a_handshake_that_fails_says_what_may_be_wrong(renewing_ca: RunningCa, own_files: AgentFiles) -> None:
    held = renewal.forge(renewal.issuing_of(renewing_ca.authority), renewal.LeafShape(begins=-60, ends=-1))
    over = CertificateCredential(held.presented, private_pem(held.key))
    with pytest.raises(CaUnavailableError) as caught:
        run(client(renewing_ca, own_files).sign("", over, 60))
    assert "token" in caught.value.todo
    assert private_pem(held.key).decode() not in repr(caught.value)


def test_a_ca_that_knows_no_reports_is_told_apart(ca: FakeCa, files: AgentFiles) -> None:
    there = CaClient(ca.address, "ca.test", roots_in(files.roots))
    with pytest.raises(CaUnavailableError) as caught:
        run(there.report(BundleHeld(DIGEST, 1, 1), TokenCredential(fake_token())))
    assert caught.value.status == grpc.StatusCode.UNIMPLEMENTED.name
    assert ca.calls == []


@pytest.mark.parametrize("address", ["nowhere", "host:", ":1", "host:0", "host:99999"])
def test_an_address_that_is_none(renewing_ca: RunningCa, own_files: AgentFiles, address: str) -> None:
    with pytest.raises(UsageError, match="address"):
        replace(config(own_files, renewing_ca), ca_renewal_address=address)
