"""gRPC's queue: whoever asks without waiting does not wait, and hears what has happened all the same."""

from __future__ import annotations

import time

from meshpki.ca.server.calls.grpc_core import CompletionQueue, CoreServer, Event, call_of


def test_no_time_to_wait_is_none_at_all() -> None:
    """A lone request is worked on after such a look: gRPC would make a millisecond of a deadline that is just over."""
    queue, took = CompletionQueue(), list[float]()
    for _ in range(50):
        began = time.perf_counter()
        assert queue.next(0.0) is None
        took.append(time.perf_counter() - began)
    assert min(took) < 0.0005


def test_what_has_happened_is_heard_without_waiting() -> None:
    queue, heard = CompletionQueue(), list[str]()

    def accepted(event: Event) -> None:
        assert call_of(event) is None
        heard.append("no call")

    server = CoreServer(queue, ())
    assert server.listen("127.0.0.1:0", None)
    server.start()
    server.accept(accepted)
    assert queue.next(0.0) is None
    server.shut_down(lambda event: heard.append("all ended"))
    deadline = time.monotonic() + 30
    while len(heard) < 2 and time.monotonic() < deadline:
        event = queue.next(0.0)
        if event is not None:
            event.tag(event)
    server.destroy()
    assert heard == ["no call", "all ended"]


def test_some_time_to_wait_is_waited() -> None:
    began = time.monotonic()
    assert CompletionQueue().next(0.05) is None
    assert time.monotonic() - began >= 0.05
