"""One call from its first byte to its end, event by event, with a gRPC that only remembers what it was told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest

from meshpki.ca.server.calls.inbound import InboundCall
from meshpki.ca.server.calls.lanes import Lane
from meshpki.ca.server.calls.method_table import MethodTable
from meshpki.ca.server.calls.methods import AnyMethod, BatchMethod, Call, CallRefusedError, Method, anyone
from meshpki.ca.server.calls.places import Places
from meshpki.ca.server.calls.waiting_room import WaitingRoom, without_request
from meshpki.errors import WouldWaitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.ca.server.calls.grpc_core import CoreCall
    from meshpki.ca.server.calls.workers import Workers

Code = grpc.StatusCode
CALL = Call("ab-1", "ipv4:192.0.2.1:5", 0.0, (("authorization", "Bearer x"),))
REFUSED = CallRefusedError(Code.UNAUTHENTICATED, "token_expired", "so")


class Core:
    """What gRPC was told, and whom it will tell."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.tags: list[Callable[[object], object]] = []

    def receive(self, tag: Callable[[object], object]) -> None:
        self._tell(tag, "receive")

    def answer(self, message: bytes, tag: Callable[[object], object]) -> None:
        self._tell(tag, "answer", message)

    def end(self, status: Code, text: str, tag: Callable[[object], object]) -> None:
        self._tell(tag, "end", status, text.partition(":")[0])

    def cancel(self, status: Code, text: str) -> None:
        self.told.append(("cancel", status, text.partition(":")[0]))

    def _tell(self, tag: Callable[[object], object], *what: object) -> None:
        self.told.append(what)
        self.tags.append(tag)


@dataclass
class Event:
    """What gRPC says of an operation."""

    request: bytes | None = None
    gone: bool = False
    batch_operations: list[Any] = field(default_factory=list)  # Any: cygrpc's

    def __post_init__(self) -> None:
        self.batch_operations = [self]

    def message(self) -> bytes | None:
        return self.request

    def cancelled(self) -> bool:
        return self.gone


class Scene:
    """One call, what happens to it, and what there is of it around."""

    def __init__(self, method: AnyMethod, *, no_threads: bool = False) -> None:
        self.core = Core()
        self.tasks: list[Callable[[], object]] = []
        self.desk: list[tuple[str, object]] = []
        self.no_threads = no_threads
        self.said: list[str] = []
        self.now = 0.0
        self.places = Places(4)
        self.room = WaitingRoom(4, self.said.append, clock=lambda: self.now)
        lane = Lane(self.places, self.room, cast("Workers", self))
        row = MethodTable([method], lane).rows[method.path]
        self.inbound = InboundCall(CALL, cast("CoreCall", self.core), row, self)

    def submit(self, task: Callable[[], object]) -> None:
        if self.no_threads:
            raise RuntimeError
        self.tasks.append(task)

    def gather(self, inbound: InboundCall, job: object, work: object) -> None:
        self.desk.append(("gather", job))

    def hand_over(self, inbound: InboundCall, job: object, work: object) -> None:
        self.desk.append(("hand over", job))

    def ended(self, inbound: InboundCall) -> None:
        self.desk.append(("ended", inbound))

    def begin(self) -> Scene:
        if self.inbound.begin():
            self.inbound.expect()
        return self

    def happens(self, request: bytes | None = None, *, gone: bool = False) -> Scene:
        """The operation that was told last has come to this."""
        self.core.tags[-1](Event(request, gone))
        return self

    def thread(self) -> Scene:
        """A worker does the task that waits."""
        self.tasks.pop(0)()
        return self

    @property
    def over(self) -> bool:
        return self.desk[-1:] == [("ended", self.inbound)]


def patient_rule(call: Call, *, at_once: bool) -> str:
    """One that has to wait for somebody."""
    if at_once:
        raise WouldWaitError
    return "granted"


def refusing_rule(call: Call, *, at_once: bool) -> str:
    raise REFUSED


def late_refusing_rule(call: Call, *, at_once: bool) -> str:
    patient_rule(call, at_once=at_once)
    raise REFUSED


def broken_rule(call: Call, *, at_once: bool) -> str:
    raise ZeroDivisionError


class Panic(BaseException):
    """As what `cryptography` raises when its inside breaks: no Exception."""


def panicking_rule(call: Call, *, at_once: bool) -> str:
    raise Panic


def late_panicking_rule(call: Call, *, at_once: bool) -> str:
    patient_rule(call, at_once=at_once)
    raise SystemExit


class Served:
    """Handlers that keep what they were given."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, bytes]] = []
        self.left: list[str] = []

    def method(self, rule: Any = anyone) -> Method[Any]:  # Any: whatever the test's rule grants
        return Method("/a/b", rule, self.handle, left=self.hear)

    def batch(self, rule: Any = anyone, *, patient: bool = False) -> BatchMethod[Any]:  # Any: as above
        def prepare(call: Call, granted: object, request: bytes, at_once: bool) -> Any:  # Any: a job
            if request == b"refuse":
                raise REFUSED
            if patient and at_once:
                raise WouldWaitError
            self.asked.append((granted, request))
            return "job"

        return BatchMethod("/a/b", rule, prepare, lambda jobs: None, left=self.hear)

    def handle(self, call: Call, granted: object, request: bytes) -> bytes:
        if request == b"refuse":
            raise REFUSED
        if request == b"break":
            raise ZeroDivisionError
        if request == b"panic":
            raise Panic
        self.asked.append((granted, request))
        return b"answer to " + request

    def hear(self, call: Call, granted: object, refused: CallRefusedError) -> None:
        self.left.append(refused.reason)


@pytest.fixture
def served() -> Served:
    return Served()


# --- judged, asked, answered


def test_a_call_that_can_be_judged_at_once_is_asked_for_its_request_and_answered(served: Served) -> None:
    scene = Scene(served.method()).begin()
    assert scene.core.told == [("receive",)]
    assert (scene.places.count(), scene.room.count()) == (1, 1)
    scene.happens(b"one")
    assert scene.core.told[1:] == [("answer", b"answer to one")]
    assert served.asked == [(None, b"one")]
    assert (scene.places.count(), scene.room.count()) == (0, 0)
    assert not scene.over
    assert scene.happens().over


def test_one_whose_rule_has_to_wait_is_judged_again_in_a_thread_and_what_it_grants_counts(served: Served) -> None:
    scene = Scene(served.method(patient_rule)).begin()
    assert scene.core.told == []
    assert scene.places.count() == 1
    scene.thread()
    assert scene.core.told == [("receive",)]
    scene.happens(b"one")
    assert served.asked == [("granted", b"one")]
    assert scene.inbound.caller == "granted"


@pytest.mark.parametrize(
    ("rule", "threads", "wanted"),
    [
        (refusing_rule, 0, ("end", Code.UNAUTHENTICATED, "token_expired")),
        (late_refusing_rule, 1, ("end", Code.UNAUTHENTICATED, "token_expired")),
        (broken_rule, 0, ("end", Code.INTERNAL, "internal")),
        (panicking_rule, 0, ("end", Code.INTERNAL, "internal")),
        (late_panicking_rule, 1, ("end", Code.INTERNAL, "internal")),
    ],
)
def test_of_one_that_is_refused_no_request_is_taken(
    served: Served, rule: object, threads: int, wanted: tuple[object, ...]
) -> None:
    scene = Scene(served.method(rule)).begin()
    for _ in range(threads):
        scene.thread()
    assert scene.core.told == [wanted]
    assert scene.places.count() == 0
    assert scene.happens().over
    assert not served.asked
    assert not served.left


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (b"refuse", ("end", Code.UNAUTHENTICATED, "token_expired")),
        (b"break", ("end", Code.INTERNAL, "internal")),
        (b"panic", ("end", Code.INTERNAL, "internal")),
    ],
)
def test_a_handler_that_fails_is_a_status(served: Served, request_: bytes, wanted: tuple[object, ...]) -> None:
    scene = Scene(served.method()).begin().happens(request_)
    assert scene.core.told == [("receive",), wanted]
    assert scene.places.count() == 0
    assert scene.happens().over


def test_without_a_thread_it_is_a_status_too(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(served.method(patient_rule), no_threads=True).begin()
    assert scene.core.told == [("end", Code.INTERNAL, "internal")]
    assert scene.places.count() == 0
    assert "a call failed" in caplog.text


def stubborn_rule(call: Call, *, at_once: bool) -> str:
    raise WouldWaitError


def test_one_that_would_wait_for_ever_is_an_error_of_ours(served: Served) -> None:
    scene = Scene(served.method(stubborn_rule)).begin().thread()
    assert scene.core.told == [("end", Code.INTERNAL, "internal")]
    assert not scene.tasks


def test_where_waiting_itself_breaks_nothing_of_the_call_stays(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tag: object) -> None:
        raise MemoryError

    scene = Scene(served.method())
    monkeypatch.setattr(scene.core, "receive", broken)
    scene.begin()
    assert scene.core.told == [("end", Code.INTERNAL, "internal")]
    assert (scene.places.count(), scene.room.count()) == (0, 0)


# --- worked on together


def test_what_is_worked_on_together_is_gathered_and_keeps_its_place(served: Served) -> None:
    scene = Scene(served.batch()).begin().happens(b"one")
    assert scene.desk == [("gather", "job")]
    assert (scene.places.count(), scene.room.count()) == (1, 0)
    scene.inbound.answer(b"made")
    assert scene.core.told[-1] == ("answer", b"made")
    assert scene.places.count() == 0


def test_what_has_to_wait_first_does_so_in_a_thread_and_goes_from_there(served: Served) -> None:
    scene = Scene(served.batch(patient=True)).begin().happens(b"one")
    assert scene.desk == []
    scene.thread()
    assert scene.desk == [("hand over", "job")]
    scene.inbound.fail(REFUSED)
    assert scene.core.told[-1] == ("end", Code.UNAUTHENTICATED, "token_expired")
    assert scene.places.count() == 0


def test_what_cannot_be_prepared_goes_to_no_batch(served: Served) -> None:
    scene = Scene(served.batch()).begin().happens(b"refuse")
    assert scene.desk == []
    assert scene.core.told[-1] == ("end", Code.UNAUTHENTICATED, "token_expired")


# --- no request


@pytest.mark.parametrize(("gone", "reason"), [(False, "request_missing"), (True, "caller_left")])
def test_a_call_without_a_request_is_heard_of_by_what_became_of_it(served: Served, gone: bool, reason: str) -> None:
    scene = Scene(served.method(patient_rule)).begin().thread().happens(None)
    assert scene.core.told[-1] == ("end", Code.INVALID_ARGUMENT, "request_missing")
    assert (scene.places.count(), scene.room.count()) == (0, 0)
    assert not served.left
    assert scene.happens(gone=gone).over
    assert served.left == [reason]
    assert not served.asked


def test_whoever_hears_of_it_and_fails_keeps_nothing_of_the_call() -> None:
    def hear(call: Call, granted: object, refused: CallRefusedError) -> None:
        raise ZeroDivisionError

    scene = Scene(Method("/a/b", anyone, lambda *_: b"", left=hear)).begin().happens(None)
    with pytest.raises(ZeroDivisionError):  # which the queue's thread logs
        scene.happens()
    assert scene.over


@pytest.mark.parametrize("request_", [None, b"in the same moment"])
def test_one_that_was_sent_away_is_not_served(served: Served, request_: bytes | None) -> None:
    scene = Scene(served.method()).begin()
    scene.inbound.send_away(without_request("request_late"))
    assert scene.core.told[-1] == ("cancel", Code.RESOURCE_EXHAUSTED, "request_late")
    scene.happens(request_)
    assert scene.core.told[-1] == ("end", Code.RESOURCE_EXHAUSTED, "request_late")
    assert scene.places.count() == 0
    assert scene.happens(gone=True).over
    assert served.left == ["request_late"]
    assert not served.asked


def test_whoever_is_late_is_sent_away_by_the_room(served: Served) -> None:
    scene = Scene(served.method()).begin()
    scene.now = 100.0
    scene.room.look(scene.now)
    assert scene.said == ["request_late"]
    assert scene.core.told[-1] == ("cancel", Code.RESOURCE_EXHAUSTED, "request_late")
