"""Issuance for several calls at once: one bad order among good ones, the log away, a signer that is slow."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, cast

import grpc
import pytest
from cryptography import x509

from meshpki.ca.audit.log import AuditLog
from meshpki.ca.audit.record import RecordKind
from meshpki.ca.audit.verify import tail
from meshpki.ca.csr import read_csr
from meshpki.ca.issuer import Issuer
from meshpki.ca.server import issuance as issuance_module
from meshpki.ca.server.calls.methods import Call, CallRefusedError
from meshpki.ca.server.issuance import Issuance, Order
from meshpki.errors import IntegrityError, UnavailableError, WouldWaitError
from meshpki.identity import ServiceAccountRef, SpiffeId
from meshpki.tokens.caller import Caller
from meshpki.wire.istio_ca_pb2 import IstioCertificateResponse
from support.authority import NOW, TestAuthority, key, make_authority, make_csr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from meshpki.ca.csr import CsrKey
    from meshpki.hooks import Signer

Code = grpc.StatusCode
BAD = "no request"


@pytest.fixture
def authority() -> TestAuthority:
    return make_authority()


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditLog]:
    log = AuditLog.open(tmp_path / "audit/log.jsonl", trust_domain="mesh.local", issuer_key_id="ab", now=NOW)
    yield log
    log.close(NOW)


def order(number: int, authority: TestAuthority, csr: str = "") -> Order:
    account = ServiceAccountRef("default", f"web-{number}")
    call = Call(f"call-{number}", "ipv4:192.0.2.1:5", float(NOW), ())
    who = Caller("local", "https://issuer", account, "uid", None, None, None, NOW - 60, NOW + 3600)
    spiffe_id = SpiffeId.for_service_account(authority.profile.trust_domain, account)
    return Order(call, who, csr or make_csr(key(number=number % 4)), 3600, spiffe_id, None)


def name_in(answer: bytes) -> str:
    leaf = x509.load_pem_x509_certificate(IstioCertificateResponse.FromString(answer).cert_chain[0].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return str(names.get_values_for_type(x509.UniformResourceIdentifier)[0])


def run_together(issuance: Issuance, orders: Sequence[Order]) -> list[bytes | BaseException]:
    """Have all of them in one batch."""
    for one in orders:
        issuance.begin(one, at_once=True)
    issuance.complete(orders)
    return [one.error or one.answer for one in orders]


def run(issuance: Issuance, one: Order) -> bytes:
    """Alone, in a thread that may wait."""
    issuance.begin(one, at_once=False)
    issuance.complete([one])
    if one.error is not None:
        raise one.error
    return one.answer


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def issued_accounts(path: Path) -> list[str]:
    lines = tail(path, 1000)
    return [line.record.service_account for line in lines if line.record.kind is RecordKind.ISSUED]


class Panic(BaseException):
    """As what `cryptography` raises when its inside breaks: no Exception."""


def test_a_request_that_makes_a_library_panic_harms_itself_alone(
    authority: TestAuthority, audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(csr: str) -> CsrKey:
        if csr == BAD:
            raise Panic
        return read_csr(csr)

    monkeypatch.setattr(issuance_module, "read_csr", read)
    issuance = Issuance(authority.issuer, authority.profile, audit)
    first, panicked, last = run_together(issuance, [order(0, authority), order(1, authority, BAD), order(2, authority)])
    assert isinstance(panicked, Panic)
    assert isinstance(first, bytes)
    assert isinstance(last, bytes)


def test_one_bad_order_among_good_ones_harms_none(
    authority: TestAuthority, audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuance = Issuance(authority.issuer, authority.profile, audit)
    foreign = order(3, authority)
    foreign.spiffe_id = SpiffeId.parse("spiffe://other.domain/ns/default/sa/web-3")
    orders = [order(0, authority), order(1, authority, BAD), order(2, authority), foreign, order(4, authority)]
    syncs: list[int] = []
    real = os.fdatasync

    def count(descriptor: int) -> None:
        syncs.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", count)
    answers = run_together(issuance, orders)
    assert len(syncs) == 1
    for index in (0, 2, 4):
        answer = answers[index]
        assert isinstance(answer, bytes)
        assert name_in(answer) == f"spiffe://mesh.local/ns/default/sa/web-{index}"
    refused, broken = answers[1], answers[3]
    assert isinstance(refused, CallRefusedError)
    assert (refused.status, refused.reason) == (Code.INVALID_ARGUMENT, "csr_not_pem")
    assert isinstance(broken, IntegrityError)
    assert issued_accounts(audit._writer.path) == ["web-0", "web-2", "web-4"]


@pytest.mark.parametrize("step", ["draw", "issue", "issued_record", "IstioCertificateResponse"])
def test_a_fault_of_ours_in_any_step_harms_its_own_order_alone(
    authority: TestAuthority, audit: AuditLog, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    issuance = Issuance(authority.issuer, authority.profile, audit)
    real, calls = getattr(issuance_module, step), itertools.count(1)

    def second_fails(*arguments: object, **more: object) -> object:
        return 1 / 0 if next(calls) == 2 else real(*arguments, **more)

    monkeypatch.setattr(issuance_module, step, second_fails)
    answers = run_together(issuance, [order(number, authority) for number in range(3)])
    assert [type(answer) for answer in answers] == [bytes, ZeroDivisionError, bytes]
    assert issued_accounts(audit._writer.path) == ["web-0", "web-2"]


def test_records_stand_in_the_order_of_arrival(authority: TestAuthority, audit: AuditLog) -> None:
    issuance = Issuance(authority.issuer, authority.profile, audit)
    numbers = [7, 2, 9, 4, 0, 5]
    answers = run_together(issuance, [order(number, authority) for number in numbers])
    assert issued_accounts(audit._writer.path) == [f"web-{number}" for number in numbers]
    serials = [line.record.serial for line in tail(audit._writer.path, len(numbers))]
    for answer, serial in zip(answers, serials, strict=True):
        assert isinstance(answer, bytes)
        pem = IstioCertificateResponse.FromString(answer).cert_chain[0]
        assert f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:x}" == serial


def test_a_log_that_takes_nothing_fails_all_and_no_answer_leaves(
    authority: TestAuthority, audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuance = Issuance(authority.issuer, authority.profile, audit)
    orders = [order(number, authority) for number in range(4)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        answers = run_together(issuance, [*orders, order(4, authority, BAD)])
    for answer in answers[:4]:
        assert isinstance(answer, CallRefusedError)
        assert (answer.status, answer.reason) == (Code.UNAVAILABLE, "audit_unavailable")
    assert len({id(answer) for answer in answers}) == 5
    assert cast("CallRefusedError", answers[4]).reason == "csr_not_pem"
    assert not any(one.answer for one in orders)
    assert run(issuance, order(5, authority))
    assert issued_accounts(audit._writer.path) == ["web-5"]


def test_an_answer_is_there_only_after_the_sync(
    authority: TestAuthority, audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuance = Issuance(authority.issuer, authority.profile, audit)
    orders = [order(number, authority) for number in range(3)]
    seen: list[bool] = []
    real = os.fdatasync

    def look(descriptor: int) -> None:
        seen.append(any(one.answer for one in orders))
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", look)
    assert all(isinstance(answer, bytes) for answer in run_together(issuance, orders))
    assert seen == [False]


class Remote:
    """A signer as a key store far away is: some calls take long, some fail."""

    def __init__(self, inner: Signer) -> None:
        self._inner = inner
        self.chain = inner.chain
        self.slow: set[int] = set()
        self.away: set[int] = set()
        self.go = threading.Event()
        self.calls = 0
        self._mutex = threading.Lock()

    def sign(self, tbs: bytes) -> bytes:
        with self._mutex:
            self.calls += 1
            number = self.calls
        if number in self.slow:
            assert self.go.wait(60)
        if number in self.away:
            raise UnavailableError("the key store is away")
        return self._inner.sign(tbs)


def test_a_signer_that_is_slow_holds_nobody_else(authority: TestAuthority, audit: AuditLog) -> None:
    remote = Remote(authority.signer)
    issuance = Issuance(Issuer.from_signer(remote), authority.profile, audit)
    remote.slow, remote.away = {2}, {4}
    answers: list[bytes] = []
    late = threading.Thread(target=lambda: answers.append(run(issuance, order(1, authority))))
    late.start()
    until(lambda: remote.calls == 2)  # the first was the issuer's own proof
    assert run(issuance, order(2, authority))
    with pytest.raises(CallRefusedError) as caught:
        run(issuance, order(3, authority))
    assert caught.value.reason == "signer_unavailable"
    assert run(issuance, order(4, authority))
    assert not answers
    remote.go.set()
    late.join(60)
    assert name_in(answers[0]).endswith("web-1")
    assert issued_accounts(audit._writer.path) == ["web-2", "web-4", "web-1"]


def test_such_a_signer_is_asked_by_so_many_at_once(authority: TestAuthority, audit: AuditLog) -> None:
    remote = Remote(authority.signer)
    issuance = Issuance(Issuer.from_signer(remote), authority.profile, audit, at_once=2)
    remote.slow = set(range(2, 8))
    threads = [threading.Thread(target=run, args=(issuance, order(number, authority))) for number in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: remote.calls == 3)  # the first was the issuer's own proof
    time.sleep(0.2)
    assert remote.calls == 3
    remote.go.set()
    for thread in threads:
        thread.join(60)
    assert len(issued_accounts(audit._writer.path)) == 6


def test_an_order_shows_no_token(authority: TestAuthority) -> None:
    one = order(1, authority)
    one.call = Call("call", "peer", float(NOW), (("authorization", "Bearer very-secret"),))
    assert "very-secret" not in repr(one)


def test_only_a_key_in_this_process_signs_for_others(authority: TestAuthority, audit: AuditLog) -> None:
    here, far = Issuance(authority.issuer, authority.profile, audit), Remote(authority.signer)
    here.begin(order(1, authority), at_once=True)
    with pytest.raises(WouldWaitError):
        Issuance(Issuer.from_signer(far), authority.profile, audit).begin(order(2, authority), at_once=True)
