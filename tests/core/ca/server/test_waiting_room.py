"""Where calls wait for their requests: who is sent away, when, why, and who is not."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, cast

import grpc
import pytest

from meshpki.ca.server.methods import CallRefusedError
from meshpki.ca.server.patience import LATE_SECONDS, OFTEN, REQUEST_SECONDS
from meshpki.ca.server.waiting_room import MOST_OF_THE_LATE, Request, WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

LATE = LATE_SECONDS + 0.01


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Context:
    """A call of grpcio's as far as a request needs it: one that can be cancelled, by its public door alone."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()

    def is_active(self) -> bool:
        return not self.cancelled.is_set()


class Waits:
    """Calls that wait, each in a thread of its own, at times that the test says."""

    def __init__(self, most: int, **terms: float) -> None:
        self.said: list[str] = []
        self.ended: dict[str, CallRefusedError | bytes] = {}
        self.now = 1000.0
        self.answer: set[str] = set()
        account = cast("Callable[[object], Hashable]", lambda caller: str(caller).partition("-")[0])
        self.room = WaitingRoom(most, self.said.append, account=account, clock=lambda: self.now, **terms)

    def begin(self, name: str) -> None:
        """A call that waits, on the account that its name begins with."""
        context = Context()

        def requests() -> Iterator[bytes]:
            while not context.cancelled.is_set():
                if name in self.answer:
                    yield b"request"
                time.sleep(0.002)
            raise grpc.RpcError

        request = Request(requests(), cast("grpc.ServicerContext", context), self.room)
        request.caller = name

        def wait() -> None:
            try:
                self.ended[name] = request()
            except CallRefusedError as error:
                self.ended[name] = error
            finally:
                request.close()

        threading.Thread(target=wait, daemon=True).start()
        until(lambda: request in self.room._waits or name in self.ended)

    def look(self, later: float = 0.0) -> None:
        self.now += later
        self.room.look(self.now)

    def gone(self, *names: str) -> list[str]:
        """Why these ended, once they have."""
        until(lambda: set(names) <= set(self.ended))
        reasons = [self.ended[name] for name in names]
        return [each.reason if isinstance(each, CallRefusedError) else each.decode() for each in reasons]

    def end(self) -> None:
        self.look(1000)
        until(lambda: not self.room.count())


@pytest.fixture
def make() -> Iterator[Callable[..., Waits]]:
    made: list[Waits] = []

    def make_one(most: int, **terms: float) -> Waits:
        made.append(Waits(most, **terms))
        return made[-1]

    yield make_one
    for each in made:
        each.end()


def test_a_request_that_comes_is_handed_over_and_nobody_hears_of_it(make: Callable[..., Waits]) -> None:
    waits = make(4)
    waits.begin("a-1")
    waits.answer.add("a-1")
    assert waits.gone("a-1") == ["request"]
    waits.look(LATE)
    assert not waits.said
    assert not waits.room._patience


def test_one_that_does_not_come_is_waited_for_so_long(make: Callable[..., Waits]) -> None:
    waits = make(4)
    waits.begin("a-1")
    for _ in range(7):
        waits.look(REQUEST_SECONDS / 8)
        assert waits.room.count() == 1
    waits.look(REQUEST_SECONDS / 7)
    assert waits.gone("a-1") == ["request_late"]
    assert waits.said == ["request_late"]
    assert waits.ended["a-1"].status is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[union-attr]


def test_when_too_many_wait_the_first_have_to_go_if_they_are_late(make: Callable[..., Waits]) -> None:
    waits = make(3)
    for name in ("a-1", "b-1", "c-1"):
        waits.begin(name)
    waits.now += LATE
    for name in ("d-1", "e-1"):
        waits.begin(name)
    assert waits.gone("a-1", "b-1") == ["request_late"] * 2
    assert waits.room.count() == 3
    waits.begin("f-1")
    assert waits.gone("c-1") == ["request_late"]
    for name in ("g-1", "h-1"):  # nobody is late any more
        waits.begin(name)
    waits.look()
    assert waits.room.count() == 5
    waits.look(LATE)
    assert waits.gone("d-1", "e-1") == ["request_late"] * 2
    assert waits.room.count() == 3


def test_without_grace_the_first_has_to_go_at_once(make: Callable[..., Waits]) -> None:
    waits = make(2, grace=-1.0)
    for number in range(6):
        waits.begin(f"a-{number}")
    assert waits.gone("a-0", "a-1", "a-2", "a-3") == ["request_late"] * 4
    waits.answer.add("a-5")
    assert waits.gone("a-5") == ["request"]


def test_for_whoever_is_late_too_often_there_is_no_patience(make: Callable[..., Waits]) -> None:
    waits, often = make(1000), int(OFTEN)
    for number in range(often):
        waits.begin(f"a-{number}")
    waits.begin("b-1")
    waits.look(LATE)
    assert waits.room.count() == often + 1
    waits.begin("a-over")
    waits.look(LATE)
    late = [f"a-{number}" for number in range(often)]
    waits.look()  # those who were looked at before he was late once too often
    assert set(waits.gone(*late, "a-over")) == {"caller_late"}
    assert waits.room.count() == 1  # b's
    # So many at once from now on, the first of them has to go, and it is not the one whose request follows.
    for number in range(MOST_OF_THE_LATE):
        waits.begin(f"a-again-{number}")
    assert waits.room.count() == MOST_OF_THE_LATE + 1
    waits.begin("a-honest")
    assert waits.gone("a-again-0") == ["caller_late"]
    waits.answer.add("a-honest")
    assert waits.gone("a-honest") == ["request"]
    assert waits.room.count() == MOST_OF_THE_LATE
    assert Counter(waits.said) == {"caller_late": often + 2}


def test_after_a_while_he_is_forgiven(make: Callable[..., Waits]) -> None:
    waits = make(1000)
    for number in range(20):
        waits.begin(f"a-{number}")
    waits.look(LATE)
    waits.look()
    assert set(waits.gone(*(f"a-{number}" for number in range(20)))) == {"caller_late"}
    waits.look(60)
    for number in range(20):
        waits.begin(f"a-later-{number}")
    waits.look()
    assert waits.room.count() == 20


@pytest.mark.parametrize(("after", "noted"), [(0.0, False), (0.1, True)])
def test_whoever_leaves_is_noted_if_he_was_waited_for(make: Callable[..., Waits], after: float, noted: bool) -> None:
    waits = make(10)
    stop, context = threading.Event(), Context()

    def requests() -> Iterator[bytes]:
        if stop.wait(60):
            raise grpc.RpcError
        yield b""

    request = Request(requests(), cast("grpc.ServicerContext", context), waits.room)
    request.caller = "a-1"
    ended: list[str] = []

    def wait() -> None:
        with pytest.raises(CallRefusedError) as caught:
            request()
        ended.append(caught.value.reason)

    thread = threading.Thread(target=wait)
    thread.start()
    until(waits.room.count)
    waits.now += after
    stop.set()
    thread.join(60)
    assert ended == ["caller_left"]
    assert bool(waits.room._patience) is noted


def test_a_call_without_a_request(make: Callable[..., Waits]) -> None:
    request = Request(iter(()), cast("grpc.ServicerContext", Context()), make(1).room)
    with pytest.raises(CallRefusedError) as caught:
        request()
    assert (caught.value.status, caught.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "request_missing")


def test_a_request_that_comes_in_the_moment_of_being_sent_away_is_too_late(make: Callable[..., Waits]) -> None:
    def requests() -> Iterator[bytes]:
        request.send_away(CallRefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "request_late", "so"))
        yield b"request"

    request = Request(requests(), cast("grpc.ServicerContext", Context()), make(1).room)
    with pytest.raises(CallRefusedError) as caught:
        request()
    assert caught.value.reason == "request_late"


def test_of_a_call_that_has_ended_a_request_holds_nothing(make: Callable[..., Waits]) -> None:
    context = Context()
    request = Request(iter([b"one"]), cast("grpc.ServicerContext", context), make(1).room)
    assert request.alive()
    request.close()
    assert not request.alive()
    assert request._context is None
    request.send_away(CallRefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "request_late", "so"))
    assert not context.cancelled.is_set()
