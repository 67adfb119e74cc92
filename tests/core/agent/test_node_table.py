"""The table of tokens: each event, the bounds, and one rule under any history: only what was accepted is admitted."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from meshpki.agent.node_table import (
    NEVER,
    Action,
    Admit,
    AskBack,
    Halt,
    Limits,
    NodeTable,
    Phase,
    Start,
    Stop,
    TokenKey,
    TurnAway,
    Why,
)

NOW = 1_000_000.0
LONG = NOW + 3600
LIMITS = Limits(identities=2, waiting=2, streams=2, remembered=2, refusal_seconds=10, grace_seconds=30)


def key(name: str) -> TokenKey:
    return TokenKey(hashlib.sha256(name.encode()).digest())


A, B, C, D = (key(name) for name in "abcd")


class Told:
    """A table, and what it said last. The clock stands still until told."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.table = NodeTable(limits)
        self.now = NOW

    def open(self, token: TokenKey, stream: int, *, ends: float | None = LONG, chance: float = 0.5) -> list[Action]:
        return self.table.open(token, ends, stream, now=self.now, chance=chance)

    def leave(self, token: TokenKey, stream: int) -> list[Action]:
        return self.table.leave(token, stream, now=self.now)

    def accepted(self, token: TokenKey, ends: float = NOW + 600) -> list[Action]:
        return self.table.accepted(token, ends, now=self.now)

    def refused(self, token: TokenKey) -> list[Action]:
        return self.table.refused(token, now=self.now)

    def spent(self, token: TokenKey) -> list[Action]:
        return self.table.spent(token, now=self.now)

    def tick(self, now: float) -> list[Action]:
        self.now = now
        return self.table.tick(now=now)

    def serve(self, token: TokenKey, *streams: int, ends: float | None = LONG) -> None:
        for stream in streams:
            self.open(token, stream, ends=ends)
        self.accepted(token)


@pytest.fixture
def told() -> Told:
    return Told()


def test_the_first_stream_starts_the_asking_and_all_wait_for_the_answer(told: Told) -> None:
    assert told.open(A, 1) == [Start(A)]
    assert told.open(A, 2) == []
    assert told.table.phase(A) is Phase.WAITING
    assert told.accepted(A) == [Admit(A, (1, 2))]
    assert told.table.phase(A) is Phase.SERVING
    assert told.leave(A, 1) == []
    assert told.open(A, 3) == [Admit(A, (3,))]


def test_another_token_is_another_entry_whoever_it_names(told: Told) -> None:
    told.serve(A, 1)
    assert told.open(B, 2) == [Start(B)]
    assert told.table.phase(B) is Phase.WAITING
    assert told.refused(B) == [TurnAway((2,), Why.DENIED), Stop(B)]
    assert told.table.phase(A) is Phase.SERVING


def test_an_expired_token_is_turned_away_even_where_it_was_accepted_once(told: Told) -> None:
    assert told.open(A, 1, ends=NOW) == [TurnAway((1,), Why.EXPIRED)]
    assert told.table.phase(A) is None
    told.serve(B, 2, ends=NOW + 60)
    told.now = NOW + 60
    assert told.open(B, 3, ends=NOW + 60) == [TurnAway((3,), Why.EXPIRED)]
    assert told.table.streams(B) == 1


def test_a_token_that_says_no_end_is_left_to_the_ca(told: Told) -> None:
    assert told.open(A, 1, ends=None) == [Start(A)]


def test_a_refused_token_is_not_asked_about_again_for_a_while(told: Told) -> None:
    told.open(A, 1)
    told.refused(A)
    assert told.open(A, 2) == [TurnAway((2,), Why.DENIED)]
    told.now = NOW + 9.9
    assert told.open(A, 3) == [TurnAway((3,), Why.DENIED)]
    told.now = NOW + 10
    assert told.open(A, 4) == [Start(A)]


def test_a_clock_set_back_does_not_make_a_refusal_endless(told: Told) -> None:
    told.open(A, 1)
    told.refused(A)
    told.now = NOW - 3600
    assert told.open(A, 2) == [Start(A)]


def test_only_so_many_refusals_are_remembered_the_oldest_goes(told: Told) -> None:
    for stream, token in enumerate((A, B, C)):
        told.open(token, stream)
        told.refused(token)
    assert told.open(A, 11) == [Start(A)]
    assert told.open(B, 12) == [TurnAway((12,), Why.DENIED)]
    assert told.open(C, 13) == [TurnAway((13,), Why.DENIED)]


def test_an_unaccepted_token_goes_with_its_last_stream(told: Told) -> None:
    told.open(A, 1)
    told.open(A, 2)
    assert told.leave(A, 1) == []
    assert told.leave(A, 2) == [Stop(A)]
    assert told.accepted(A) == []
    assert told.table.phase(A) is None


def test_an_accepted_token_stays_for_a_while_without_a_stream(told: Told) -> None:
    told.serve(A, 1)
    assert told.leave(A, 1) == []
    assert told.table.next_wake() == NOW + 30
    assert told.tick(NOW + 29.9) == []
    assert told.open(A, 2) == [Admit(A, (2,))]
    assert told.tick(NOW + 40) == []
    assert told.leave(A, 2) == []
    assert told.tick(NOW + 69.9) == []
    assert told.tick(NOW + 70) == [Stop(A)]
    assert told.table.next_wake() == NEVER


def test_without_a_stream_it_goes_when_its_token_ends(told: Told) -> None:
    told.serve(A, 1, ends=NOW + 20)
    assert told.leave(A, 1) == []
    assert told.tick(NOW + 20) == [Stop(A)]
    told.serve(B, 2, ends=NOW + 40)
    told.now = NOW + 40
    assert told.leave(B, 2) == [Stop(B)]


def test_a_spent_token_has_its_clients_asked_back_and_what_is_held_is_kept(told: Told) -> None:
    told.serve(A, 1, 2)
    assert told.spent(A) == [AskBack((1, 2)), Halt(A)]
    assert told.table.phase(A) is Phase.RECONNECTING
    assert told.spent(A) == []
    assert told.leave(A, 1) == told.leave(A, 2) == []
    assert told.tick(NOW + 30) == [Stop(A)]


def test_who_comes_back_with_the_same_token_is_served_and_asked_again_later(told: Told) -> None:
    told.serve(A, 1)
    told.spent(A)
    told.leave(A, 1)
    assert told.open(A, 2) == [Admit(A, (2,))]
    assert told.table.next_wake() == NOW + 30  # the grace of before, which finds it in use
    assert told.tick(NOW + 59.9) == []
    assert told.tick(NOW + 60) == [AskBack((2,))]  # a tenth of the 600 s that the certificate has left
    assert told.tick(NOW + 90) == []


@pytest.mark.parametrize(("chance", "after"), [(0.0, 48.0), (0.999999, 72.0)])
def test_those_who_are_asked_again_are_spread(told: Told, chance: float, after: float) -> None:
    told.serve(A, 1)
    told.spent(A)
    told.open(A, 2, chance=chance)
    assert told.table.next_wake() == pytest.approx(NOW + after, abs=0.01)


@pytest.mark.parametrize(("left", "after"), [(600, 60), (30, 5), (6, 3), (3, 1.5), (1.9, 1)])
def test_who_is_asked_again_has_time_left_to_come_back(told: Told, left: float, after: float) -> None:
    told.serve(A, 1)
    told.now = NOW + 600 - left
    told.spent(A)
    told.leave(A, 1)
    told.open(A, 2)
    again = told.now + after
    assert told.tick(again - 0.01) == []
    assert told.tick(again) == [AskBack((2,))]


def test_when_what_is_held_is_over_all_are_asked_back_and_it_goes(told: Told) -> None:
    told.serve(A, 1)
    told.spent(A)
    told.open(A, 2)
    told.leave(A, 1)
    told.tick(NOW + 61)
    assert told.tick(NOW + 600) == [AskBack((2,)), Stop(A)]


def test_a_token_spent_with_nothing_valid_in_hand_goes_at_once(told: Told) -> None:
    told.serve(A, 1)
    told.now = NOW + 600
    assert told.spent(A) == [AskBack((1,)), Stop(A)]


def test_a_token_that_ends_while_the_ca_is_away_turns_its_streams_away(told: Told) -> None:
    told.open(A, 1)
    assert told.spent(A) == [TurnAway((1,), Why.EXPIRED), Stop(A)]


def test_a_refusal_of_what_was_accepted_asks_for_a_fresh_token(told: Told) -> None:
    told.serve(A, 1)
    assert told.refused(A) == [AskBack((1,)), Halt(A)]
    assert told.open(A, 2) == [Admit(A, (2,))]


def test_a_renewal_that_gains_nothing_asks_for_a_fresh_token(told: Told) -> None:
    told.serve(A, 1)
    assert told.accepted(A, NOW + 601) == []
    assert told.accepted(A, NOW + 601) == [AskBack((1,)), Halt(A)]


def test_a_token_has_only_so_many_streams(told: Told) -> None:
    told.serve(A, 1, 2)
    assert told.open(A, 3) == [TurnAway((3,), Why.STREAMS)]
    told.leave(A, 1)
    assert told.open(A, 4) == [Admit(A, (4,))]


def test_only_so_many_wait(told: Told) -> None:
    told.open(A, 1)
    told.open(B, 2)
    assert told.open(C, 3) == [TurnAway((3,), Why.FULL)]
    told.leave(A, 1)
    assert told.open(C, 4) == [Start(C)]


def test_only_so_many_streams_wait_and_those_of_the_accepted_do_not_count() -> None:
    table = NodeTable(Limits(waiting=9, streams=9, waiting_streams=3))

    def opened(token: TokenKey, stream: int) -> list[Action]:
        return table.open(token, NOW + 600, stream, now=NOW, chance=0.5)

    assert [opened(A, 1), opened(A, 2), opened(B, 3)] == [[Start(A)], [], [Start(B)]]
    assert opened(A, 4) == [TurnAway((4,), Why.FULL)]
    assert opened(C, 5) == [TurnAway((5,), Why.FULL)]
    assert table.accepted(A, NOW + 600, now=NOW) == [Admit(A, (1, 2))]
    assert [opened(A, 6), opened(B, 7), opened(C, 8)] == [[Admit(A, (6,))], [], [Start(C)]]
    assert opened(B, 9) == [TurnAway((9,), Why.FULL)]
    assert table.refused(B, now=NOW) == [TurnAway((3, 7), Why.DENIED), Stop(B)]
    assert [opened(C, 10), opened(C, 11)] == [[], []]
    assert opened(C, 12) == [TurnAway((12,), Why.FULL)]


def test_who_waits_takes_no_place_of_the_accepted(told: Told) -> None:
    told.serve(A, 1)
    told.open(B, 2)
    told.open(C, 3)
    assert told.open(D, 4) == [TurnAway((4,), Why.FULL)]
    assert told.open(A, 5) == [Admit(A, (5,))]
    told.accepted(B)
    told.leave(C, 3)
    assert told.open(D, 6) == [TurnAway((6,), Why.FULL)]  # two are accepted
    assert told.table.phases() == {Phase.WAITING: 0, Phase.SERVING: 2, Phase.RECONNECTING: 0}


def test_events_of_nobody_do_nothing(told: Told) -> None:
    assert told.accepted(A) == told.refused(A) == told.spent(A) == told.leave(A, 1) == []
    told.open(A, 1)
    assert told.leave(A, 2) == []
    assert told.table.streams(A) == 1


class Histories(RuleBasedStateMachine):
    """Any events in any order. A second book is kept here, of what was accepted and of who is open."""

    streams = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        self.table = NodeTable(Limits(identities=3, waiting=3, waiting_streams=4, streams=2, remembered=2))
        self.now = NOW
        self.number = 0
        self.asking: set[TokenKey] = set()
        self.accepted: set[TokenKey] = set()
        self.open: dict[int, TokenKey] = {}
        self.admitted: set[int] = set()
        self.asked_back: set[int] = set()

    def note(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(token):
                    assert token not in self.asking, "asked for twice"
                    self.asking.add(token)
                case Admit(token, streams):
                    assert token in self.accepted, "admitted without having been accepted"
                    for stream in streams:
                        assert self.open[stream] == token, "admitted to another's"
                        assert stream not in self.admitted
                        self.admitted.add(stream)
                case Halt(token):
                    assert token in self.asking
                case Stop(token):
                    self.asking.remove(token)
                    self.accepted.discard(token)
                    left = [stream for stream, of in self.open.items() if of == token]
                    assert self.asked_back.issuperset(left), "forgotten under a stream"
                    for stream in left:  # on its way out: the token may open another entry meanwhile
                        del self.open[stream]
                case AskBack(streams):
                    assert streams
                    assert self.admitted.issuperset(streams), "asked back before it had anything"
                    self.asked_back |= set(streams)
                case TurnAway(streams, _):
                    for stream in streams:
                        assert stream not in self.admitted, "turned away after it was served"
                        del self.open[stream]

    @rule(
        target=streams,
        name=st.sampled_from("abcdefgh"),
        life=st.sampled_from([0, 3, 40, 10_000, None]),
        chance=st.floats(0, 1, exclude_max=True),
    )
    def opens(self, name: str, life: int | None, chance: float) -> object:
        self.number += 1
        token = key(f"{name}{life}")  # one token says one end
        ends = None if life is None else NOW + life
        self.open[self.number] = token
        self.note(self.table.open(token, ends, self.number, now=self.now, chance=chance))
        return self.number if self.number in self.open else multiple()

    @rule(stream=consumes(streams))
    def leaves(self, stream: int) -> None:
        token = self.open.pop(stream, None)
        if token is not None:
            self.note(self.table.leave(token, stream, now=self.now))

    @rule(data=st.data(), life=st.sampled_from([1, 5, 100, 1000]))
    def ca_accepts(self, data: st.DataObject, life: int) -> None:
        if self.asking:
            token = data.draw(st.sampled_from(sorted(self.asking)))
            self.accepted.add(token)
            self.note(self.table.accepted(token, self.now + life, now=self.now))

    @rule(data=st.data(), event=st.sampled_from(["refused", "spent"]))
    def comes_to_nothing(self, data: st.DataObject, event: str) -> None:
        if self.asking:
            token = data.draw(st.sampled_from(sorted(self.asking)))
            was = token in self.accepted
            happened = self.table.refused if event == "refused" else self.table.spent
            self.note(happened(token, now=self.now))
            assert was or token not in self.asking, "an unaccepted token outlives its refusal"

    @rule(seconds=st.sampled_from([0.5, 6, 31, 500, -100]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.note(self.table.tick(now=self.now))
        assert self.table.next_wake() > self.now

    @invariant()
    def books_agree(self) -> None:
        phases = self.table.phases()
        assert sum(phases.values()) == len(self.asking)
        assert phases[Phase.WAITING] == len(self.asking - self.accepted) <= 3
        assert len(self.accepted) <= 6
        waiting = [of for of in self.open.values() if of in self.asking - self.accepted]
        assert self.table._waiting_streams == len(waiting) <= 4
        for token in self.asking:
            mine = [stream for stream, of in self.open.items() if of == token]
            assert self.table.streams(token) == len(mine) <= 2
            if self.table.phase(token) is not Phase.WAITING:
                assert self.admitted >= set(mine), "accepted, and somebody still waits"
            else:
                assert mine, "asked for, and nobody waits"
                assert self.admitted.isdisjoint(mine)


Histories.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase
