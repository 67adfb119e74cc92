"""The probe in one cluster: an account, a pod that its tokens are bound to, a Secret; made, and taken away again."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final, TypeVar

from meshpki.errors import MeshpkiError
from meshpki.provision.cluster import permission, review
from meshpki.provision.cluster.evidence import Exchange, Outcome, member, record, unanswered
from meshpki.provision.cluster.throw_away import ThrowAway
from meshpki.provision.proof import bodies
from meshpki.provision.proof.question import COMPONENT, NAME
from meshpki.provision.proof.trouble import line, not_ours, permission_for, trouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.provision.cluster.evidence import Answer, Asker, Members
    from meshpki.provision.cluster.review import ReviewSeen
    from meshpki.provision.cluster.throw_away import Run

F = TypeVar("F")

TRIES: Final = 3
EMPTY: Final = "an empty body"


class _Heard:
    """Keeps of each request that it passes on how it was answered: the status alone, for an answer may be a secret."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.lines: list[str] = []

    def request(self, method: str, path: str, body: Members | None = None) -> Answer:
        """See `Asker.request`."""
        try:
            answer = self._asker.request(method, path, body)
        except MeshpkiError:
            self.lines.append(f"{method} {path}: no answer")
            raise
        self.lines.append(f"{method} {path}: HTTP {answer.status}")
        return answer


class Probe:
    """What a round makes in one cluster. All methods but `remove` raise MeshpkiError that says what to do."""

    def __init__(self, asker: Asker, namespace: str, run: Run) -> None:
        self._asker = _Heard(asker)
        self._core = f"/api/v1/namespaces/{namespace}"
        self._account = self._throw_away("serviceaccounts", "ServiceAccount", run)
        self._pod = self._throw_away("pods", "Pod", run)
        self._secret = self._throw_away("secrets", "Secret", run)

    def _throw_away(self, resource: str, kind: str, run: Run) -> ThrowAway:
        return ThrowAway(self._asker, f"{self._core}/{resource}", kind, run, name=NAME, component=COMPONENT)

    @property
    def account_uid(self) -> str:
        """Of the account; empty until it stands."""
        return self._account.uid

    @property
    def pod_uid(self) -> str:
        """Of the pod; empty until it stands."""
        return self._pod.uid

    @property
    def told(self) -> tuple[str, ...]:
        """Every request so far and how it was answered, a line each."""
        return tuple(self._asker.lines)

    def stand(self) -> tuple[str, ...]:
        """Make account and pod, if they may be taken away again; what was seen."""
        for resource in ("serviceaccounts", "pods"):
            self._may_remove(resource)
        made = self._make(self._account, bodies.account(self._account.metadata))
        return made, self._make(self._pod, bodies.pod(self._pod.metadata, self.account_uid))

    def mint(self, audience: str) -> str:
        """A token for that audience, bound to the pod."""
        found: list[str] = []

        def read(members: Members) -> bool | None:
            value = member(members, "status", "token")
            found.extend([value] if isinstance(value, str) and value else [])
            return True if found else None

        path = f"{self._core}/serviceaccounts/{NAME}/token"
        seen = self._post(path, bodies.token_request(audience, self.pod_uid), read, secret=True)
        _demand(seen)
        return found[0]

    def review(self, token: str, *audiences: str) -> Exchange[ReviewSeen]:
        """What the API server says of a token, for these audiences or for its own."""
        seen = self._post(review.PATH, review.request(token, audiences), review.read)
        _demand(seen)
        return seen

    def make_secret(self) -> None:
        """Ask for a legacy token, if the Secret may be taken away again."""
        self._may_remove("secrets")
        self._make(self._secret, bodies.legacy_secret(self._secret.metadata, self.account_uid))

    def legacy_token(self) -> str:
        """The token in the Secret; empty until a controller has filled it."""
        found: list[str] = []

        def read(members: Members) -> bool | None:
            try:
                found.append(base64.b64decode(text_of(members, "data", "token")).decode("ascii"))
            except (binascii.Error, UnicodeDecodeError):
                return None
            return True if member(members, "kind") == "Secret" else None

        _demand(self._ask("GET", f"{self._core}/secrets/{NAME}", None, read, secret=True))
        return found[0]

    def remove_secret(self) -> None:
        """Take the Secret away, and with it the legacy token's power."""
        _gone(self._secret.remove())

    def remove_pod(self) -> None:
        """Take the pod away, and with it the power of the tokens that are bound to it."""
        _gone(self._pod.remove())

    def remove(self) -> tuple[str, ...]:
        """Take everything away that stands; what could not be, and why."""
        return tuple(filter(None, (thing.remove() for thing in (self._secret, self._pod, self._account))))

    def _may_remove(self, resource: str) -> None:
        """Demand that it can be taken away before it is made."""
        needed = permission_for("DELETE", f"{self._core}/{resource}/{NAME}")
        seen = self._post(permission.REVIEW_PATH, needed.review(), lambda members: permission.read(members, needed))
        granted = _demand(seen)
        if not granted.allowed:
            raise MeshpkiError(f"not allowed to {needed}: what could not be removed is not made", todo=needed.todo)

    def _make(self, thing: ThrowAway, body: Members) -> str:
        seen = thing.make(body)
        if (error := not_ours(seen, f"{body['kind']} {self._core.rpartition('/')[2]}/{NAME}")) is not None:
            raise error
        state = _demand(seen).state
        return f"{line(seen)}, {state}, uid {thing.uid}"

    def _post(
        self, path: str, body: Members, read: Callable[[Members], F | None], *, secret: bool = False
    ) -> Exchange[F]:
        """Ask what can be asked again; 1.13.0 is silent now and then, by 200 and no byte (kubernetes#71696)."""
        for _ in range(TRIES):
            seen = self._ask("POST", path, body, read, secret=secret)
            if seen.outcome is not Outcome.UNREADABLE or seen.message != EMPTY:
                break
        return seen

    def _ask(
        self, method: str, path: str, body: Members | None, read: Callable[[Members], F | None], *, secret: bool = False
    ) -> Exchange[F]:
        request = f"{method} {path}"
        try:
            answer = self._asker.request(method, path, body)
        except MeshpkiError as error:
            return unanswered(request, error.seen)
        seen = record(request, answer, read)
        if secret and seen.outcome is Outcome.UNREADABLE and seen.message != EMPTY:
            # What could not be read may hold the secret all the same: none of it is quoted.
            return Exchange(request, seen.status, seen.outcome, "an answer that is not what was asked for")
        return seen


def text_of(members: Members, *names: str) -> str:
    """The text at that path as it is, unlike `evidence.text`; empty when there is none."""
    value = member(members, *names)
    return value if isinstance(value, str) else ""


def _demand(seen: Exchange[F]) -> F:
    if seen.found is None:
        raise trouble(seen)
    return seen.found


def _gone(left: str) -> None:
    if left:
        raise MeshpkiError(left, todo="remove it by hand")
