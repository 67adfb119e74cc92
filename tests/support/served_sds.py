"""Secret discovery in a thread of the test's process, before a real Envoy: what Envoy sends is recorded."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Self

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.files import FileReader, SecretFiles
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.server import SocketServer
from meshpki.agent.socket.sessions import OneIdentity
from meshpki.runtime.watch import Watcher
from meshpki.wire.sds_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from meshpki.agent.rotation.snapshot import Snapshot
    from meshpki.agent.socket.server import Method

Request = DiscoveryRequest | DeltaDiscoveryRequest


class ServedSds:
    """On `socket`, from `start` to `stop`, and again. What was published last is served."""

    def __init__(self, socket: Path, snapshot: Snapshot, secret_files: Sequence[Path] = ()) -> None:
        self.socket = socket
        self.snapshot = snapshot
        self.requests: list[Request] = []
        self._secret_files = tuple(secret_files)

    def start(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(ready),))
        self._thread.start()
        ready.result(30)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(30)
        self._loop.close()

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._loop.call_soon_threadsafe(self._feed.publish, snapshot)

    async def _serve(self, ready: Future[None]) -> None:
        self._feed = Feed(self.snapshot)
        watcher = Watcher()
        files = SecretFiles(FileReader(self._secret_files), watcher)
        table = [self._recording(row) for row in sds_methods(files)]
        server = SocketServer(self.socket, OneIdentity(self._feed), table)
        try:
            await server.start()
            ready.set_result(None)
            await self._stopping.wait()
        finally:
            await server.stop()
            watcher.close()

    def _recording(self, row: Method) -> Method:
        def decode(data: bytes) -> object:
            request = row.decode(data)
            assert isinstance(request, DiscoveryRequest | DeltaDiscoveryRequest)
            self.requests.append(request)
            return request

        return dataclasses.replace(row, decode=decode)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
