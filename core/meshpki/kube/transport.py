"""Requests to one API server over a pool of connections, bounded in size, tries and time."""

from __future__ import annotations

import contextlib
import http.client
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import Retry, Timeout

from meshpki.errors import MeshpkiError
from meshpki.kube import guard, login, pool, tls, unreachable
from meshpki.kube.answer import Answer
from meshpki.kube.authenticator import Authenticator
from meshpki.kube.errors import KubeAnswerError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import urllib3

    from meshpki.kube.access import Access
    from meshpki.kube.authenticator import KeyPair, Presented

logger = logging.getLogger(__name__)
MAX_BODY_BYTES: Final = 16 << 20
_CHUNK: Final = 64 << 10
_WITHOUT_BODY: Final = frozenset({204, 304})
RETRY: Final = Retry(
    total=4,
    redirect=False,
    other=0,
    allowed_methods=("GET", "HEAD", "PUT", "DELETE", "OPTIONS"),
    status_forcelist=(429, 500, 502, 503, 504),
    backoff_factor=0.1,
    backoff_jitter=0.1,
)
"""Requests that may be sent twice are, after 429 and 5xx and when the connection failed; Retry-After is kept to.

All are after a 429 with Retry-After: it was not acted upon.
"""
NO_RETRY: Final = Retry(0, redirect=False, other=0)
FAILURES: Final = (HTTPError, OSError, http.client.HTTPException)


class Answering(Protocol):
    """What has the status of an HTTP answer."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...


R = TypeVar("R", bound=Answering)


@dataclass(slots=True)
class Request:
    """One request as it is sent, once or several times."""

    method: str
    url: str
    body: bytes | None = field(repr=False)
    content_type: str
    deadline: float
    """Monotonic seconds: all tries end by then. What is not the server's time is added: a credential program's, which
    has a limit of its own, and that of imports."""

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let the clock of the request stand still."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.deadline += time.monotonic() - began


class Transport:
    """Sends requests with the credential of an Access. Safe for many threads."""

    def __init__(self, access: Access, size: int) -> None:
        """`size` connections are kept open; more are made when more are needed at once."""
        self.access = access
        self._size = size
        self._authenticator = Authenticator(access)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._roots = access.ca_pem
        self._pool: urllib3.PoolManager | None = None
        self._pair: KeyPair | None = None

    def close(self) -> None:
        """Close idle connections, and end the pauses between tries."""
        self._closed.set()
        with self._lock:
            if self._pool is not None:
                self._pool.clear()

    def send(self, request: Request, policy: Retry) -> Answer:
        """Send until there is an answer that `policy` does not want again, or no time or try is left.

        A 401 is answered once with a credential that was read anew, if that is another. Raises KubeUnreachableError,
        KubeCredentialError, KubeAnswerError.
        """
        while True:
            try:
                answer = self.asked(request, self._answered)
            except FAILURES as error:
                policy = self._after_failure(request, policy, error)
                continue
            if not _again(request, policy, answer):
                return answer
            pause, policy = _after_status(request, policy, answer)
            if pause is None or not self._pause(request, pause):
                return answer

    def asked(self, request: Request, send: Callable[[Request, Presented], R]) -> R:
        """Send with the credential; after a 401 once more, if there is another one by then.

        Raises what `send` raises, and KubeCredentialError.
        """
        with request.paused():
            presented = self._authenticator.presented()
            if self._pool is None:
                self._connections(presented.pair)  # imports the client, once: a busy machine may need seconds for it
        answer = send(request, presented)
        if answer.status != 401:
            return answer
        with request.paused():
            if not self._authenticator.renewed(presented):
                return answer
            presented = self._authenticator.presented()
        return send(request, presented)

    def _answered(self, request: Request, presented: Presented) -> Answer:
        with guard.until(request.deadline) as guarded:
            try:
                with contextlib.closing(self.open(request, presented)) as response:
                    answer = read_answer(response, request)
            except FAILURES as error:
                if guarded.is_over:
                    raise TimeoutError("no answer by the deadline") from error
                raise
        if guarded.is_over:  # cut in the middle, an answer may look whole
            raise TimeoutError("no answer by the deadline")
        return answer

    def login_advice(self) -> str:
        """What to do when the server says 401, from what was presented last."""
        try:
            return login.advice(self.access, self._authenticator.presented(), time.time())
        except MeshpkiError as error:
            return error.todo

    def open(self, request: Request, presented: Presented) -> urllib3.BaseHTTPResponse:
        """Send once; the body is still to be read. Raises errors of urllib3 and OSError."""
        # Not JSON alone: /openid/v1/jwks has a media type of its own, and answers 406 to those who do not take it.
        headers = {"Accept": "application/json, */*;q=0.8", "Accept-Encoding": "identity", "User-Agent": "meshpki"}
        if presented.token:
            headers["Authorization"] = f"Bearer {presented.token}"
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        return self._connections(presented.pair).urlopen(
            request.method,
            request.url,
            body=request.body,
            headers=headers,
            retries=False,
            redirect=False,
            timeout=Timeout(total=max(request.left(), 0.001)),
            preload_content=False,
            decode_content=False,
        )

    def _connections(self, pair: KeyPair | None) -> urllib3.PoolManager:
        with self._lock:
            if self._pool is None or pair != self._pair:
                access = self.access
                context = tls.context(self._roots, pair, access.where or access.server)
                self._pool = pool.make(access.server, access.tls_server_name, context, self._size)
                self._pair = pair
            return self._pool

    def _after_failure(self, request: Request, policy: Retry, error: Exception) -> Retry:
        """What is left of the policy after a pause. Raises KubeUnreachableError when there is nothing left."""
        if unreachable.classify(error) is Unreachable.TLS_CA and self._reread_roots():
            return policy
        try:
            policy = policy.increment(request.method, request.url, error=error)
        except FAILURES:
            pause = None
        else:
            pause = policy.get_backoff_time()
        if pause is None or not self._pause(request, pause):
            raise unreachable.explain(error, self.access) from error
        return policy

    def _reread_roots(self) -> bool:
        """Whether the file with the roots has other roots by now: cluster CAs rotate."""
        file = self.access.ca_file
        if file is None:
            return False
        try:
            roots = file.read()
            tls.context(roots, None, str(file.path))
        except MeshpkiError as error:
            logger.warning("the certificate authority is kept as it was", extra={"why": str(error)})
            return False
        with self._lock:
            changed, self._roots = roots != self._roots, roots
            if changed:
                self._pool = None
        return changed

    def _pause(self, request: Request, seconds: float) -> bool:
        """Wait; false if that would go past the deadline, or the client was closed."""
        return seconds < request.left() and not self._closed.wait(seconds)


def _again(request: Request, policy: Retry, answer: Answer) -> bool:
    """Whether the policy wants it again. With Retry-After a 429 was not acted upon, whatever was asked (client-go)."""
    says_when = "retry-after" in answer.headers
    return policy.is_retry(request.method, answer.status, says_when) or (answer.status == 429 and says_when)


def _after_status(request: Request, policy: Retry, answer: Answer) -> tuple[float | None, Retry]:
    """The pause before the next try; None when the policy allows no other."""
    try:
        policy = policy.increment(request.method, request.url)
    except HTTPError:
        return None, policy
    asked = answer.headers.get("retry-after", "")
    with contextlib.suppress(HTTPError, ValueError):
        if asked and policy.respect_retry_after_header:
            return policy.parse_retry_after(asked), policy
    return policy.get_backoff_time(), policy


def read_answer(response: urllib3.BaseHTTPResponse, request: Request) -> Answer:
    """Read a response to its end. Raises KubeAnswerError, and TimeoutError past the deadline."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, _read(response, request), headers)


def _read(response: urllib3.BaseHTTPResponse, request: Request) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise KubeAnswerError(f"the answer to {request.method} {_plain(request)} came compressed", wanted="plain JSON")
    framed = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    if not framed and response.status not in _WITHOUT_BODY:
        raise ProtocolError("an answer that ends nowhere: its head was cut, or it is no API server's")
    content = bytearray()
    while chunk := response.read1(_CHUNK):
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise KubeAnswerError(
                f"the answer to {request.method} {_plain(request)} is larger than {MAX_BODY_BYTES} bytes",
                wanted="an answer within that size",
            )
    return bytes(content)


def _plain(request: Request) -> str:
    return request.url.partition("?")[0]
