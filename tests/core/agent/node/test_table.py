"""The table of tokens: each event, the bounds, and one rule under any history: only what was accepted is admitted."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from meshpki.agent.node.actions import Action, Admit, AskBack, Halt, Phase, Start, Stop, TokenKey, TurnAway, Why
from meshpki.agent.node.limits import Limits
from meshpki.agent.node.table import NEVER, NodeTable

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

    def asks(self, token: TokenKey) -> None:
        assert self.table.asks(token, now=self.now) == []

    def unanswered(self, token: TokenKey) -> list[Action]:
        return self.table.unanswered(token, now=self.now)

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


def test_a_refusal_of_what_was_accepted_asks_for_a_fresh_token_once_and_ends_nothing(told: Told) -> None:
    told.serve(A, 1)
    assert told.refused(A) == [AskBack((1,))]
    assert told.table.phase(A) is Phase.RECONNECTING
    assert told.refused(A) == []
    assert told.open(A, 2) == [Admit(A, (2,))]
    assert told.refused(A) == []


def test_a_second_acceptance_heals(told: Told) -> None:
    told.serve(A, 1)
    told.refused(A)
    told.leave(A, 1)
    told.open(A, 2)
    assert told.accepted(A, NOW + 900) == []
    assert told.table.phase(A) is Phase.SERVING
    assert told.tick(NOW + 700) == [], "nobody is asked back any more, and the end of the first does not matter"
    assert told.refused(A) == [AskBack((2,))], "a refusal is new again"


def test_a_refused_token_that_expires_is_spent_then(told: Told) -> None:
    told.serve(A, 1)
    told.refused(A)
    told.open(A, 2)
    assert told.spent(A) == [Halt(A)], "they were asked back, and the second has its moment"
    assert told.spent(A) == []
    assert told.accepted(A, NOW + 900) == [], "an answer that was under way"
    assert told.table.phase(A) is Phase.RECONNECTING
    told.tick(NOW + 600)
    assert told.table.phase(A) is Phase.RECONNECTING, "a later certificate came of it"
    assert Stop(A) in told.tick(NOW + 900)


def test_what_is_refused_is_served_until_its_certificate_ends_and_no_longer(told: Told) -> None:
    told.serve(A, 1)
    told.refused(A)
    told.leave(A, 1)
    told.open(A, 2)
    told.tick(NOW + 60)
    told.leave(A, 2)
    told.open(A, 3)
    assert told.tick(NOW + 600)[-2:] == [AskBack((3,)), Stop(A)]


def test_a_refusal_with_nothing_valid_in_hand_is_one_of_a_stranger(told: Told) -> None:
    told.serve(A, 1)
    told.now = NOW + 600
    assert told.refused(A) == [AskBack((1,)), Stop(A)]
    assert told.open(A, 2) == [TurnAway((2,), Why.DENIED)]


def test_a_refused_token_without_a_stream_goes_as_any_other(told: Told) -> None:
    told.serve(A, 1)
    told.refused(A)
    told.leave(A, 1)
    assert told.tick(NOW + 30) == [Stop(A)]


def test_a_renewal_that_is_cut_to_the_token_asks_for_a_fresh_one(told: Told) -> None:
    told.serve(A, 1, ends=NOW + 610)
    assert told.accepted(A, NOW + 610) == []
    assert told.accepted(A, NOW + 610) == [AskBack((1,)), Halt(A)]


@pytest.mark.parametrize("ends", [NOW + 100, NOW + 600])
def test_a_ca_that_gives_shorter_lives_now_says_nothing_of_the_token(told: Told, ends: float) -> None:
    told.serve(A, 1)
    assert told.accepted(A, ends) == []
    assert told.accepted(A, ends) == []
    assert told.table.phase(A) is Phase.SERVING


def test_who_leaves_while_the_ca_judges_is_waited_for(told: Told) -> None:
    """Going and coming makes no second question."""
    told.open(A, 1)
    told.asks(A)
    assert told.leave(A, 1) == []
    assert told.open(A, 2) == []
    assert told.leave(A, 2) == []
    assert told.accepted(A) == []
    assert told.open(A, 3) == [Admit(A, (3,))]


def test_an_answer_for_nobody_is_kept_for_a_while_or_remembered(told: Told) -> None:
    for token in (A, B):
        told.open(token, 1)
        told.asks(token)
        told.leave(token, 1)
    told.accepted(A)
    assert told.refused(B) == [Stop(B)]
    assert told.open(B, 2) == [TurnAway((2,), Why.DENIED)]
    assert told.tick(NOW + 30) == [Stop(A)]


def test_a_token_is_asked_about_once_in_ten_seconds_however_often_its_client_comes_back(told: Told) -> None:
    told.open(A, 1)
    told.asks(A)
    told.leave(A, 1)
    assert told.unanswered(A) == [Stop(A)]
    told.now = NOW + 3
    assert told.open(A, 2) == []
    assert told.table.phase(A) is Phase.WAITING
    assert told.leave(A, 2) == [Stop(A)]
    assert told.open(A, 3) == []
    assert told.tick(NOW + 9.9) == []
    assert told.tick(NOW + 10) == [Start(A)]
    assert told.leave(A, 3) == [Stop(A)]
    assert told.open(A, 4) == [Start(A)], "nothing was asked since"


def test_who_was_never_asked_about_may_come_back_at_once(told: Told) -> None:
    told.open(A, 1)
    told.leave(A, 1)
    assert told.open(A, 2) == [Start(A)]


def test_no_verdict_changes_nothing_for_who_waits(told: Told) -> None:
    told.open(A, 1)
    assert told.unanswered(A) == []
    told.asks(A)
    assert told.unanswered(A) == []
    assert told.accepted(A) == [Admit(A, (1,))]
    assert told.unanswered(A) == []


def test_a_token_has_only_so_many_streams(told: Told) -> None:
    told.serve(A, 1, 2)
    assert told.open(A, 3) == [TurnAway((3,), Why.STREAMS)]
    told.leave(A, 1)
    assert told.open(A, 4) == [Admit(A, (4,))]


@pytest.mark.parametrize(("chance", "out", "stream"), [(0.0, A, 1), (0.49, A, 1), (0.5, B, 2), (0.99, B, 2)])
def test_only_so_many_wait_and_one_of_them_makes_room_by_lot(
    told: Told, chance: float, out: TokenKey, stream: int
) -> None:
    told.open(A, 1)
    told.open(B, 2)
    assert told.open(C, 3, chance=chance) == [TurnAway((stream,), Why.CROWDED), Stop(out), Start(C)]
    assert told.table.phases()[Phase.WAITING] == 2


def test_who_is_with_the_ca_keeps_its_place(told: Told) -> None:
    """Else a flood could have questions broken off, and the CA be asked faster than its answers come."""
    told.open(A, 1)
    told.open(B, 2)
    told.asks(A)
    assert told.open(C, 3, chance=0.0) == [TurnAway((2,), Why.CROWDED), Stop(B), Start(C)]
    told.asks(C)
    assert told.open(D, 4) == [TurnAway((4,), Why.CROWDED)]
    told.unanswered(A)
    assert told.open(D, 5) == [TurnAway((1,), Why.CROWDED), Stop(A), Start(D)]
    assert told.open(A, 6, chance=0.9) == [TurnAway((5,), Why.CROWDED), Stop(D)], "and it is asked about later"


def test_only_so_many_streams_wait_and_those_of_the_accepted_do_not_count() -> None:
    table = NodeTable(Limits(waiting=9, streams=9, waiting_streams=3))

    def opened(token: TokenKey, stream: int) -> list[Action]:
        return table.open(token, NOW + 600, stream, now=NOW, chance=0.5)

    assert [opened(A, 1), opened(A, 2), opened(B, 3)] == [[Start(A)], [], [Start(B)]]
    assert opened(A, 4) == [TurnAway((4,), Why.CROWDED)]
    assert opened(C, 5) == [TurnAway((3,), Why.CROWDED), Stop(B), Start(C)], "a newcomer gets in by lot"
    assert table.accepted(A, NOW + 600, now=NOW) == [Admit(A, (1, 2))]
    assert [opened(A, 6), opened(C, 7), opened(B, 8)] == [[Admit(A, (6,))], [], [Start(B)]]
    assert opened(B, 9) == [TurnAway((9,), Why.CROWDED)]
    assert table.refused(C, now=NOW) == [TurnAway((5, 7), Why.DENIED), Stop(C)]
    assert [opened(B, 10), opened(B, 11)] == [[], []]
    assert opened(B, 12) == [TurnAway((12,), Why.CROWDED)]


def test_who_waits_takes_no_place_of_the_accepted(told: Told) -> None:
    told.serve(A, 1)
    told.open(B, 2)
    told.open(C, 3)
    assert told.open(D, 4, chance=0.9) == [TurnAway((3,), Why.CROWDED), Stop(C), Start(D)]
    assert told.open(A, 5) == [Admit(A, (5,))]
    told.accepted(B)
    told.leave(D, 4)
    assert told.open(D, 6) == [TurnAway((6,), Why.FULL)]  # two are accepted
    assert told.table.phases() == {Phase.WAITING: 0, Phase.SERVING: 2, Phase.RECONNECTING: 0}


def test_events_of_nobody_do_nothing(told: Told) -> None:
    assert told.accepted(A) == told.refused(A) == told.spent(A) == told.leave(A, 1) == []
    told.open(A, 1)
    assert told.leave(A, 2) == []
    assert told.table.streams(A) == 1


LIVES = {"a": 10_000, "b": 10_000, "c": None, "d": 40, "e": 0}
"""Few tokens, so that they meet again; one token says one end."""


class Histories(RuleBasedStateMachine):
    """Any events in any order. A second book is kept here: of questions, of what was accepted, and of who is open."""

    streams = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(identities=2, waiting=2, waiting_streams=3, streams=2, remembered=1000)
        self.table = NodeTable(self.limits)
        self.now = NOW
        self.number = 0
        self.known: set[TokenKey] = set()
        """With an entry, as far as anybody outside can tell."""
        self.started: set[TokenKey] = set()
        self.halted: set[TokenKey] = set()
        self.with_ca: set[TokenKey] = set()
        self.asked_at: dict[TokenKey, float] = {}
        """Of tokens that are not accepted: those that are renew when they have to."""
        self.accepted: dict[TokenKey, float] = {}
        """And when its certificate ends."""
        self.open: dict[int, TokenKey] = {}
        self.admitted: set[int] = set()
        self.asked_back: set[int] = set()

    def note(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(token):
                    assert token not in self.started, "asked for twice"
                    late = self.now - self.asked_at.get(token, float("-inf"))
                    assert late >= self.limits.refusal_seconds or late < 0, "asked about a moment ago"
                    self.started.add(token)
                case Admit(token, streams):
                    assert token in self.accepted, "admitted without having been accepted"
                    assert streams
                    for stream in streams:
                        assert self.open[stream] == token, "admitted to another's"
                        assert stream not in self.admitted
                        self.admitted.add(stream)
                case Halt(token):
                    assert token in self.accepted
                    assert token not in self.halted
                    self.halted.add(token)
                case Stop(token):
                    self.known.remove(token)
                    for book in (self.started, self.halted, self.with_ca):
                        book.discard(token)
                    self.accepted.pop(token, None)
                    left = [stream for stream, of in self.open.items() if of == token]
                    assert self.asked_back.issuperset(left), "forgotten under a stream"
                    for stream in left:  # on its way out: the token may open another entry meanwhile
                        del self.open[stream]
                case AskBack(streams):
                    assert streams
                    assert self.admitted.issuperset(streams), "asked back before it had anything"
                    self.asked_back |= set(streams)
                case TurnAway(streams, _):
                    assert streams
                    for stream in streams:
                        assert stream not in self.admitted, "turned away after it was served"
                        del self.open[stream]

    @rule(
        target=streams,
        name=st.sampled_from(sorted(LIVES)),
        chance=st.sampled_from([0.0, 0.4, 0.5, 0.99]),
    )
    def opens(self, name: str, chance: float) -> object:
        self.number += 1
        token, life = key(name), LIVES[name]
        ends = None if life is None else NOW + life
        self.open[self.number] = token
        actions = self.table.open(token, ends, self.number, now=self.now, chance=chance)
        if self.table.phase(token) is Phase.WAITING:
            self.known.add(token)
        victims = {action.key for action in actions if isinstance(action, Stop)}
        assert self.with_ca.isdisjoint(victims), "a question was broken off"
        assert not victims or token in self.known, "somebody was driven out for nothing"
        self.note(actions)
        return self.number if self.number in self.open else multiple()

    @rule(stream=consumes(streams))
    def leaves(self, stream: int) -> None:
        token = self.open.pop(stream, None)
        if token is not None:
            actions = self.table.leave(token, stream, now=self.now)
            assert not actions or token in self.accepted or token not in self.with_ca, "a question was broken off"
            self.note(actions)

    def one_of(self, data: st.DataObject, tokens: set[TokenKey]) -> TokenKey | None:
        return data.draw(st.sampled_from(sorted(tokens))) if tokens else None

    @rule(data=st.data())
    def has_its_turn(self, data: st.DataObject) -> None:
        self.turn_of(self.one_of(data, self.started - self.with_ca - self.halted))

    @rule(data=st.data(), life=st.sampled_from([None, 0, 1, 5, 100, 1000]))
    def ca_answers(self, data: st.DataObject, life: int | None) -> None:
        self.answer(self.one_of(data, self.with_ca), life)

    @rule(data=st.data(), lives=st.lists(st.sampled_from([None, 0, 1, 100, 1000]), min_size=1, max_size=3))
    def is_asked_about_and_answered(self, data: st.DataObject, lives: list[int | None]) -> None:
        token = self.one_of(data, self.started - self.with_ca - self.halted)
        for life in lives:
            if token in self.started - self.halted:
                self.turn_of(token)
                self.answer(token, life)

    def turn_of(self, token: TokenKey | None) -> None:
        if token is not None:
            self.with_ca.add(token)
            if token not in self.accepted:
                self.asked_at[token] = self.now
            self.note(self.table.asks(token, now=self.now))

    def answer(self, token: TokenKey | None, life: int | None) -> None:
        """Of a certificate that lives so long; None is no verdict, 0 a refusal."""
        if token is None:
            return
        self.with_ca.discard(token)
        if life is None:
            self.note(self.table.unanswered(token, now=self.now))
        elif life == 0:
            self.refuse(token)
        else:
            self.accept(token, self.now + life)

    def accept(self, token: TokenKey, ends: float) -> None:
        self.accepted[token] = ends
        self.asked_at.pop(token, None)
        was_halted = token in self.halted
        self.note(self.table.accepted(token, ends, now=self.now))
        phase = self.table.phase(token)
        assert was_halted or token in self.halted or phase is Phase.SERVING, "an acceptance heals"

    def refuse(self, token: TokenKey) -> None:
        good = self.accepted.get(token, 0) > self.now
        actions = self.table.refused(token, now=self.now)
        assert not any(isinstance(action, Halt) for action in actions), "one verdict ended the renewals"
        self.note(actions)
        assert (token in self.known) == good, "kept for as long as there is something to serve, and no longer"

    @rule(data=st.data())
    def token_is_spent(self, data: st.DataObject) -> None:
        token = self.one_of(data, self.started - self.with_ca)
        if token is not None:
            was = token in self.accepted
            self.note(self.table.spent(token, now=self.now))
            assert was or token not in self.known, "an unaccepted token outlives its end"
            assert token not in self.known or token in self.halted

    @rule(seconds=st.sampled_from([0.5, 6, 31, 500, -100]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.note(self.table.tick(now=self.now))
        assert self.table.next_wake() > self.now

    @invariant()
    def books_agree(self) -> None:
        phases = self.table.phases()
        assert sum(phases.values()) == len(self.known)
        assert phases[Phase.WAITING] == len(self.known - self.accepted.keys()) <= 2
        assert len(self.accepted) <= 4
        waiting = [of for of in self.open.values() if of in self.known - self.accepted.keys()]
        assert self.table._waiting_streams == len(waiting) <= 3
        for token in self.known:
            mine = [stream for stream, of in self.open.items() if of == token]
            assert self.table.streams(token) == len(mine) <= 2
            if self.table.phase(token) is not Phase.WAITING:
                assert self.admitted >= set(mine), "accepted, and somebody still waits"
            else:
                assert mine or token in self.with_ca, "kept, and nobody waits"
                assert self.admitted.isdisjoint(mine)


Histories.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase
