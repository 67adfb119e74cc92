"""Counters by identity: they only go up while the identity is there, and what is gone is forgotten."""

from __future__ import annotations

from meshpki.agent.renewal.ledger import UNNAMED, Count, Ledger
from meshpki.agent.rotation.failure import FailureKind

WEB, API = "spiffe://mesh.test/ns/default/sa/web", "spiffe://mesh.test/ns/default/sa/api"


def test_what_is_counted_by_name() -> None:
    ledger = Ledger()
    assert ledger.counts() == {}
    ledger.failed(UNNAMED, FailureKind.NETWORK)
    ledger.renewed(WEB)
    ledger.renewed(WEB)
    ledger.failed(WEB, FailureKind.TOKEN)
    ledger.failed(API, FailureKind.VERDICT)
    assert len(ledger) == 3
    assert ledger.counts() == {
        UNNAMED: Count(0, {FailureKind.NETWORK: 1}),
        API: Count(0, {FailureKind.VERDICT: 1}),
        WEB: Count(2, {FailureKind.TOKEN: 1}),
    }


def test_what_is_gone_is_forgotten_and_what_nobody_is_named_for_is_not() -> None:
    ledger = Ledger()
    for name in (UNNAMED, WEB, API):
        ledger.renewed(name)
        ledger.failed(name, FailureKind.NETWORK)
    ledger.keep_only({WEB})
    assert list(ledger.counts()) == [UNNAMED, WEB]
    ledger.renewed(API)
    assert ledger.counts()[API] == Count(1, {}), "who comes back begins anew"
