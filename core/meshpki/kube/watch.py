"""Following a collection: one listing, then events; cut connections are resumed, lost places listed again."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlencode

from urllib3.exceptions import TimeoutError as PoolTimeoutError

from meshpki.kube import guard, unreachable
from meshpki.kube.answer import Answer
from meshpki.kube.errors import KubeAnswerError, KubeGoneError, KubeUnreachableError, Unreachable
from meshpki.kube.observed import NOTHING, WatchFailedError, after_events, after_listing
from meshpki.kube.transport import FAILURES, MAX_BODY_BYTES, Request, read_answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import urllib3

    from meshpki.kube.authenticator import Presented
    from meshpki.kube.client import KubeClient
    from meshpki.kube.observed import Observed
    from meshpki.kube.transport import Transport

WINDOW_SECONDS: Final = 300
"""How long the server is asked to keep one connection of a watch."""
_AT_ONCE_SECONDS: Final = 1.0
_SHORT_STREAMS: Final = 3
"""As many connections that end so soon, with no change to tell, are an error: one poll must not storm a server."""
_CHUNK: Final = 64 << 10


class Watch:
    """What is known of one collection, kept up to date by `poll`. For one thread; a context manager.

    There is no sleep and no thread in here: the caller decides how long to wait, and how long to stay away after an
    error. What is known survives errors; the next poll goes on from there.
    """

    def __init__(self, client: KubeClient, transport: Transport, path: str, query: Mapping[str, str]) -> None:
        self._client = client
        self._transport = transport
        self._path = path
        self._query = dict(query)
        self._observed = NOTHING
        self._must_list = True
        self._stream: urllib3.BaseHTTPResponse | None = None
        self._opened_at = 0.0
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def observed(self) -> Observed:
        """What is known, however old."""
        return self._observed

    def close(self) -> None:
        """Hang up. The next poll goes on from where this ended."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._rest = None, b""

    def poll(self, timeout_seconds: float) -> Observed | None:
        """Wait for changes up to that long; None if there are none. The first call returns the collection itself.

        Raises KubeError: call again later, after a pause of your choice.
        """
        deadline = time.monotonic() + timeout_seconds
        if self._must_list:
            return self._list()
        try:
            return self._follow(deadline)
        except KubeGoneError:
            self._must_list = True
            listed = self._list()
            return listed if listed.changed else None
        except KubeAnswerError:
            self._must_list = True  # what cannot be read would come again
            raise
        finally:
            if self._must_list:
                self.close()

    def _list(self) -> Observed:
        self.close()
        self._observed = after_listing(self._observed, self._client.list(self._path, query=self._query))
        self._must_list = False
        return self._observed

    def _follow(self, deadline: float) -> Observed | None:
        short = 0
        while (left := deadline - time.monotonic()) > 0:
            stream = self._opened(left)
            lines, ended = self._read(stream)
            if lines:
                after = self._after(lines)
                self._observed = after
                if after.changed:
                    return after
            short += ended and time.monotonic() - self._opened_at < _AT_ONCE_SECONDS
            if short == _SHORT_STREAMS:
                raise KubeUnreachableError(
                    f"{self._client.access} ends every watch of {self._path} at once",
                    why=Unreachable.CUT,
                    todo="try again later",
                )
        return None

    def _after(self, lines: list[bytes]) -> Observed:
        try:
            return after_events(self._observed, lines)
        except WatchFailedError as failed:
            self.close()
            self._client.check(failed.answer, "GET", self._path, {"watch": "1"})
            raise KubeAnswerError("an ERROR event that says success", wanted="a Status with its code") from failed

    def _opened(self, seconds: float) -> urllib3.BaseHTTPResponse:
        """The stream, which gives up waiting after `seconds`; opened where we are, if there is none."""
        if self._stream is not None and _set_timeout(self._stream, seconds):
            return self._stream
        self.close()
        query = self._query | {
            "watch": "1",
            "resourceVersion": self._observed.resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(WINDOW_SECONDS, math.ceil(seconds))),
        }
        patience = self._client.timeout_seconds
        url = f"{self._client.access.server}{self._path}?{urlencode(query)}"
        request = Request("GET", url, None, "", time.monotonic() + patience)
        stream = self._connected(request, query)
        _set_timeout(stream, seconds)
        self._stream, self._opened_at = stream, time.monotonic()
        return stream

    def _connected(self, request: Request, query: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        answered = self._transport.asked(request, self._head)
        if not isinstance(answered, Answer):
            return answered
        self._client.check(answered, "GET", self._path, query)
        raise KubeAnswerError(f"a watch was answered with {answered.status}", wanted="200 and events")

    def _head(self, request: Request, presented: Presented) -> urllib3.BaseHTTPResponse | Answer:
        """The stream of events; or the whole answer, if it is no stream."""
        with guard.until(request.deadline) as guarded:
            try:
                stream = self._transport.open(request, presented)
                if stream.status == 200:
                    return stream
                with contextlib.closing(stream):
                    return read_answer(stream, request)
            except FAILURES as error:
                late = TimeoutError("no answer by the deadline") if guarded.is_over else error
                raise unreachable.explain(late, self._client.access) from error

    def _read(self, stream: urllib3.BaseHTTPResponse) -> tuple[list[bytes], bool]:
        """Whole lines that came, and whether the stream ended. A stream that made us wait too long is not read on."""
        try:
            chunk = stream.read1(_CHUNK)
        except (PoolTimeoutError, TimeoutError):
            self.close()
            return [], False
        except FAILURES:
            chunk = b""
        if not chunk:
            self.close()
            return [], True
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_BODY_BYTES:
            raise KubeAnswerError("an event of a watch is too large", wanted=f"at most {MAX_BODY_BYTES} bytes")
        return [line for line in lines if line.strip()], False


def _set_timeout(stream: urllib3.BaseHTTPResponse, seconds: float) -> bool:
    """Whether the stream's socket could be told how long to wait."""
    connection = getattr(stream, "connection", None)
    sock = getattr(connection, "sock", None)
    if sock is None:
        return False
    sock.settimeout(max(seconds, 0.001))
    return True
