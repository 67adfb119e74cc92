"""Health and metrics of an agent: the pages over HTTP, and what they say of every state."""

from __future__ import annotations

import asyncio
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshpki.agent.files.standing import FilesStanding
from meshpki.agent.process.observe import (
    Failing,
    NodeCounts,
    Observer,
    families,
    not_serving,
    of_files,
    of_token,
)
from meshpki.agent.renewal.keeper import KeeperStatus
from meshpki.agent.renewal.ledger import Count
from meshpki.agent.renewal.renewing_source import TokenFault
from meshpki.agent.rotation.bundle import Bundle
from meshpki.agent.rotation.failure import Failure, FailureKind
from meshpki.errors import MachineError
from meshpki.hooks import Health
from support.snapshots import SPIFFE_ID, snapshot

NOW = 1000.0


AWAY = Failure(FailureKind.NETWORK, "unavailable", "no answer")
ME = str(SPIFFE_ID)


def status(
    health: Health = Health.FRESH,
    *,
    ends: int = 3600,
    begins: int = 0,
    failure: Failure | None = None,
    since: float = 0,
) -> KeeperStatus:
    return KeeperStatus(
        health=health,
        snapshot=snapshot(1, begins=begins, ends=ends) if health is not Health.FAILED else None,
        bundle=Bundle().with_configured((b"a", b"b")),
        renew_at=ends / 2,
        failure=failure,
        failing_since=since,
    )


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (status(), ""),
        (status(Health.OVERDUE), ""),
        (status(Health.DENIED), ""),
        (status(Health.EXPIRED, ends=999), "expired 1 s ago"),
        (status(Health.EXPIRED, ends=1000), "expired 0 s ago"),
        (status(Health.FAILED), "no certificate yet: failed"),
        (status(begins=1060), "valid in 60 s"),
    ],
)
def test_ready_is_who_serves_a_valid_certificate(found: KeeperStatus, word: str) -> None:
    wrong = not_serving(found, NOW)
    assert bool(wrong) == bool(word)
    assert word in "".join(wrong)


def test_denied_before_the_first_certificate_is_not_ready() -> None:
    refused = KeeperStatus(Health.DENIED, None, Bundle(), 0)
    assert not_serving(refused, NOW) == ("no certificate yet: denied",)


@dataclass
class Agent:
    """What an observer asks."""

    statuses: list[KeeperStatus] = field(default_factory=list)
    wrong: tuple[str, ...] = ()
    counts: dict[str, Count] = field(default_factory=dict)
    waiting: tuple[Failing, ...] = ()

    def all(self) -> Sequence[KeeperStatus]:
        return self.statuses

    def unready(self) -> tuple[str, ...]:
        return self.wrong


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def observing(agent: Agent, scene: Callable[[Observer], Awaitable[None]]) -> None:
    async def main() -> None:
        observer = Observer(
            "127.0.0.1",
            0,
            statuses=agent.all,
            counts=lambda: agent.counts,
            unready=agent.unready,
            node=lambda: NodeCounts({}, {}, agent.waiting),
        )
        try:
            await scene(observer)
        finally:
            await asyncio.to_thread(observer.close)

    asyncio.run(asyncio.wait_for(main(), 90))


def test_the_pages() -> None:
    agent = Agent([status()])

    async def scene(observer: Observer) -> None:
        port = observer.port
        assert await asyncio.to_thread(get, port, "/livez") == (200, "ok\n")
        assert await asyncio.to_thread(get, port, "/readyz") == (200, "ok\n")
        agent.wrong = ("the certificate expired 5 s ago",)
        assert await asyncio.to_thread(get, port, "/readyz") == (503, "the certificate expired 5 s ago\n")
        assert await asyncio.to_thread(get, port, "/livez") == (200, "ok\n"), "who is not ready is not dead"
        assert (await asyncio.to_thread(get, port, "/"))[0] == 404

    observing(agent, scene)


def test_a_stuck_event_loop_is_neither_live_nor_ready_nor_without_anything_to_alert_on() -> None:
    """Metrics of no identity at all would end every alert. It is asked from a thread while the loop does not turn."""
    found: list[tuple[int, str]] = []

    def ask(port: int) -> None:
        found.extend(get(port, path) for path in ("/livez", "/readyz", "/metrics"))

    async def scene(observer: Observer) -> None:
        asking = threading.Thread(target=ask, args=(observer.port,))
        asking.start()
        asking.join(60)
        assert found == [(503, "the event loop does not answer\n")] * 3

    observing(Agent(), scene)


def metrics(
    *statuses: KeeperStatus, counts: Mapping[str, Count] | None = None, waiting: tuple[Failing, ...] = ()
) -> dict[tuple[str, ...], float]:
    agent, text = Agent(list(statuses), counts=dict(counts or {}), waiting=waiting), ""

    async def scene(observer: Observer) -> None:
        nonlocal text
        code, text = await asyncio.to_thread(get, observer.port, "/metrics")
        assert code == 200

    observing(agent, scene)
    return {
        (
            sample.name,
            *(sample.labels[name] for name in ("spiffe_id", "state", "kind", "reason") if name in sample.labels),
        ): (sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_of_one_identity() -> None:
    found = metrics(status(Health.OVERDUE), counts={ME: Count(3, {FailureKind.NETWORK: 2})})
    assert found["meshpki_agent_certificate_expiration_timestamp_seconds", ME] == 3600
    assert found["meshpki_agent_certificate_renewal_timestamp_seconds", ME] == 1800
    assert found["meshpki_agent_renewals_total", ME] == 3
    assert found["meshpki_agent_renewal_failures_total", ME, "network"] == 2
    assert found["meshpki_agent_renewal_failures_total", ME, "verdict"] == 0
    assert found["meshpki_agent_bundle_sequence", ME] == 1
    assert found["meshpki_agent_bundle_roots", ME] == 2
    states = {key[2]: value for key, value in found.items() if key[0] == "meshpki_agent_certificate_state"}
    assert states == {"fresh": 0, "overdue": 1, "expired": 0, "failed": 0, "denied": 0}


def test_metrics_of_the_files() -> None:
    found = {sample.name: sample.value for one in of_files(FilesStanding(3600, "full", 2, 5)) for sample in one.samples}
    assert found == {
        "meshpki_agent_files_expiration_timestamp_seconds": 3600,
        "meshpki_agent_files_write_failures_total": 2,
        "meshpki_agent_files_notice_failures_total": 5,
    }
    none = [sample.name for one in of_files(FilesStanding()) for sample in one.samples]
    assert "meshpki_agent_files_expiration_timestamp_seconds" not in none, "a zero there would ring every alert"


def test_metrics_of_a_token_that_is_at_fault_while_renewals_go_by_certificate() -> None:
    (sample,) = of_token(TokenFault("token_expired", 500)).samples
    assert (sample.name, sample.labels, sample.value) == (
        "meshpki_agent_token_fault_since_timestamp_seconds",
        {"reason": "token_expired"},
        500,
    )
    assert list(of_token(None).samples) == []


def test_metrics_before_the_first_certificate() -> None:
    found = metrics(status(Health.FAILED, failure=AWAY, since=7), counts={"": Count(0, {FailureKind.NETWORK: 1})})
    assert found["meshpki_agent_certificate_state", "", "failed"] == 1
    assert found["meshpki_agent_renewal_failures_total", "", "network"] == 1
    assert found["meshpki_agent_renewal_failing_since_timestamp_seconds", "", "network", "unavailable"] == 7
    assert not [key for key in found if "expiration" in key[0]], "a zero there would ring every alert"


def test_metrics_say_whose_renewals_fail_and_why_and_since_when() -> None:
    """What somebody wants to know who is woken at night. There is nothing of it while all is well."""
    denied = Failure(FailureKind.VERDICT, "token_expired", "refused")
    found = metrics(
        status(),
        status(Health.OVERDUE, failure=AWAY, since=500),
        status(Health.OVERDUE, failure=AWAY, since=400),
        status(Health.DENIED, failure=denied, since=600),
        waiting=(Failing("", AWAY, 800), Failing("", AWAY, 700)),
    )
    since = {key[1:]: value for key, value in found.items() if "failing_since" in key[0]}
    assert since == {
        (ME, "network", "unavailable"): 400,
        (ME, "verdict", "token_expired"): 600,
        ("", "network", "unavailable"): 700,
    }
    assert not [key for key in metrics(status()) if "failing_since" in key[0]]


def test_metrics_of_two_pods_of_one_account_show_the_worse() -> None:
    found = metrics(status(), status(Health.OVERDUE, ends=1800), counts={ME: Count(6, {})})
    assert found["meshpki_agent_certificate_expiration_timestamp_seconds", ME] == 1800
    assert found["meshpki_agent_certificate_state", ME, "fresh"] == 1
    assert found["meshpki_agent_certificate_state", ME, "overdue"] == 1
    assert found["meshpki_agent_renewals_total", ME] == 6


def test_no_key_and_no_token_in_any_metric() -> None:
    assert "key 1" not in "".join(map(str, families([status()], {})))


def test_a_port_that_is_taken() -> None:
    async def scene(observer: Observer) -> None:
        with pytest.raises(MachineError, match="could not listen"):
            Observer("127.0.0.1", observer.port, statuses=list, counts=dict, unready=tuple)

    observing(Agent(), scene)
