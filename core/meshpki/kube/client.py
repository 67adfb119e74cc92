"""A client for one API server: raw JSON over a pool of connections, bounded in size, tries and time."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlencode

from urllib3.exceptions import HTTPError
from urllib3.util import Retry, Timeout

from meshpki.kube import pool, tls, unreachable
from meshpki.kube.authenticator import Authenticator
from meshpki.kube.errors import KubeAnswerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import urllib3

    from meshpki.kube.access import Access
    from meshpki.kube.authenticator import KeyPair, Presented

MAX_BODY_BYTES: Final = 16 << 20
DEFAULT_TIMEOUT: Final = 10.0
DEFAULT_POOL: Final = 8
_CHUNK: Final = 64 << 10
RETRY: Final = Retry(
    total=4,
    redirect=False,
    other=0,
    allowed_methods=("GET", "HEAD", "PUT", "DELETE", "OPTIONS"),
    status_forcelist=(429, 500, 502, 503, 504),
    backoff_factor=0.1,
    backoff_jitter=0.1,
    raise_on_status=False,
)
"""Requests that may be sent twice are, after 429 and 5xx and when the connection failed; Retry-After is kept to."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, whatever its status."""

    status: int
    body: bytes = field(repr=False)
    """May hold a secret: TokenRequest answers with one."""
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""


class KubeClient:
    """Talks to one API server. Safe for many threads; a context manager that closes its connections."""

    def __init__(
        self,
        access: Access,
        *,
        field_manager: str = "meshpki",
        timeout_seconds: float = DEFAULT_TIMEOUT,
        pool: int = DEFAULT_POOL,
        retry: Retry = RETRY,
    ) -> None:
        """`timeout_seconds` is for all tries of one request together, `pool` how many connections are kept open."""
        self.access = access
        self.field_manager = field_manager
        self._timeout = timeout_seconds
        self._size = pool
        self._retry = retry
        self._authenticator = Authenticator(access)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._pool: urllib3.PoolManager | None = None
        self._pair: KeyPair | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections, and end the pauses between tries."""
        self._closed.set()
        with self._lock:
            if self._pool is not None:
                self._pool.clear()

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float | None = None,
        retry: bool = True,
        repeatable: bool = False,
        content_type: str = "application/json",
    ) -> Answer:
        """Send one request and return its answer, whatever its status.

        It is sent again (if `retry`) when that is safe: the method says so, or the caller does by `repeatable`.
        A 401 is answered once with a credential that was read anew, if that is another. Raises KubeUnreachableError,
        KubeCredentialError, and KubeAnswerError for an answer that is too large.
        """
        url = self.access.server + path + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        policy = self._retry if retry else Retry(0, redirect=False, other=0)
        if repeatable:
            policy = policy.new(allowed_methods=None)
        sending = _Sending(method, url, data, content_type, time.monotonic() + (timeout or self._timeout))
        return self._tries(sending, policy)

    def _tries(self, sending: _Sending, policy: Retry) -> Answer:
        renewed = False
        while True:
            presented = self._authenticator.presented()
            try:
                answer = self._once(sending, presented)
            except (HTTPError, OSError) as error:
                policy = self._after_failure(sending, policy, error)
                continue
            if answer.status == 401 and not renewed and self._authenticator.renewed(presented):
                renewed = True
                continue
            if not policy.is_retry(sending.method, answer.status, "retry-after" in answer.headers):
                return answer
            pause, policy = _after_status(sending, policy, answer)
            if pause is None or not self._pause(sending, pause):
                return answer

    def _after_failure(self, sending: _Sending, policy: Retry, error: Exception) -> Retry:
        """What is left of the policy after a pause. Raises KubeUnreachableError when there is nothing left."""
        try:
            policy = policy.increment(sending.method, sending.url, error=error)
        except HTTPError as last:
            raise unreachable.explain(error, self.access) from last
        except OSError as last:
            raise unreachable.explain(error, self.access) from last
        if not self._pause(sending, policy.get_backoff_time()):
            raise unreachable.explain(error, self.access) from error
        return policy

    def _pause(self, sending: _Sending, seconds: float) -> bool:
        """Wait; false if that would go past the deadline, or the client was closed."""
        return seconds < sending.left() and not self._closed.wait(seconds)

    def _once(self, sending: _Sending, presented: Presented) -> Answer:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "meshpki"}
        if presented.token:
            headers["Authorization"] = f"Bearer {presented.token}"
        if sending.body is not None:
            headers["Content-Type"] = sending.content_type
        response = self._connections(presented.pair).urlopen(
            sending.method,
            sending.url,
            body=sending.body,
            headers=headers,
            retries=False,
            redirect=False,
            timeout=Timeout(total=max(sending.left(), 0.001)),
            preload_content=False,
            decode_content=False,
        )
        with contextlib.closing(response):
            return Answer(response.status, _read(response, sending), _headers(response))

    def _connections(self, pair: KeyPair | None) -> urllib3.PoolManager:
        with self._lock:
            if self._pool is None or pair != self._pair:
                access = self.access
                context = tls.context(access.ca_pem, pair, access.where or access.server)
                self._pool = pool.make(access.server, access.tls_server_name, context, self._size)
                self._pair = pair
            return self._pool


@dataclass(frozen=True, slots=True)
class _Sending:
    method: str
    url: str
    body: bytes | None = field(repr=False)
    content_type: str
    deadline: float

    def left(self) -> float:
        return self.deadline - time.monotonic()


def _after_status(sending: _Sending, policy: Retry, answer: Answer) -> tuple[float | None, Retry]:
    """The pause before the next try; None when the policy allows no other."""
    try:
        policy = policy.increment(sending.method, sending.url, error=None)
    except HTTPError:
        return None, policy
    asked = answer.headers.get("retry-after", "")
    with contextlib.suppress(HTTPError, ValueError):
        return (policy.parse_retry_after(asked) if asked else policy.get_backoff_time()), policy
    return policy.get_backoff_time(), policy


def _read(response: urllib3.BaseHTTPResponse, sending: _Sending) -> bytes:
    content = bytearray()
    while chunk := response.read(_CHUNK):
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise KubeAnswerError(
                f"the answer to {sending.method} {sending.url.partition('?')[0]} is larger than {MAX_BODY_BYTES} bytes",
                wanted="an answer within that size",
            )
        if sending.left() <= 0:
            raise TimeoutError("the answer took too long")
    return bytes(content)


def _headers(response: urllib3.BaseHTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}
