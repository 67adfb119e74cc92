"""The machine's clock ten minutes ahead, ten minutes behind, and set while the agent runs."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from support import false_clock
from support.crowd import Crowd, Places, ScriptedCa, Watch, all_in, places, until
from support.false_clock import FalseClock

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.xdist_group("failures-clock"),
    pytest.mark.skipif(bool(false_clock.why_not()), reason=false_clock.why_not()),
]

TEN_MINUTES = 600.0
AHEAD, AHEAD_OF_ALL, BEHIND = "ahead", "ahead-of-all", "behind"
SET_AHEAD, SET_BACK, SET_BACK_AWAY = "set-ahead", "set-back", "set-back-away"
BEGIN = {
    AHEAD: TEN_MINUTES,
    AHEAD_OF_ALL: TEN_MINUTES,
    BEHIND: -TEN_MINUTES,
    SET_AHEAD: 0.0,
    SET_BACK: 0.0,
    SET_BACK_AWAY: 0.0,
}
LIVES = {AHEAD: 3600.0, AHEAD_OF_ALL: 300.0, BEHIND: 3600.0, SET_AHEAD: 1100.0, SET_BACK: 3600.0, SET_BACK_AWAY: 30.0}


@dataclass
class Record:
    """What happened, by agent."""

    watch: Watch
    crowds: dict[str, Crowd]
    places: Places
    cas: dict[str, ScriptedCa]
    during: dict[str, dict[str, Any]] = field(default_factory=dict)  # Any: JSON, looked at in assertions
    asked_again: float = 0.0
    """Seconds after the clock was set back."""

    def first_failure(self, name: str) -> dict[str, Any]:  # Any: as above
        return next(line for line in self.crowds[name].lines() if "fault" in line)


@pytest.fixture(scope="module")
def record() -> Iterator[Record]:
    with places() as at, contextlib.ExitStack() as stack:
        cas = {name: stack.enter_context(ScriptedCa(life=life)) for name, life in LIVES.items()}
        clocks = {name: FalseClock(at.root / f"{name}.clock", seconds) for name, seconds in BEGIN.items()}
        crowds = {
            name: stack.enter_context(
                Crowd(
                    {name: at.agent(name, cas[name])},
                    at.root / f"{name}.log",
                    environment=clock.environment,
                    longest_sleep=1.0,  # in place of thirty: the same look at the clock, sooner
                )
            )
            for name, clock in clocks.items()
        }
        all_in(at, [AHEAD, SET_AHEAD, SET_BACK, SET_BACK_AWAY], "fresh")
        kept = Record(stack.enter_context(Watch(at.sockets())), crowds, at, cas)
        cas[SET_BACK_AWAY].stop()
        all_in(at, [BEHIND, AHEAD_OF_ALL], "failed")
        until(lambda: at[SET_BACK_AWAY].read_status()["last_failure"], "one that is overdue")
        until(lambda: all(kept.watch.of(name)[-1:] for name in crowds), "looks")
        for name in crowds:
            kept.during[name] = at[name].read_status()
        began = time.monotonic()
        asked = len(crowds[SET_BACK_AWAY].failures())
        for name, to in ((SET_AHEAD, TEN_MINUTES), (SET_BACK, -TEN_MINUTES), (SET_BACK_AWAY, -TEN_MINUTES)):
            clocks[name].step(to)
        for name in (BEHIND, AHEAD_OF_ALL):
            clocks[name].step(0)
        until(lambda: len(crowds[SET_BACK_AWAY].failures()) > asked, "asked again, though it is due in ten minutes")
        kept.asked_again = time.monotonic() - began
        cas[SET_BACK_AWAY].start()
        clocks[SET_BACK_AWAY].step(0)
        until(lambda: len(kept.watch.serials(SET_AHEAD)) == 2, "renewed")
        until(lambda: len(kept.watch.serials(SET_BACK_AWAY)) >= 2, "renewed when the CA and the clock were right again")
        all_in(at, list(crowds), "fresh")
        until(lambda: all(kept.watch.of(name)[-1].valid for name in crowds), "each is served")
        yield kept


def test_ahead_a_long_life_is_served_and_renewed_by_what_is_left_of_it(record: Record) -> None:
    said = record.during[AHEAD]
    assert record.watch.gaps(AHEAD) == []
    assert record.crowds[AHEAD].failures() == []
    left = said["not_after"] - (record.cas[AHEAD].taken[AHEAD][0].at + TEN_MINUTES)
    assert said["renew_at"] == pytest.approx(said["not_after"] - left / 2, abs=30)


def test_ahead_of_a_short_life_both_clocks_are_told_and_nothing_useless_is_served(record: Record) -> None:
    said, line = record.during[AHEAD_OF_ALL], record.first_failure(AHEAD_OF_ALL)
    assert said["state"] == "failed"
    assert set(record.crowds[AHEAD_OF_ALL].failures()) == {"answer/certificate_expired"}
    assert "this machine's clock says" in line["seen"]
    assert line["todo"] == "compare the clocks"
    assert len(record.watch.serials(AHEAD_OF_ALL)) == 1, "served once the clock was right"


def test_behind_the_cas_certificate_is_not_valid_yet_and_the_clock_is_suspected(record: Record) -> None:
    said, line = record.during[BEHIND], record.first_failure(BEHIND)
    assert said["state"] == "failed"
    assert set(record.crowds[BEHIND].failures()) == {"network/unavailable"}
    assert "not yet valid" in line["seen"]
    assert "clock" in line["todo"]
    assert len(record.watch.serials(BEHIND)) == 1, "served once the clock was right"


def test_set_ahead_it_renews_at_once_when_that_makes_it_due(record: Record) -> None:
    assert record.watch.gaps(SET_AHEAD) == []
    assert record.crowds[SET_AHEAD].failures() == []
    assert len(record.cas[SET_AHEAD].taken[SET_AHEAD]) == 2, "once, not in a loop"


def test_set_back_it_serves_on_and_asks_nobody(record: Record) -> None:
    assert record.watch.gaps(SET_BACK) == []
    assert record.crowds[SET_BACK].failures() == []
    assert len(record.cas[SET_BACK].taken[SET_BACK]) == 1


def test_set_back_while_overdue_it_does_not_wait_for_a_time_that_is_ten_minutes_off(record: Record) -> None:
    assert record.during[SET_BACK_AWAY]["state"] == "overdue"
    assert record.asked_again < TEN_MINUTES / 2
    assert all(gap.at >= gap.not_after for gap in record.watch.gaps(SET_BACK_AWAY))


@pytest.mark.parametrize("name", BEGIN)
def test_nobody_restarted_anything(record: Record, name: str) -> None:
    assert record.crowds[name].process.poll() is None
    assert record.crowds[name].tracebacks() == []
