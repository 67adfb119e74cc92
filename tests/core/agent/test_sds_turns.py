"""A stream and what happens in one turn of the event loop: nothing is left behind, and nothing is missed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds import service as sds_service
from meshpki.agent.sds.files import FileReader, SecretFiles
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.sessions import OneIdentity
from meshpki.runtime.watch import Watcher
from meshpki.wire.methods import DELTA_SECRETS, STREAM_SECRETS
from meshpki.wire.sds_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from support.snapshots import snapshot

REQUESTS = {
    STREAM_SECRETS: DiscoveryRequest(resource_names=["default"]),
    DELTA_SECRETS: DeltaDiscoveryRequest(resource_names_subscribe=["default"]),
}


class Client:
    """A call whose every step the test takes: one future for what is read, one for each write that is held."""

    def __init__(self) -> None:
        self.reading: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.held: asyncio.Future[None] | None = None
        self.versions: list[str] = []

    async def read(self) -> object:
        message = await self.reading
        self.reading = asyncio.get_running_loop().create_future()
        return message

    async def write(self, response: Any) -> None:  # Any: of either method
        self.versions.append(getattr(response, "version_info", "") or response.system_version_info)
        if self.held is not None:
            await self.held


class Stage:
    """One stream, begun and answered once, and everything that it may listen to."""

    def __init__(self, method: str) -> None:
        self.feed = Feed(snapshot(1))
        self.watcher = Watcher()
        self.files = SecretFiles(FileReader([]), self.watcher)
        self.client = Client()
        (self._row,) = (row for row in sds_methods(self.files) if row.path == method)
        self._first = REQUESTS[method]

    async def begin(self) -> asyncio.Task[None]:
        self.session = await OneIdentity(self.feed).open(())
        task = asyncio.ensure_future(self._row.handler(self.session, None, self.client))  # type: ignore[arg-type]  # a call of the test's own
        await self.settle()
        self.client.reading.set_result(self._first)
        await self.settle()
        assert len(self.client.versions) == 1
        return task

    @staticmethod
    async def settle() -> None:
        """Let the loop turn until what can happen has happened: no step of a stream waits for a clock."""
        for _ in range(20):
            await asyncio.sleep(0)


def leaves(client: Client, task: asyncio.Task[None]) -> None:
    """The client sends no more."""
    client.reading.set_result(None)


def is_cancelled(client: Client, task: asyncio.Task[None]) -> None:
    """The call is ended from outside."""
    task.cancel()


def publishes(stage: Stage) -> None:
    stage.feed.publish(snapshot(2))


def changes_files(stage: Stage) -> None:
    stage.files._changed.wake()


def closes(stage: Stage) -> None:
    stage.feed.close()


@pytest.mark.parametrize("method", REQUESTS, ids=lambda path: path.rpartition("/")[2])
@pytest.mark.parametrize("end", [leaves, is_cancelled])
@pytest.mark.parametrize("event", [publishes, changes_files, closes])
@pytest.mark.parametrize("first", ["the end", "the event"])
def test_a_stream_that_ends_as_something_changes_is_gone(
    method: str,
    end: Callable[[Client, asyncio.Task[None]], None],
    event: Callable[[Stage], None],
    first: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams: list[weakref.ref[object]] = []

    class Watched(sds_service._Conversation):
        __slots__ = ("__weakref__",)

        def __init__(self, *values: Any) -> None:
            super().__init__(*values)
            streams.append(weakref.ref(self))

    monkeypatch.setattr(sds_service, "_Conversation", Watched)

    async def main() -> None:
        stage = Stage(method)
        task = await stage.begin()
        if first == "the end":
            end(stage.client, task)
            event(stage)
        else:
            event(stage)
            end(stage.client, task)
        await asyncio.gather(task, return_exceptions=True)
        await stage.settle()
        said = len(stage.client.versions)
        assert not stage.feed.changes()._callbacks, "nobody follows the feed"
        assert not stage.files.changes()._callbacks, "nor the files"
        stage.feed.publish(snapshot(3))
        await stage.settle()
        assert len(stage.client.versions) == said
        assert asyncio.all_tasks() == {asyncio.current_task()}
        del task
        gc.collect()
        assert [stream() for stream in streams] == [None]
        stage.watcher.close()

    asyncio.run(main())


@pytest.mark.parametrize("method", REQUESTS, ids=lambda path: path.rpartition("/")[2])
def test_what_is_published_as_the_last_message_has_just_gone_out_goes_out_too(method: str) -> None:
    async def main() -> None:
        stage = Stage(method)
        task = await stage.begin()
        stage.client.held = held = asyncio.get_running_loop().create_future()
        stage.feed.publish(snapshot(2))
        await stage.settle()
        stage.client.held = None
        held.set_result(None)  # the push is over in the next turn, ...
        stage.feed.publish(snapshot(3))  # ... and this is heard in the same
        await stage.settle()
        assert [version.split(".")[0] for version in stage.client.versions] == ["1", "2", "3"]
        stage.client.reading.set_result(None)
        await task
        stage.watcher.close()

    asyncio.run(main())
