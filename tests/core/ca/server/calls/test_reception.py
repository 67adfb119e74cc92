"""The thread that takes the calls, over real gRPC: what it serves, what it refuses, whom it waits for, how it ends."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from meshpki.ca.server.calls import reception as reception_module
from meshpki.ca.server.calls.batches import Batches
from meshpki.ca.server.calls.gathering import Gathering
from meshpki.ca.server.calls.grpc_core import CompletionQueue, Event
from meshpki.ca.server.calls.hearing import Hearing
from meshpki.ca.server.calls.inbound import InboundCall
from meshpki.ca.server.calls.lanes import aside_lane, lane
from meshpki.ca.server.calls.listener import Door, Listener
from meshpki.ca.server.calls.method_table import SERVER_BUSY, MethodTable
from meshpki.ca.server.calls.methods import BatchMethod, Call, CallRefusedError, Method, StreamMethod, anyone
from meshpki.ca.server.calls.patience import LATE_SECONDS, REQUEST_SECONDS
from meshpki.ca.server.calls.reception import Reception
from meshpki.ca.server.calls.sent_away import SentAway
from meshpki.ca.server.calls.waiting_room import CALLER_LATE
from meshpki.errors import MachineError, WouldWaitError
from support.reception import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.ca.server.calls.stream import Stream
    from support.reception import Pending, Served

Code = grpc.StatusCode
ECHO, TOGETHER, WATCH = "/test.Service/Echo", "/test.Service/Together", "/test.Service/Watch"


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def echo(rule: Any = anyone, *, aside: bool = False) -> Method[Any]:  # Any: whatever the test's rule grants
    return Method(ECHO, rule, lambda call, granted, request: request, aside=aside)


@dataclass
class Job:
    request: bytes
    answer: bytes = b""
    error: BaseException | None = None


class Together:
    """Work that waits until it is let go, and keeps in which batches it came."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[bytes]] = []
        self.go = threading.Event()
        if not held:
            self.go.set()

    def method(self) -> BatchMethod[None]:
        return BatchMethod(TOGETHER, anyone, self.prepare, self.work)

    def prepare(self, call: Call, granted: None, request: bytes, at_once: bool) -> Job:
        if request == b"wait" and at_once:
            raise WouldWaitError
        return Job(request)

    def work(self, jobs: Sequence[Job]) -> None:
        self.batches.append([job.request for job in jobs])
        assert self.go.wait(60)
        for job in jobs:
            if job.request == b"break all":
                raise ZeroDivisionError
            if job.request == b"panic":
                raise SystemExit
            if job.request == b"refuse":
                job.error = CallRefusedError(Code.NOT_FOUND, "why", "so")
            else:
                job.answer = b"made of " + job.request


def inbound_calls() -> int:
    """How many there are in this process."""
    return sum(isinstance(each, InboundCall) for each in gc.get_objects())


def status(call: Callable[[], object]) -> tuple[Code, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    found: Any = caught.value  # Any: a call, too
    return found.code(), found.details()


# --- served and refused


def test_a_call_is_answered_and_another_path_does_not_exist() -> None:
    with serving(echo()) as served:
        assert served.call(ECHO, b"one") == b"one"
        assert served.call(ECHO, b"") == b""
        assert status(lambda: served.call("/test.Service/Other"))[0] is Code.UNIMPLEMENTED
        assert status(lambda: served.call("/" + "x" * 3000))[0] is Code.UNIMPLEMENTED
        assert served.call(ECHO, b"two") == b"two"


def test_what_a_rule_sees_of_a_call() -> None:
    seen: list[Call] = []

    def rule(call: Call, *, at_once: bool) -> None:
        seen.append(call)

    with serving(echo(rule)) as served:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = served.channel.unary_unary(ECHO)
        before = time.time()
        method(b"", metadata=(("a", "1"), ("a", "2"), ("b-bin", b"\x00\xff")), timeout=60)
        method(b"", timeout=60)
    metadata = [pair for pair in seen[0].metadata if pair[0] in {"a", "b-bin"}]
    assert metadata == [("a", "1"), ("a", "2"), ("b-bin", b"\x00\xff")]
    assert before - 1 <= seen[0].received_at <= time.time()
    assert seen[0].peer.startswith("ipv4:127.0.0.1:")
    assert seen[0].certificate == b""
    assert len({call.id for call in seen}) == 2


def test_a_path_that_is_no_utf_8_does_not_exist_either_and_says_nothing_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(echo()) as served:
        path: Any = b"/test.Service/\xff\xfe"  # Any: a string, for all that grpcio says
        assert status(lambda: served.call(path))[0] is Code.UNIMPLEMENTED
        assert served.call(ECHO, b"one") == b"one"
    assert not caplog.records


@pytest.mark.parametrize(
    ("said", "heard"), [("\u00fc\n%", "\u00fc\n%"), ("half a letter \ud800", "half a letter \\ud800")]
)
def test_a_status_reaches_the_caller_with_its_text_whatever_letters_it_has(said: str, heard: str) -> None:
    def refuse(call: Call, *, at_once: bool) -> None:
        raise CallRefusedError(Code.PERMISSION_DENIED, "why", said)

    watched = Watched()
    with serving(echo(refuse), watched.method()) as served:
        assert status(lambda: served.call(ECHO, timeout=60)) == (Code.PERMISSION_DENIED, f"why: {heard}")
        ends: tuple[Callable[[Stream], object], ...] = (
            lambda stream: stream.finish(Code.NOT_FOUND, said),
            lambda stream: stream.displace(_refused(said)),
        )
        for number, end in enumerate(ends):
            call = watching(served)
            assert next(call) == b"first"
            end(watched.streams[number])
            assert call.details().endswith(heard)


def _refused(said: str) -> CallRefusedError:
    return CallRefusedError(Code.RESOURCE_EXHAUSTED, "busy", said)


def test_there_are_so_many_places_and_methods_aside_have_others() -> None:
    together = Together(held=True)
    with serving(together.method(), echo(aside=True), places=3) as served:
        calls = [served.begin(TOGETHER, b"%d" % number) for number in range(3)]
        until(lambda: served.lane.places.count() == 3)
        code, text = status(lambda: served.call(TOGETHER, b"too many"))
        assert (code, text.partition(":")[0]) == (Code.RESOURCE_EXHAUSTED, SERVER_BUSY)
        assert served.sent_away.counts() == {SERVER_BUSY: 1}
        assert served.call(ECHO, b"aside") == b"aside"
        together.go.set()
        assert sorted(call.result(60) for call in calls) == [b"made of %d" % number for number in range(3)]
        until(lambda: served.lane.places.count() == 0)
        assert served.call(TOGETHER, b"again") == b"made of again"


# --- judged in a row


class Gate:
    """A rule that keeps the thread which takes the calls until it is let go; calls that came meanwhile are a row."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.go, self.held = threading.Event(), threading.Event()
        judge = Reception._judge

        def judged(reception: Reception, calls: list[Any]) -> None:  # Any: what it is called with
            self.rows.append(len(calls))
            judge(reception, calls)

        monkeypatch.setattr(Reception, "_judge", judged)

    def __call__(self, call: Call, *, at_once: bool) -> None:
        if not self.held.is_set():
            self.held.set()
            assert self.go.wait(60)

    def begin(self, served: Served, calls: int) -> list[Pending]:
        """That many, while it keeps the thread with one more."""
        begun = [served.begin(ECHO, b"held")]
        assert self.held.wait(60)
        begun += [served.begin(ECHO, b"%d" % number) for number in range(calls)]
        time.sleep(0.2)  # for gRPC to hear of some of them: the others make other rows
        self.go.set()
        return begun


def until_there_is_a_row(scene: Callable[[Gate], object]) -> None:
    """Play it until several calls were judged in a row: on a busy machine gRPC may hear of each alone."""
    for _ in range(20):
        with pytest.MonkeyPatch.context() as patch:
            gate = Gate(patch)
            scene(gate)
        if max(gate.rows) > 1:
            return
    raise AssertionError("each call was judged alone")


def test_calls_that_come_together_are_judged_in_a_row_of_so_many_at_most() -> None:
    def scene(gate: Gate) -> None:
        with serving(echo(gate)) as served:
            calls = gate.begin(served, 40)
            assert [call.result(60) for call in calls] == [b"held", *(b"%d" % number for number in range(40))]
        assert sum(gate.rows) == 41
        assert max(gate.rows) <= reception_module.MOST_IN_A_ROW

    until_there_is_a_row(scene)


def test_whoever_waits_to_be_judged_holds_no_place_and_strangers_take_none_from_others() -> None:
    def scene(gate: Gate) -> None:
        taken = list[int]()

        def rule(call: Call, *, at_once: bool) -> None:
            gate(call, at_once=at_once)
            taken.append(served.lane.places.count())
            raise CallRefusedError(Code.UNAUTHENTICATED, "who", "are you")

        with serving(echo(rule), places=8) as served:
            calls = gate.begin(served, 40)
            assert {call.code() for call in calls} == {Code.UNAUTHENTICATED}
            assert served.sent_away.counts() == {}
        assert taken == [1] * 41

    until_there_is_a_row(scene)


def test_of_a_row_so_many_are_served_as_there_are_places() -> None:
    def scene(gate: Gate) -> None:
        together = Together(held=True)
        method = BatchMethod(ECHO, gate, together.prepare, together.work)
        with serving(method, places=9) as served:
            calls = gate.begin(served, 15)
            until(lambda: served.sent_away.counts() == {SERVER_BUSY: 7})
            together.go.set()
            assert Counter(call.code() for call in calls) == {Code.OK: 9, Code.RESOURCE_EXHAUSTED: 7}
            until(lambda: served.lane.places.count() == 0)
        assert max(gate.rows) <= 9 // 4

    until_there_is_a_row(scene)


def test_where_calls_are_judged_alone_one_of_no_method_keeps_no_other_waiting() -> None:
    with serving(echo(), places=1) as served:
        for number in range(5):
            assert status(lambda: served.call("/test.Service/Other"))[0] is Code.UNIMPLEMENTED
            assert served.call(ECHO, b"%d" % number, timeout=5) == b"%d" % number


def test_whoever_counts_those_without_a_place_and_fails_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    def count(refused: CallRefusedError) -> None:
        raise ZeroDivisionError

    together = Together(held=True)
    method = BatchMethod(TOGETHER, anyone, together.prepare, together.work, count_busy=count)
    with serving(method, places=1) as served:
        first = served.begin(TOGETHER, b"first")
        until(served.lane.places.full)
        assert status(lambda: served.call(TOGETHER))[0] is Code.RESOURCE_EXHAUSTED
        together.go.set()
        assert first.result(60) == b"made of first"
    assert "ZeroDivisionError" in caplog.text


def until_requests_follow(scene: Callable[[], set[Code]]) -> None:
    """Play it until all are served: on a busy machine gRPC's client may stand still between a call and its request."""
    for _ in range(20):
        codes = scene()
        assert codes <= {Code.OK, Code.RESOURCE_EXHAUSTED}
        if codes == {Code.OK}:
            return
    raise AssertionError("some were turned away, however often")


def test_a_row_of_one_who_was_late_too_often_is_served_if_its_requests_follow() -> None:
    def scene() -> set[Code]:
        with pytest.MonkeyPatch.context() as patch, serving(echo(gate := Gate(patch))) as served:
            for _ in range(20):
                served.lane.room._patience.note(None, time.monotonic())
            codes = {call.code() for call in gate.begin(served, 16)}
        assert served.sent_away.counts().keys() <= {CALLER_LATE}
        return codes

    until_requests_follow(scene)


class CallsFirst(CompletionQueue):
    """Says of requests only when it has no more calls to tell of, for a moment: as when another thread reads them."""

    MOMENT = 0.05

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Event] = []
        self.telling = False

    def next(self, seconds: float | None) -> Event | None:
        while not self.telling:
            event = super().next(self.MOMENT if self.kept else seconds)
            if event is None and self.kept:
                self.telling = True
            elif event is None or getattr(event.tag, "__func__", None) is not InboundCall._received:
                return event
            else:
                self.kept.append(event)
        event = self.kept.pop(0)
        self.telling = bool(self.kept)
        return event


@pytest.mark.parametrize("aside", [False, True], ids=["of one who was late too often", "of strangers"])
def test_no_row_costs_one_that_was_not_heard_yet_its_places(monkeypatch: pytest.MonkeyPatch, aside: bool) -> None:
    """What was judged one by one would have been heard one by one."""
    monkeypatch.setattr(reception_module, "CompletionQueue", CallsFirst)
    gate, waiting, add = Gate(monkeypatch), list[int](), Gathering.add

    def added(gathering: Gathering[Any], item: object, now: float) -> None:  # Any: whatever is gathered
        add(gathering, item, now)
        waiting.append(len(gathering._items))

    monkeypatch.setattr(Gathering, "add", added)
    with serving(echo(gate, aside=aside)) as served:
        for _ in range(40):
            served.lane.room._patience.note(None, time.monotonic())
        calls = gate.begin(served, 60)
        assert Counter(call.code() for call in calls) == {Code.OK: 61}
    assert served.sent_away.counts() == {}
    assert max(gate.rows) == max(waiting) == reception_module.MOST_IN_A_ROW  # the others wait in gRPC


def test_whoever_sends_no_request_keeps_nobody_from_being_judged() -> None:
    def scene() -> set[Code]:
        go = threading.Event()

        def never() -> Any:  # Any: no request at all
            go.wait(60)
            yield from ()

        with serving(echo()) as served:
            stream: grpc.StreamUnaryMultiCallable[bytes, bytes] = served.channel.stream_unary(ECHO)
            held = [stream.future(never(), timeout=60) for _ in range(8)]
            until(lambda: served.lane.room.count() == 8)
            for _ in range(40):
                served.lane.room._patience.note(None, time.monotonic())
            calls = [served.begin(ECHO, b"%d" % number) for number in range(40)]
            codes = {call.code() for call in calls}
            go.set()
            for call in held:
                call.cancel()
        return codes

    until_requests_follow(scene)


def test_a_row_is_served_in_fewer_places_than_it_has_calls_if_each_needs_its_own_for_a_moment_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = Hearing.over  # whatever the machine does: requests that are on their way are waited for
    monkeypatch.setattr(Hearing, "over", lambda hearing, nothing_more: over(hearing, nothing_more=False))
    gate, together = Gate(monkeypatch), Together(held=True)
    with serving(echo(gate), together.method(), places=40) as served:
        held = [served.begin(TOGETHER, b"%d" % number) for number in range(37)]
        until(lambda: served.lane.places.count() == 37 and not served.lane.room.count())
        calls = gate.begin(served, 30)
        assert Counter(call.code() for call in calls) == {Code.OK: 31}
        together.go.set()
        assert {call.code() for call in held} == {Code.OK}
    assert served.sent_away.counts() == {}


def test_a_cycle_that_one_call_leaves_keeps_no_other_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    def fail() -> None:
        error = ZeroDivisionError()
        raise error  # this frame holds the error, and the error this frame

    def rule(call: Call, *, at_once: bool) -> None:
        gate(call, at_once=at_once)
        with contextlib.suppress(ZeroDivisionError):
            if next(numbers) == 7:
                fail()

    numbers = itertools.count()
    with serving(echo(rule)) as served:
        gc.collect()
        gc.disable()
        left_by_other_tests = inbound_calls()
        try:
            calls = gate.begin(served, 16)
            assert {call.code() for call in calls} == {Code.OK}
            until(lambda: inbound_calls() <= left_by_other_tests + 1)
        finally:
            gc.enable()


def test_a_call_that_cannot_even_begin_costs_no_other_of_its_row(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate, real = Gate(monkeypatch), InboundCall.expect

    def expect(inbound: InboundCall, since: float) -> None:
        real(inbound, since)
        if len(gate.rows) == 2 and not caplog.records:
            raise SystemExit

    monkeypatch.setattr(InboundCall, "expect", expect)
    with serving(echo(gate)) as served:
        calls = gate.begin(served, 8)
        assert [call.result(60) for call in calls] == [b"held", *(b"%d" % number for number in range(8))]
    assert [record.message for record in caplog.records] == ["the beginning of a call met an error of ours"]


# --- worked on together


def test_requests_that_come_during_a_batch_are_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    together, brought = Together(held=True), list[object]()
    put = Batches.put

    def and_count(batches: Batches[object], *items: object) -> None:
        put(batches, *items)
        brought.extend(items)

    monkeypatch.setattr(Batches, "put", and_count)
    with serving(together.method()) as served:
        first = served.begin(TOGETHER, b"first")
        until(lambda: together.batches)
        others = [served.begin(TOGETHER, b"%d" % number) for number in range(8)]
        until(lambda: len(brought) == 9)
        together.go.set()
        brought.clear()
        assert first.result(60) == b"made of first"
        assert [call.result(60) for call in others] == [b"made of %d" % number for number in range(8)]
    assert together.batches[0] == [b"first"]
    assert sorted(together.batches[1]) == [b"%d" % number for number in range(8)]


def test_an_error_is_that_of_its_own_job_and_a_broken_batch_that_of_all(caplog: pytest.LogCaptureFixture) -> None:
    together = Together(held=True)
    with serving(together.method()) as served:
        held = served.begin(TOGETHER, b"held")
        until(lambda: together.batches)
        good, refused = served.begin(TOGETHER, b"good"), served.begin(TOGETHER, b"refuse")
        together.go.set()
        assert (held.result(60), good.result(60)) == (b"made of held", b"made of good")
        assert status(lambda: refused.result(60)) == (Code.NOT_FOUND, "why: so")
        assert status(lambda: served.call(TOGETHER, b"break all"))[0] is Code.INTERNAL
        assert "ZeroDivisionError" in caplog.text
        assert status(lambda: served.call(TOGETHER, b"panic"))[0] is Code.INTERNAL
        assert "SystemExit" in caplog.text
        assert served.call(TOGETHER, b"after") == b"made of after"
        assert served.call(TOGETHER, b"wait") == b"made of wait"
        until(lambda: served.lane.places.count() == 0)


def test_what_failed_in_a_batch_that_broke_holds_on_to_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(jobs: Sequence[Job]) -> None:
        for job in jobs:
            try:
                _ = 1 / len(job.answer)
            except ZeroDivisionError as error:
                job.error = error
        raise MemoryError

    # What pytest keeps of the log holds the frames.
    monkeypatch.setattr(logging.getLogger("meshpki.ca.server.calls.endings"), "disabled", True)

    method = BatchMethod(TOGETHER, anyone, lambda call, granted, request, at_once: Job(request), work)
    with serving(method) as served:
        gc.collect()
        gc.disable()
        left_by_other_tests = inbound_calls()
        try:
            assert status(lambda: served.call(TOGETHER))[0] is Code.INTERNAL
            until(lambda: inbound_calls() <= left_by_other_tests)
        finally:
            gc.enable()


def test_an_operation_that_grpc_does_not_take_is_said_and_costs_its_own_call_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said by a number, and no tag is called for it: unheard, the call would wait for its end for ever."""
    real = InboundCall.answer

    def answer(inbound: InboundCall, message: bytes) -> None:
        real(inbound, message)
        if message == b"made of twice":
            real(inbound, message)

    monkeypatch.setattr(InboundCall, "answer", answer)
    together = Together(held=True)
    with serving(together.method()) as served:
        first = served.begin(TOGETHER, b"first")
        until(lambda: together.batches)
        others = [served.begin(TOGETHER, each) for each in (b"twice", b"last")]
        until(lambda: served.lane.places.count() == 3 and not served.lane.room.count())
        together.go.set()
        assert [call.result(60) for call in (first, *others)] == [b"made of first", b"made of twice", b"made of last"]
    assert "gRPC takes no such operations now: error 8" in caplog.text


def test_work_that_hangs_holds_up_nothing_else() -> None:
    """A disk that hangs, say: who asks for health still hears, and who comes too much is told so."""
    together = Together(held=True)
    with serving(together.method(), echo(aside=True), places=2) as served:
        calls = [served.begin(TOGETHER, b"one"), served.begin(TOGETHER, b"two")]
        until(lambda: together.batches)
        for _ in range(20):
            assert served.call(ECHO, b"alive") == b"alive"
        until(served.lane.places.full)
        assert status(lambda: served.call(TOGETHER))[0] is Code.RESOURCE_EXHAUSTED
        together.go.set()
        assert [call.result(60) for call in calls] == [b"made of one", b"made of two"]


def test_a_flood_of_other_calls_starves_nobody() -> None:
    together, stop = Together(), threading.Event()
    with serving(together.method(), echo(aside=True)) as served:

        def flood() -> None:
            while not stop.is_set():
                for call in [served.begin(ECHO, b"x") for _ in range(10)]:
                    call.result(60)

        threads = [threading.Thread(target=flood) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(100):
            assert served.call(TOGETHER, b"%d" % number) == b"made of %d" % number
        stop.set()
        for thread in threads:
            thread.join(60)


# --- waiting


def test_a_rule_that_waits_keeps_no_other_call_waiting() -> None:
    go = threading.Event()

    def rule(call: Call, *, at_once: bool) -> None:
        if any(pair == ("who", "stranger") for pair in call.metadata):
            if at_once:
                raise WouldWaitError
            assert go.wait(60)

    with serving(echo(rule)) as served:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = served.channel.unary_unary(ECHO)
        held = [method.future(b"held", metadata=(("who", "stranger"),), timeout=60) for _ in range(40)]
        until(lambda: served.lane.places.count() == 40)
        for _ in range(20):
            assert served.call(ECHO, b"good") == b"good"
        go.set()
        assert [call.result(60) for call in held] == [b"held"] * 40


def test_a_request_that_lies_there_unheard_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a processor to spare, or behind a flood; but no flood gains more than a bound by it."""
    real, waiting, go = InboundCall.expect, threading.Event(), threading.Event()
    since: list[float] = []

    def expect(inbound: InboundCall, moment: float | None = None) -> bool:
        at_risk = real(inbound, moment)
        since.append(inbound.since)
        waiting.set()
        assert go.wait(60)  # the thread that takes requests stands still
        return at_risk

    monkeypatch.setattr(InboundCall, "expect", expect)
    with serving(echo()) as served:
        room, call = served.lane.room, served.begin(ECHO, b"here")
        assert waiting.wait(60)
        room.look(since[0] + reception_module.UNHEARD_SECONDS - 0.1)
        assert not room._patience, "not even noted"
        room.look(since[0] + reception_module.UNHEARD_SECONDS + LATE_SECONDS + 0.1)
        assert room._patience
        go.set()
        assert call.result(60) == b"here"


def test_who_sends_no_request_is_late_though_nothing_happens() -> None:
    go = threading.Event()

    def never() -> Any:  # Any: no request at all
        go.wait(60)
        yield from ()

    with serving(echo()) as served:
        stream: grpc.StreamUnaryMultiCallable[bytes, bytes] = served.channel.stream_unary(ECHO)
        call, began = stream.future(never(), timeout=60), time.monotonic()
        while not call.done():
            served.lane.room.look(time.monotonic())
            time.sleep(0.01)
        assert time.monotonic() - began >= REQUEST_SECONDS
        assert status(lambda: call.result(60))[1].startswith("request_late")
        go.set()


def test_whoever_leaves_gives_back_his_place() -> None:
    go = threading.Event()

    def never() -> Any:  # Any: no request at all
        go.wait(60)
        yield from ()

    left: list[str] = []
    method = Method(ECHO, anyone, lambda *_: b"", left=lambda call, granted, refused: left.append(refused.reason))
    with serving(method, places=2) as served:
        stream: grpc.StreamUnaryMultiCallable[bytes, bytes] = served.channel.stream_unary(ECHO)
        call = stream.future(never(), timeout=60)
        until(lambda: served.lane.room.count() == 1)
        call.cancel()
        until(lambda: left == ["caller_left"])
        while len(left) < 2:  # its time may be over before it has come at all
            assert status(lambda: stream(never(), timeout=1))[0] is Code.DEADLINE_EXCEEDED
            until(lambda: served.lane.places.count() == 0)
        go.set()
        assert set(left) == {"caller_left"}  # twice or more: a place is free before its end is told
        assert status(lambda: stream(iter(()), timeout=60))[0] is Code.INVALID_ARGUMENT
        until(lambda: left[-1] == "request_missing")


# --- streams


class Watched:
    def __init__(self) -> None:
        self.streams: list[Stream] = []

    def method(self) -> StreamMethod[None]:
        return StreamMethod(WATCH, anyone, self.watch)

    def watch(self, call: Call, granted: None, request: bytes, stream: Stream) -> None:
        if request == b"refuse":
            raise CallRefusedError(Code.NOT_FOUND, "why", "so")
        self.streams.append(stream)
        stream.send(b"first")


def watching(served: Served, request: bytes = b"") -> Any:  # Any: a call and an iterator, for which there is no type
    method: grpc.UnaryStreamMultiCallable[bytes, bytes] = served.channel.unary_stream(WATCH)
    return method(request, timeout=60)


def test_a_stream_is_answered_until_either_side_ends_it() -> None:
    watched = Watched()
    with serving(watched.method()) as served:
        one = watching(served)
        assert next(one) == b"first"
        other = watching(served)
        assert next(other) == b"first"
        until(lambda: all(stream.send(b"second") for stream in watched.streams[:1]))
        assert next(one) == b"second"
        watched.streams[0].finish()
        watched.streams[1].displace(CallRefusedError(Code.RESOURCE_EXHAUSTED, "busy", "so"))
        ends = {call.code(): call.details() for call in (one, other)}
        assert ends == {Code.OK: "", Code.RESOURCE_EXHAUSTED: "busy: so"}
        third = watching(served)
        next(third)
        assert served.lane.places.count() == 1
        third.cancel()
        until(lambda: served.lane.places.count() == 0)
        assert all(stream.over for stream in watched.streams)
        assert status(lambda: next(watching(served, b"refuse"))) == (Code.NOT_FOUND, "why: so")
        until(lambda: served.lane.places.count() == 0)


# --- the end


def test_calls_under_way_end_before_it_does_and_new_ones_are_not_taken() -> None:
    together = Together(held=True)
    with serving(together.method()) as served:
        call = served.begin(TOGETHER, b"last")
        until(lambda: together.batches)
        stopping = threading.Thread(target=served.reception.stop)
        stopping.start()
        server = served.reception._listeners[0]._server
        until(lambda: server._stopping)
        with server._lock:  # held until gRPC knows, too: a call that comes before is taken
            pass
        assert status(lambda: served.call(TOGETHER, b"too late"))[0] in {Code.UNAVAILABLE, Code.CANCELLED}
        assert stopping.is_alive()
        together.go.set()
        assert call.result(60) == b"made of last"
        stopping.join(60)
        assert not served.reception._live
    assert together.batches == [[b"last"]]


def test_what_has_ended_before_stop_goes_on_is_noticed_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a busy machine the thread that stops may stand still between any two steps, while the other hears all."""
    real = Listener.stop

    def stop(listener: Listener) -> None:
        real(listener)
        until(lambda: listener.ended)

    monkeypatch.setattr(Listener, "stop", stop)
    monkeypatch.setattr(reception_module, "DRAIN_SECONDS", 2.0)
    with serving(echo()) as served:
        assert served.call(ECHO, b"one") == b"one"
    assert not served.reception._thread.is_alive()
    assert not caplog.records


def test_what_hangs_is_cancelled_and_at_last_left_to_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reception_module, "DRAIN_SECONDS", 0.2)
    monkeypatch.setattr(reception_module, "CANCELLED_SECONDS", 0.2)
    together, watched = Together(held=True), Watched()
    with serving(together.method(), watched.method()) as served:
        call, stream = served.begin(TOGETHER, b"hangs"), watching(served)
        until(lambda: together.batches)
        next(stream)
        served.reception.stop()
        assert {call.code(), stream.code()} <= {Code.CANCELLED, Code.UNAVAILABLE}
        assert "calls are left under way" in caplog.text
        together.go.set()  # and what comes then does no harm
        until(lambda: not served.reception._thread.is_alive())


def test_many_receptions_come_and_go_with_calls_under_way() -> None:
    """What gRPC holds inside is given back in the right order: the wrong one ends the process."""
    for number in range(25):
        with serving(echo()) as served:
            calls = [served.begin(ECHO, b"%d" % number) for _ in range(number)]
        for call in calls:
            assert call.code() in {Code.OK, Code.UNAVAILABLE, Code.CANCELLED}


def test_it_says_when_nobody_takes_calls_any_more_but_not_when_it_was_stopped() -> None:
    class Broken(CompletionQueue):
        def next(self, seconds: float | None) -> Event:
            raise MemoryError

    with serving(echo()) as served:
        assert served.call(ECHO, b"one") == b"one"
        assert served.reception.failures() == ()
    assert served.reception.failures() == ()
    broken = Reception(SentAway())
    broken._queue = Broken()
    broken._thread = threading.Thread(target=_ended_by, args=(broken._run, MemoryError))
    broken.start()
    broken._thread.join(60)
    assert "has ended" in broken.failures()[0]


def _ended_by(run: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        run()


def test_a_port_that_is_taken_is_said() -> None:
    with serving(echo()) as served, pytest.raises(MachineError) as caught:
        served.reception.listen(Door(served.address, "renewal.listen", None, 10), served.table)
    assert served.address in caught.value.seen
    assert "renewal.listen" in caught.value.todo


@pytest.mark.parametrize("caller", [False, True], ids=["nobody", "a caller"])
def test_ports_of_one_that_was_never_started_are_let_go(caller: bool) -> None:
    """Whoever called meanwhile has connected to a port, and is answered by nobody."""
    with serving(echo()) as served:
        reception, said = Reception(SentAway()), SentAway().count
        table = MethodTable((echo(),), lane(4, said, lambda caller: None), aside_lane(said))
        address = reception.listen(Door("127.0.0.1:0", "listen", None, 10), table)
        with pytest.raises(MachineError):
            reception.listen(Door(served.address, "renewal.listen", None, 10), table)
        with grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
            method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO)
            call: Any = method.future(b"", timeout=30) if caller else None  # Any: see Pending
            host, _, port = address.rpartition(":")
            if caller:
                socket.create_connection((host, int(port)), 10).close()
            reception.stop()
            assert not reception._thread.is_alive()
            assert reception.failures() == ()
            with socket.create_server((host, int(port))):
                pass
            if call is not None:
                assert call.code() in {Code.UNAVAILABLE, Code.CANCELLED}
        reception.stop()  # once more does no harm
        assert served.call(ECHO, b"the other") == b"the other"
