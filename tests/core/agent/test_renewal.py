"""An agent whose token is gone goes on with its certificate, as far as the CA lets it, and says how it stands."""

from __future__ import annotations

import asyncio
import contextlib
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
from support.crowd import numbers_in, page
from support.fake_ca import FakeCa
from support.node_agent import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from support.ca_server import RunningCa

_Answer = TypeVar("_Answer")
LIFE, BOUND = 14, 30
"""Seconds of a certificate, and of what the CA renews without a token: half a life is what a machine may be late."""
DIGEST = "ab" * 32


@pytest.fixture
def renewing_ca(tmp_path: Path) -> Iterator[RunningCa]:
    with renewal.running(tmp_path, ttl=LIFE, without_token=BOUND) as running:
        yield running


@pytest.fixture
def own_files(short_dir: Path, renewing_ca: RunningCa) -> AgentFiles:
    files = AgentFiles(short_dir)
    files.roots.write_bytes(renewing_ca.authority.root_pem)
    put_token(files, renewing_ca)
    return files


def put_token(files: AgentFiles, ca: RunningCa, *, name: str = "web") -> None:
    passing = files.directory / "token.new"
    passing.write_bytes(ca.maker.token(now=time.time(), name=name))
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


LOST: dict[str, tuple[Callable[[AgentFiles], object], str]] = {
    "gone": (lambda files: files.token.unlink(), "token_missing"),
    "empty": (lambda files: files.token.write_bytes(b""), "token_missing"),
    "expired": (lambda files: files.token.write_text(fake_token(expires_at=time.time() - 5)), "token_expired"),
}


def last_reason(files: AgentFiles) -> object:
    return (files.read_status().get("last_failure") or {}).get("reason")


@pytest.mark.e2e
def test_alive_to_the_bound_then_denied_and_well_again_with_a_token(renewing_ca: RunningCa, short_dir: Path) -> None:
    """Three agents at once, since all of it is waiting; each loses its token in another way."""
    agents = {name: AgentFiles(short_dir / name) for name in LOST}
    begun = time.time()
    with contextlib.ExitStack() as stack:
        for name, files in agents.items():
            files.directory.mkdir()
            files.roots.write_bytes(renewing_ca.authority.root_pem)
            put_token(files, renewing_ca, name=name)
            stack.enter_context(AgentProcess(config(files, renewing_ca), files.log))
        for files in agents.values():
            wait_until(lambda: files.read_status().get("state") == "fresh", "a first certificate")  # noqa: B023 - called here
        first = {name: served(files) for name, files in agents.items()}
        for name, (lose, _) in LOST.items():
            lose(agents[name])
        gaps = 0
        while any(last_reason(files) != "renewal_token_needed" for files in agents.values()):
            now = time.time()
            assert now < begun + 120, "the bound was never reached"
            if now < begun + BOUND - 1:
                gaps += sum(served(files).not_valid_after_utc.timestamp() <= now for files in agents.values())
            time.sleep(0.05)
        assert gaps == 0
        for name, files in agents.items():
            last = stays_denied(renewing_ca, files, name, first[name])
            wait_until(lambda: time.time() > last.not_valid_after_utc.timestamp(), "the bound")  # noqa: B023 - as above
            put_token(files, renewing_ca, name=name)
            wait_until(lambda: files.read_status().get("state") == "fresh", "well again", seconds=20)  # noqa: B023
            assert served(files).not_valid_after_utc > last.not_valid_after_utc


def stays_denied(ca: RunningCa, files: AgentFiles, name: str, first: x509.Certificate) -> x509.Certificate:
    """See what is told of one whose certificate the CA renews no more; gives the last one."""
    last = served(files)
    assert files.read_status()["state"] in {"denied", "expired"}, "which of them is a matter of time"
    assert last.serial_number != first.serial_number
    records = [line.record for line in tail(ca.config.audit, 1000)]
    issued = [record for record in records if record.kind is RecordKind.ISSUED and record.service_account == name]
    assert len(issued) >= 3
    assert [record.renewed_from for record in issued] == ["", *(record.serial for record in issued[:-1])]
    assert len({record.attested_at for record in issued}) == 1
    said = lines(files, TOKEN_AT_FAULT)
    assert len(said) >= 1
    assert {line["reason"] for line in said if line["level"] == "warning"} == {LOST[name][1]}
    return last


@pytest.mark.e2e
def test_a_listener_that_is_away_is_no_worse_than_no_token(renewing_ca: RunningCa, own_files: AgentFiles) -> None:
    with AgentProcess(replace(config(own_files, renewing_ca), ca_renewal_address="127.0.0.1:9"), own_files.log):
        wait_until(lambda: own_files.read_status().get("state") == "fresh", "a first certificate")
        own_files.token.unlink()
        wait_until(lambda: own_files.read_status().get("state") in {"overdue", "expired"}, "overdue")
        assert own_files.read_status()["last_failure"]["kind"] == "network"
        put_token(own_files, renewing_ca)
        wait_until(lambda: own_files.read_status().get("state") == "fresh", "well again")


@pytest.mark.e2e
def test_a_restarted_agent_without_a_token_goes_on_from_its_cache(
    renewing_ca: RunningCa, own_files: AgentFiles
) -> None:
    began, (port,) = time.time(), free_ports(1)
    cached = replace(config(own_files, renewing_ca), cache=own_files.directory / "cache", http=f"127.0.0.1:{port}")
    with AgentProcess(cached, own_files.log) as agent:
        wait_until(lambda: own_files.read_status().get("state") == "fresh", "a first certificate")
        wait_until(lambda: list((own_files.directory / "cache").glob("*.json")), "a cache")
        own_files.token.unlink()
        agent.kill()
    before = served(own_files)
    with AgentProcess(cached, own_files.log):
        wait_until(lambda: served(own_files).serial_number != before.serial_number, "a renewal by certificate")
        samples = numbers_in(page(port, "/metrics")[1]).samples
        since = {one.labels["reason"]: one.value for one in samples if "token_fault_since" in one.name}
        assert list(since) == ["token_missing"], "it goes well, until the bound: somebody has to see it before"
        assert began < since["token_missing"] < time.time()
    (*_, last) = [line.record for line in tail(renewing_ca.config.audit, 100) if line.record.kind is RecordKind.ISSUED]
    assert last.renewed_from


@pytest.mark.e2e
def test_the_ca_knows_which_roots_the_agent_serves(renewing_ca: RunningCa, own_files: AgentFiles) -> None:
    def reports() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(renewing_ca.http("/bundles")[1])["reports"]
        return found

    with AgentProcess(config(own_files, renewing_ca), own_files.log):
        wait_until(reports, "a first report")
        (first,) = reports()
        assert first["instance"] == "pod:0b0e4f3a-8f1e-4a57-9b6e-3d2c1b0a9f8e"
        assert (first["sequence"], first["roots"]) == (1, 1)
        own_files.roots.write_bytes(renewing_ca.authority.root_pem + make_authority().root_pem)
        wait_until(lambda: [each["roots"] for each in reports()] == [2], "word of the second root")
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
