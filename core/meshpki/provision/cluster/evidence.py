"""What was asked of a cluster and what came back: bounded, without secrets and without anything that a run made up."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeAlias, TypeVar

from meshpki.errors import InvalidValueError
from meshpki.runtime.logs import redact
from meshpki.tokens.encoding import StrictJsonError, read_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)

MAX_MESSAGE: Final = 300
"""Characters of a foreign message that are kept."""
_SPACE: Final = re.compile(r"\s+")

Members: TypeAlias = "Mapping[str, object]"


class Answer(Protocol):
    """What an asker brings back: `meshpki.kube.client.Answer`, or a fake's."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def body(self) -> bytes:
        """The body, capped by whoever read it."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers."""
        ...


class Asker(Protocol):
    """Sends one request to an API server. A `KubeClient`, or a fake."""

    def request(self, method: str, path: str, body: Members | None = None) -> Answer:
        """Return the answer, whatever its status. Raises MeshpkiError when there is none."""
        ...


class Outcome(StrEnum):
    """How a request came out, before anyone asks what that means."""

    DONE = "done"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    INVALID = "invalid"
    THROTTLED = "throttled"
    SERVER_ERROR = "server-error"
    UNREADABLE = "unreadable"
    """Not what an API server says: a proxy's page, a cut body, the page of a path that leads to nothing."""
    NO_ANSWER = "no-answer"
    """Refused, reset, too slow, or not the server that its certificate should name."""


_BY_ANYBODY: Final = {401: Outcome.UNAUTHORIZED, 429: Outcome.THROTTLED}
"""What means the same whoever says it; API servers that shed load say it in plain text."""
_BY_API_SERVERS: Final = {403: Outcome.FORBIDDEN, 404: Outcome.NOT_FOUND, 409: Outcome.CONFLICT}
"""What is a word about the cluster, if it comes as a Status, as API servers send it: anybody can answer 404."""


@dataclass(frozen=True, slots=True)
class Exchange(Generic[F_co]):
    """One request and what is kept of its answer."""

    request: str
    """Method and path, with what was asked where that is short."""
    status: int
    """The HTTP status; 0 when there was no answer."""
    outcome: Outcome
    message: str = ""
    """The server's own words for what went wrong, or those of the connection."""
    about: str = ""
    """What a Kubernetes Status names in `details`: `serviceaccounts meshpki-detect`; empty when it names nothing."""
    found: F_co | None = None
    """What was read out of the answer; None unless the outcome is DONE."""

    @property
    def path(self) -> str:
        """The path of the request."""
        return self.request.split(" ")[1].removesuffix(":")

    @property
    def short(self) -> str:
        """The outcome in a few words, for a sentence."""
        if not self.status and self.message.startswith(("no answer", "not asked")):
            return self.message
        head = f"HTTP {self.status}" if self.status else "no answer"
        return f"{head}: {self.message}" if self.message else head


Seen: TypeAlias = Exchange[object]


def record(request: str, answer: Answer, read: Callable[[Members], F | None]) -> Exchange[F]:
    """Keep of an answer what `read` finds in it, or what went wrong. No secret may be left in the answer's body."""
    members = _object(answer.body)
    if 200 <= answer.status < 300:
        found = None if members is None else _read(members, read)
        if found is not None:
            return Exchange(request, answer.status, Outcome.DONE, found=found)
        return Exchange(request, answer.status, Outcome.UNREADABLE, _begins(answer.body))
    message = members.get("message") if members else None
    return Exchange(
        request,
        answer.status,
        _outcome(answer.status, members or {}),
        shown(message) if isinstance(message, str) and message else _begins(answer.body),
        _about(members or {}),
    )


def unanswered(request: str, why: str) -> Exchange[F]:
    """Keep that no answer came, and why."""
    return Exchange(request, 0, Outcome.NO_ANSWER, shown(why))


def shown(text: str) -> str:
    """One printable line of at most MAX_MESSAGE characters, without anything that looks like a token or key."""
    line = _SPACE.sub(" ", redact(text)).strip()
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"


def member(members: Members, *names: str) -> object:
    """The value at that path of names; None where the path ends early."""
    value: object = members
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def text(members: Members, *names: str) -> str:
    """The text at that path, as one printable line; empty when there is none."""
    value = member(members, *names)
    return shown(value) if isinstance(value, str) else ""


def texts(members: Members, *names: str) -> tuple[str, ...]:
    """The list of texts at that path; empty when there is none."""
    value = member(members, *names)
    return tuple(shown(item) for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def objects(members: Members, *names: str) -> tuple[Members, ...]:
    """The list of objects at that path; empty when there is none."""
    value = member(members, *names)
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _outcome(status: int, members: Members) -> Outcome:
    if status in _BY_ANYBODY:
        return _BY_ANYBODY[status]
    if status >= 500:
        return Outcome.SERVER_ERROR
    if text(members, "kind") != "Status":
        return Outcome.UNREADABLE
    return _BY_API_SERVERS.get(status, Outcome.INVALID)


def _object(body: bytes) -> Members | None:
    try:
        return read_object(body)
    except StrictJsonError:
        return None


def _read(members: Members, read: Callable[[Members], F | None]) -> F | None:
    try:
        return read(members)
    except InvalidValueError:
        return None


def _about(members: Members) -> str:
    return " ".join(filter(None, (text(members, "details", "kind"), text(members, "details", "name"))))


def _begins(body: bytes) -> str:
    """How an answer that is not what it should be begins; whole words of it could be anything, so only a few."""
    if not body:
        return "an empty body"
    try:
        kind = "JSON, but not what was asked for" if isinstance(json.loads(body), dict) else "JSON, but no object"
    except (ValueError, RecursionError):
        kind = "no JSON"
    start = shown(body[:200].decode("utf-8", "replace"))[:40]
    return f"{kind}, {len(body)} bytes, begins with {start!a}"
