"""Asks an API server and records what comes back, without the secrets and what the run made up."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from meshpki.errors import MeshpkiError, RefusedError, UnavailableError
from meshpki.kube.errors import KubeCredentialError
from meshpki.provision.cluster.evidence import Exchange, Outcome, record, unanswered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshpki.provision.cluster.evidence import Answer, Asker, Members, Seen

F = TypeVar("F")
Login: TypeAlias = "Callable[[], str]"
"""Says what to do after a 401: `KubeClient.login_advice`."""
LOGIN: Final = "log in again"

SILENT: Final = 2
"""So many questions in a row without an answer, each with all its tries and its whole time, and no more are asked."""
TRIES: Final = 3
"""For an answer of 200 and no byte, as 1.13.0 gives at times (kubernetes#71696, mended in 1.13.3)."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Why there is no answer."""

    why: str


class Asking:
    """Asks what changes nothing, so that it may be asked again; stops when it is of no use, or time is up."""

    def __init__(
        self, asker: Asker, login: Login = lambda: LOGIN, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.asker = asker
        self._login = login
        self.monotonic = monotonic
        self._stand_ins: dict[str, str] = {}
        self._silent = 0
        """How many questions in a row have brought no answer."""
        self.ends_at = math.inf
        """Monotonic seconds: no question is begun after that."""

    def end_in(self, seconds: float) -> None:
        """Begin no question that many seconds from now."""
        self.ends_at = self.monotonic() + seconds

    def hide(self, text: str, stand_in: str) -> None:
        """Let `stand_in` take the place of `text` in everything that is recorded from now on."""
        self._stand_ins[text] = stand_in

    def clean(self, said: str) -> str:
        """The text with what is to be hidden replaced."""
        for text, stand_in in self._stand_ins.items():
            said = said.replace(text, stand_in)
        return said

    @property
    def of_no_use(self) -> str:
        """Why nothing more is asked; empty while it is."""
        if self._silent >= SILENT:
            return f"not asked: the API server has left {SILENT} questions in a row without an answer"
        if self.monotonic() >= self.ends_at:
            return "not asked: the other questions took too long; what detection makes must not stand longer"
        return ""

    def note(self, seen: Seen) -> None:
        """Count what was asked by another way."""
        self._silent = self._silent + 1 if seen.outcome is Outcome.NO_ANSWER else 0

    def attempt(self, method: str, path: str, body: Members | None = None) -> Answer | Unanswered:
        """The answer as it came, or why there is none. Raises KubeCredentialError: nothing else would be answered."""
        if why := self.of_no_use:
            return Unanswered(why)
        try:
            answer = self._send(method, path, body)
        except KubeCredentialError:
            raise
        except MeshpkiError as error:
            self._silent += isinstance(error, UnavailableError)
            return Unanswered(self.clean(error.seen))
        self._silent = 0
        return answer

    def _send(self, method: str, path: str, body: Members | None = None) -> Answer:
        for _ in range(TRIES - 1):
            answer = self.asker.request(method, path, body)
            if answer.status != 200 or answer.body or self.monotonic() >= self.ends_at:
                return answer
        return self.asker.request(method, path, body)

    def first(self, path: str, read: Callable[[Members], F | None]) -> Exchange[F]:
        """The first question: without any answer to it there is nothing to tell, and what was raised goes on."""
        return self.recorded(f"GET {path}", self._send("GET", path), read)

    def get(self, path: str, read: Callable[[Members], F | None]) -> Exchange[F]:
        """What is read at that path."""
        return self.ask("GET", path, None, read)

    def ask(
        self, method: str, path: str, body: Members | None, read: Callable[[Members], F | None], said: str = ""
    ) -> Exchange[F]:
        """What comes back, whatever it is. `said` stands behind the path in the record.

        Raises RefusedError for 401, and KubeCredentialError.
        """
        request = f"{method} {path}{said}"
        answer = self.attempt(method, path, body)
        if isinstance(answer, Unanswered):
            return unanswered(request, answer.why)
        return self.recorded(request, answer, read)

    def recorded(self, request: str, answer: Answer, read: Callable[[Members], F | None]) -> Exchange[F]:
        """Keep what is no secret. Raises RefusedError for 401: no other question would be answered."""
        seen = record(request, _Cleaned(answer, self.clean), read)
        if seen.outcome is Outcome.UNAUTHORIZED:
            raise not_accepted(seen, self._login())
        return seen


def not_accepted(seen: Seen, login: str) -> RefusedError:
    """The error for a 401. `login` is the next step, as whoever knows the credential says it."""
    return RefusedError(
        f"the API server does not accept the credential: {seen.request} was answered by {seen.short}",
        wanted="a credential of this cluster that has not expired",
        todo=f"{login}; or choose another context (--context)",
    )


@dataclass(frozen=True, slots=True)
class _Cleaned:
    """An answer in whose body all that is to be hidden has been replaced."""

    answer: Answer
    clean: Callable[[str], str]

    @property
    def status(self) -> int:
        return self.answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self.answer.headers

    @property
    def body(self) -> bytes:
        return self.clean(self.answer.body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
