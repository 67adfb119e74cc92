"""The gRPC health protocol without a server: what is answered, who is told of a change, and who has to go."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import grpc
import pytest

from meshpki.ca.server.calls.methods import Call, CallRefusedError
from meshpki.ca.server.health import SERVICES, WATCHES_AT_ONCE, HealthService
from meshpki.wire.health_pb2 import HealthCheckRequest, HealthCheckResponse

if TYPE_CHECKING:
    from meshpki.ca.server.calls.stream import Stream

CALL = Call("ab-1", "ipv4:192.0.2.1:5", 0.0, ())
Status = HealthCheckResponse


class Watcher:
    """A stream whose client reads, or does not."""

    def __init__(self, *, reads: bool = True) -> None:
        self.reads = reads
        self.heard: list[int] = []
        self.over = False
        self.end = ""

    def send(self, message: bytes) -> bool:
        if not self.over and (self.reads or not self.heard):
            self.heard.append(Status.FromString(message).status)
            return True
        return False

    def finish(self) -> None:
        self.over, self.end = True, "finished"

    def displace(self, refused: CallRefusedError) -> None:
        self.over, self.end = True, refused.reason


class Scene:
    def __init__(self) -> None:
        self.serving = True
        self.said: list[str] = []
        self.health = HealthService(lambda: self.serving, self.said.append)

    def check(self, service: str = "") -> int:
        request = HealthCheckRequest(service=service).SerializeToString()
        return Status.FromString(self.health.check(CALL, None, request)).status

    def watch(self, service: str = "", *, reads: bool = True) -> Watcher:
        watcher = Watcher(reads=reads)
        request = HealthCheckRequest(service=service).SerializeToString()
        self.health.watch(CALL, None, request, cast("Stream", watcher))
        return watcher


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("service", SERVICES)
def test_a_check_tells_whether_it_serves(scene: Scene, service: str) -> None:
    assert scene.check(service) == Status.SERVING
    scene.serving = False
    assert scene.check(service) == Status.NOT_SERVING


def test_another_service_is_not_found_and_other_bytes_are_no_request(scene: Scene) -> None:
    with pytest.raises(CallRefusedError) as caught:
        scene.check("other")
    assert caught.value.status is grpc.StatusCode.NOT_FOUND
    for ask in (
        lambda: scene.health.check(CALL, None, b"\xff"),
        lambda: scene.health.watch(CALL, None, b"\xff", cast("Stream", Watcher())),
    ):
        with pytest.raises(CallRefusedError) as caught:
            ask()
        assert caught.value.status is grpc.StatusCode.INVALID_ARGUMENT


def test_a_watcher_hears_at_once_and_of_every_change_once(scene: Scene) -> None:
    watcher, unknown = scene.watch(), scene.watch("other")
    for _ in range(3):
        scene.health.look()
    assert watcher.heard == [Status.SERVING]
    assert unknown.heard == [Status.SERVICE_UNKNOWN]
    scene.serving = False
    for _ in range(3):
        scene.health.look()
    scene.serving = True
    scene.health.look()
    assert watcher.heard == [Status.SERVING, Status.NOT_SERVING, Status.SERVING]
    assert unknown.heard == [Status.SERVICE_UNKNOWN]


def test_a_watcher_that_could_not_be_told_is_told_when_he_reads_again(scene: Scene) -> None:
    watcher = scene.watch(reads=False)
    scene.serving = False
    scene.health.look()
    assert watcher.heard == [Status.SERVING]
    watcher.reads = True
    scene.health.look()
    assert watcher.heard == [Status.SERVING, Status.NOT_SERVING]


def test_one_more_than_there_may_be_displaces_the_oldest_who_is_there(scene: Scene) -> None:
    watchers = [scene.watch(reads=False) for _ in range(WATCHES_AT_ONCE)]
    watchers[1].over = True  # has left by himself
    watchers.append(scene.watch())
    assert not any(watcher.end for watcher in watchers)
    watchers.append(scene.watch())
    assert [watcher.end for watcher in watchers] == ["health_busy"] + [""] * (WATCHES_AT_ONCE + 1)
    assert scene.said == ["health_busy"]


def test_when_it_stops_all_hear_and_their_calls_end_also_of_one_who_comes_then(scene: Scene) -> None:
    watchers = [scene.watch(), scene.watch("other")]
    scene.health.stop()
    watchers.append(scene.watch())
    assert [watcher.heard[-1] for watcher in watchers] == [
        Status.NOT_SERVING,
        Status.SERVICE_UNKNOWN,
        Status.NOT_SERVING,
    ]
    assert {watcher.end for watcher in watchers} == {"finished"}
    assert scene.check() == Status.NOT_SERVING
    scene.health.look()
    assert [len(watcher.heard) for watcher in watchers] == [2, 1, 1]
