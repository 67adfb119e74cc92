"""Asks an API server and records what comes back, without the secrets and what the run made up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from meshpki.errors import MeshpkiError, RefusedError
from meshpki.provision.cluster.evidence import Exchange, Outcome, record, unanswered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshpki.provision.cluster.evidence import Answer, Asker, Members, Seen

F = TypeVar("F")
Login: TypeAlias = "Callable[[], str]"
"""Says what to do after a 401: `KubeClient.login_advice`."""
LOGIN: Final = "log in again"

TRIES: Final = 3
"""For an answer of 200 and no byte, as 1.13.0 gives at times (kubernetes#71696, mended in 1.13.3)."""


class Asking:
    """Asks what changes nothing, so that it may be asked again."""

    def __init__(self, asker: Asker, login: Login = lambda: LOGIN) -> None:
        self._asker = asker
        self._login = login
        self._stand_ins: dict[str, str] = {}

    def hide(self, text: str, stand_in: str) -> None:
        """Let `stand_in` take the place of `text` in everything that is recorded from now on."""
        self._stand_ins[text] = stand_in

    def clean(self, said: str) -> str:
        """The text with what is to be hidden replaced."""
        for text, stand_in in self._stand_ins.items():
            said = said.replace(text, stand_in)
        return said

    def send(self, method: str, path: str, body: Members | None = None) -> Answer:
        """The answer as it came. Raises what the asker raises."""
        for _ in range(TRIES - 1):
            answer = self._asker.request(method, path, body)
            if answer.status != 200 or answer.body:
                return answer
        return self._asker.request(method, path, body)

    def first(self, path: str, read: Callable[[Members], F | None]) -> Exchange[F]:
        """The first question: without any answer to it there is nothing to tell, and what was raised goes on."""
        return self.recorded(f"GET {path}", self.send("GET", path), read)

    def get(self, path: str, read: Callable[[Members], F | None]) -> Exchange[F]:
        """What is read at that path."""
        return self.ask("GET", path, None, read)

    def ask(
        self, method: str, path: str, body: Members | None, read: Callable[[Members], F | None], said: str = ""
    ) -> Exchange[F]:
        """What comes back, whatever it is. `said` stands behind the path in the record. Raises RefusedError for 401."""
        request = f"{method} {path}{said}"
        try:
            answer = self.send(method, path, body)
        except MeshpkiError as error:
            return unanswered(request, self.clean(error.seen))
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
