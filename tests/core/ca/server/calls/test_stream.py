"""A call that is answered again and again: what may be sent when, and that an end is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import grpc
import pytest

from meshpki.ca.server.calls.methods import CallRefusedError
from meshpki.ca.server.calls.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.ca.server.calls.grpc_core import CoreStream

Code = grpc.StatusCode
BUSY = CallRefusedError(Code.RESOURCE_EXHAUSTED, "health_busy", "so")


class Core:
    """What gRPC was told, and whom it will tell, by operation."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.tags: dict[str, Callable[[object], object]] = {}

    def closes(self, tag: Callable[[object], object]) -> None:
        self.tags["close"] = tag

    def send(self, message: bytes, tag: Callable[[object], object]) -> None:
        self.told.append(("send", message))
        self.tags["send"] = tag

    def finish(self, status: Code, text: str, tag: Callable[[object], object]) -> None:
        self.told.append(("finish", status, text))
        self.tags["finish"] = tag

    def cancel(self, status: Code, text: str) -> None:
        self.told.append(("cancel", status, text.partition(":")[0]))


class Scene:
    def __init__(self) -> None:
        self.core = Core()
        self.ends = 0
        self.stream = Stream(cast("CoreStream", self.core), self._end)

    def _end(self) -> None:
        self.ends += 1


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_one_message_at_a_time(scene: Scene) -> None:
    assert scene.stream.send(b"one")
    assert not scene.stream.send(b"two")  # the first has not left yet
    scene.core.tags["send"](None)
    assert scene.stream.send(b"three")
    assert scene.core.told == [("send", b"one"), ("send", b"three")]


def test_it_ends_after_what_was_sent(scene: Scene) -> None:
    scene.stream.send(b"one")
    scene.stream.finish()
    assert scene.core.told == [("send", b"one"), ("finish", Code.OK, "")]
    assert scene.stream.over
    assert scene.ends == 0
    for tag in ("send", "finish", "close"):
        scene.core.tags[tag](None)
    assert scene.ends == 1


def test_whoever_reads_nothing_can_be_displaced_all_the_same(scene: Scene) -> None:
    scene.stream.send(b"one")
    scene.stream.displace(BUSY)
    assert scene.core.told[-1] == ("cancel", Code.RESOURCE_EXHAUSTED, "health_busy")
    assert scene.stream.over


@pytest.mark.parametrize("end", ["finish", "displace", "close"])
def test_after_the_end_nothing_does_anything(scene: Scene, end: str) -> None:
    if end == "finish":
        scene.stream.finish()
    elif end == "displace":
        scene.stream.displace(BUSY)
    else:
        scene.core.tags["close"](None)
    told = list(scene.core.told)
    assert not scene.stream.send(b"late")
    scene.stream.finish(Code.INTERNAL, "late")
    scene.stream.displace(BUSY)
    assert scene.core.told == told
