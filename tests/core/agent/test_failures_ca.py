"""The CA in every bad state, for agents that already serve: what is served meanwhile, what is said, how it ends.

One run for the whole table, since all of it is waiting: eighteen agents, three CAs, three quarters of a minute of life.
Between any two things that have to come in an order there are seconds enough for a machine that stands still for some.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from meshpki.agent.rotation.failure import FailureKind
from meshpki.hooks import Health
from support.crowd import Crowd, Orders, Places, ScriptedCa, Watch, all_in, places, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("failures-ca")]

STATUSES = [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK]
REFUSALS = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}
HANGS, AWAY, AWAY_TOO_LONG = "hangs", "away", "away-too-long"
LIFE, SHORT_LIFE = 45.0, 10.0
HALF = LIFE / 2
FREE = "127.0.0.1:0"


@dataclass
class Record:
    """What happened, by agent."""

    watch: Watch
    crowd: Crowd
    places: Places
    ca: ScriptedCa
    during: dict[str, dict[str, Any]] = field(default_factory=dict)  # Any: JSON, looked at in assertions
    readiness: dict[str, tuple[int, str]] = field(default_factory=dict)
    in_state: dict[str, set[str]] = field(default_factory=dict)
    """States that the metrics gave a 1."""
    failed: dict[str, dict[str, float]] = field(default_factory=dict)
    """Failures that the metrics counted, by whose fault it was."""
    away_seconds: float = 0.0
    healed: dict[str, float] = field(default_factory=dict)

    def keep(self, names: Sequence[str]) -> None:
        """Keep what status, readiness and metrics say now."""
        for name in names:
            self.during[name] = self.places[name].read_status()
            self.readiness[name] = self.crowd.page(name, "/readyz")
            numbers = self.crowd.metrics(name)
            self.in_state[name] = {state.value for state in Health if numbers.of("certificate_state", state=state)}
            self.failed[name] = {kind: numbers.of("renewal_failures_total", kind=kind) for kind in FailureKind}

    def warnings(self, name: str) -> list[dict[str, Any]]:  # Any: as above
        return [line for line in self.crowd.lines(name) if "fault" in line]


@pytest.fixture(scope="module")
def record() -> Iterator[Record]:
    """Healthy, then sick past the time of renewal, then healthy again; nobody helps but the CA getting well."""
    sick = {status.name: Orders(status=status) for status in STATUSES} | {HANGS: Orders(hangs=True)}
    with (
        places() as at,
        ScriptedCa(life=LIFE) as ca,
        ScriptedCa(life=LIFE) as away,
        ScriptedCa(life=SHORT_LIFE) as too_long,
    ):
        configs = {name: at.agent(name, ca, call_seconds=3 if name == HANGS else 30, http=FREE) for name in sick}
        configs |= {AWAY: at.agent(AWAY, away, http=FREE), AWAY_TOO_LONG: at.agent(AWAY_TOO_LONG, too_long, http=FREE)}
        with Crowd(configs, at.root / "log") as crowd, Watch(at.sockets()) as watch:
            kept = Record(watch, crowd, at, ca)
            all_in(at, list(configs), "fresh")
            began = time.monotonic()
            ca.orders = sick
            away.stop()
            too_long.stop()
            all_in(at, [AWAY_TOO_LONG], "expired")
            until(lambda: all(at[name].read_status()["last_failure"] for name in (*sick, AWAY)), "each has failed once")
            kept.keep([*sick, AWAY])
            ca.orders = {}
            ca.released.set()
            until(lambda: time.monotonic() - began > HALF, "half a life is over")
            kept.away_seconds = time.monotonic() - began
            kept.keep([AWAY_TOO_LONG])
            away.start()
            too_long.start()
            all_in(at, list(configs), "fresh")
            kept.healed = {name: crowd.metrics(name).of("certificate_state", state="fresh") for name in configs}
            until(
                lambda: all(watch.of(name)[-1].serial == at.serial(name) for name in configs),
                "what is said to be served is served",
            )
        yield kept


@pytest.mark.parametrize("status", STATUSES, ids=lambda status: status.name)
def test_a_status_instead_of_a_renewal(record: Record, status: grpc.StatusCode) -> None:
    name, refused = status.name, status in REFUSALS
    said = record.during[name]
    assert record.watch.gaps(name) == []
    assert len(record.watch.serials(name)) >= 2
    assert said["state"] == ("denied" if refused else "overdue")
    assert (said["last_failure"]["kind"], said["last_failure"]["reason"]) == (
        "verdict" if refused else "network",
        status.name.lower(),
    )
    assert said["serial"] == f"{record.watch.serials(name)[0]:x}"
    assert record.readiness[name] == (200, "ok\n"), "what is served is valid: no reason to take the workload out"
    assert record.in_state[name] == {said["state"]}
    assert {kind for kind, count in record.failed[name].items() if count} == {said["last_failure"]["kind"]}
    assert record.healed[name] == 1
    headline = "no renewal: the CA refused" if refused else "no renewal: the CA gave no answer"
    assert {line["message"] for line in record.warnings(name)} == {headline}
    assert all(status.name in line["seen"] and line["todo"] for line in record.warnings(name))
    assert record.places[name].read_status()["last_failure"] is None
    assert 3 <= len(record.ca.taken[name]) <= 8, "asked again, and not in a loop"


def test_a_ca_that_hangs_is_given_up_at_the_deadline_and_asked_again(record: Record) -> None:
    assert record.watch.gaps(HANGS) == []
    assert record.during[HANGS]["state"] == "overdue"
    assert set(record.crowd.failures(HANGS)) == {"network/deadline_exceeded"}
    assert "too slow" in record.warnings(HANGS)[0]["todo"]
    assert len(record.watch.serials(HANGS)) >= 2


def test_a_ca_away_for_longer_than_half_a_life_is_not_noticed_by_the_workload(record: Record) -> None:
    assert record.away_seconds > HALF
    assert record.watch.gaps(AWAY) == []
    assert record.during[AWAY]["state"] == "overdue"
    assert record.readiness[AWAY] == (200, "ok\n")
    assert set(record.crowd.failures(AWAY)) == {"network/unavailable"}
    assert "running" in record.warnings(AWAY)[0]["todo"]
    assert len(record.watch.serials(AWAY)) >= 2


def test_a_ca_away_for_longer_than_a_life_ends_in_expired_and_heals_by_itself(record: Record) -> None:
    """The expired certificate stays on the wire: Envoy would keep it anyway, and peers say what is wrong with it."""
    gaps = record.watch.gaps(AWAY_TOO_LONG)
    assert gaps, "it did expire"
    ((expired, error),) = {(gap.serial, gap.error) for gap in gaps}
    assert error == ""
    assert all(gap.at >= gap.not_after for gap in gaps)
    assert record.during[AWAY_TOO_LONG]["state"] == "expired"
    assert record.in_state[AWAY_TOO_LONG] == {"expired"}
    status, why = record.readiness[AWAY_TOO_LONG]
    assert (status, why[:24]) == (503, "the certificate expired ")
    errors = [line["message"] for line in record.crowd.lines(AWAY_TOO_LONG) if line["level"] == "error"]
    assert errors == ["the certificate has expired, and there is no other: peers refuse it from now on"]
    assert record.watch.serials(AWAY_TOO_LONG)[-1] != expired
    assert record.watch.of(AWAY_TOO_LONG)[-1].valid


def test_all_of_them_in_one_process_and_none_took_it_down(record: Record) -> None:
    assert record.crowd.process.returncode == 0
    assert record.crowd.tracebacks() == []
    assert not any(files.socket.exists() for files in record.places.made.values())
