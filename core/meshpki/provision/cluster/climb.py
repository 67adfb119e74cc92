"""Asks a cluster rung by rung, in order, and judges nothing: what came back goes to the pure verdicts."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from meshpki.errors import InvalidValueError, MeshpkiError, RefusedError, UsageError
from meshpki.identity import ServiceAccountRef
from meshpki.provision.cluster import (
    canary,
    certificates,
    discovery,
    issuer,
    ladder,
    permission,
    review,
    token,
    version,
)
from meshpki.provision.cluster.evidence import Exchange, Outcome, record, unanswered
from meshpki.provision.cluster.recorded import Recorded
from meshpki.provision.cluster.throw_away import ThrowAway, this_run
from meshpki.provision.cluster.token import Account, AccountSeen
from meshpki.provision.cluster.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshpki.hooks import Progress
    from meshpki.provision.cluster.evidence import Answer, Asker, Members
    from meshpki.provision.cluster.ladder import Ladder

F = TypeVar("F")

AUDIENCE: Final = "istio-ca"
POLL_SECONDS: Final = 0.5
TRIES: Final = 3
"""For an answer of 200 and no byte, as 1.13.0 gives at times (kubernetes#71696, mended in 1.13.3)."""


@dataclass(frozen=True, slots=True)
class Canary:
    """The canary pod that the operator asked for."""

    image: str = canary.IMAGE
    seconds: float = canary.SECONDS
    """How long to wait for a kubelet."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the operator wants to know, and where the throw-away account may stand."""

    namespace: str = "default"
    audience: str = AUDIENCE
    """The mesh's: what the CA accepts."""
    canary: Canary | None = None

    def __post_init__(self) -> None:
        try:
            ServiceAccountRef(self.namespace, permission.NAME)
        except InvalidValueError as error:
            raise UsageError(f"namespace {self.namespace!r:.80}", wanted="a namespace's name") from error
        if not self.audience or not self.audience.isprintable():
            raise UsageError(f"audience {self.audience!r:.80}", wanted="the audience that the CA accepts")


class LeftBehindError(MeshpkiError):
    """Something that detection made could not be removed."""


def climb(asker: Asker, question: Question, *, progress: Progress | None = None) -> Ladder:
    """Ask everything and judge it. Leaves nothing on the cluster, after Ctrl-C neither.

    Raises what the asker raises when the first question brings no answer at all, RefusedError when the cluster does
    not accept the credential, LeftBehindError when the throw-away account could not be removed.
    """
    return ladder.build(_Climb(asker, question, progress or (lambda _: None)).all())


class _Climb:
    def __init__(self, asker: Asker, question: Question, progress: Progress) -> None:
        self._asker = asker
        self._question = question
        self._say = progress
        self._foreign = f"{permission.NAME}.{secrets.token_hex(8)}"
        self._hidden: dict[str, str] = {self._foreign: token.FOREIGN}
        self._run = this_run()
        core = f"/api/v1/namespaces/{question.namespace}"
        self._account = ThrowAway(asker, f"{core}/serviceaccounts", "ServiceAccount", self._run)
        self._pod = ThrowAway(asker, f"{core}/pods", "Pod", self._run)
        self._core = core
        self._token = ""

    def all(self) -> Recorded:
        """Ask in order; take away what was made, whatever happens."""
        left: list[str] = []
        try:
            recorded = self._ask_all()
        finally:
            self._token = ""
            with uninterrupted():  # both: a Ctrl-C held back by the first must not spare the second
                left += filter(None, (self._pod.remove(), self._account.remove()))
            if left:
                raise LeftBehindError(
                    "; ".join(left),
                    wanted="nothing of detection left on the cluster",
                    todo=f"kubectl -n {self._question.namespace} delete serviceaccount,pod {permission.NAME}",
                )
        return recorded

    def _ask_all(self) -> Recorded:
        question = self._question
        self._say("step 1: version")
        seen_version = self._first(version.PATH, version.read)
        self._say("step 2: discovery of TokenRequest")
        resources = self._get(discovery.PATH, discovery.read)
        self._say("step 3: own permissions")
        permissions = self._permissions()
        self._say(f"step 4: a throw-away token in namespace {question.namespace}")
        account = self._make_account(permissions)
        minted = self._mint() if self._account.uid else None
        self._say("step 5: review of it for its audience")
        reviewed = self._review((self._foreign,))
        self._say("step 6: review of it for the API server")
        own = self._review(())
        self._say("step 7: issuer and keys")
        document = self._get(issuer.DOCUMENT_PATH, issuer.read_document)
        keys = self._keys() if document.found else None
        self._say("step 8: certificate APIs")
        resources8 = self._certificates()
        canary_seen = self._canary() if question.canary and self._token else None
        return Recorded(
            namespace=question.namespace,
            audience=question.audience,
            version=seen_version,
            resources=resources,
            permissions=permissions,
            account=account,
            token=minted,
            review=reviewed,
            own_review=own,
            document=document,
            keys=keys,
            certificates=resources8,
            canary=canary_seen,
            canary_wanted=question.canary is not None,
        )

    def _first(self, path: str, read: Callable[[Members], F | None]) -> Exchange[F]:
        """Without any answer to the first question there is nothing to tell."""
        return self._record(f"GET {path}", self._send("GET", path), read)

    def _send(self, method: str, path: str, body: Members | None = None) -> Answer:
        """Ask what changes nothing, or no more than a further throw-away token: so it may be asked again."""
        for _ in range(TRIES - 1):
            answer = self._asker.request(method, path, body)
            if answer.status != 200 or answer.body:
                return answer
        return self._asker.request(method, path, body)

    def _get(self, path: str, read: Callable[[Members], F | None]) -> Exchange[F]:
        return self._ask("GET", path, None, read)

    def _ask(
        self, method: str, path: str, body: Members | None, read: Callable[[Members], F | None], said: str = ""
    ) -> Exchange[F]:
        request = f"{method} {path}{said}"
        try:
            answer = self._send(method, path, body)
        except MeshpkiError as error:
            return unanswered(request, self._clean(error.seen))
        return self._record(request, answer, read)

    def _record(self, request: str, answer: Answer, read: Callable[[Members], F | None]) -> Exchange[F]:
        seen = record(request, _Cleaned(answer, self._clean), read)
        if seen.outcome is Outcome.UNAUTHORIZED:
            raise RefusedError(
                f"the API server does not accept the credential: {request} was answered by {seen.short}",
                wanted="a credential of this cluster that has not expired",
                todo="log in again, or choose another context (--context)",
            )
        return seen

    def _clean(self, said: str) -> str:
        for secret, stand_in in self._hidden.items():
            said = said.replace(secret, stand_in)
        return said

    def _permissions(self) -> tuple[Exchange[permission.Granted], ...]:
        wanted = permission.needed(self._question.namespace, canary=self._question.canary is not None)
        return tuple(self._permission(one) for one in wanted)

    def _permission(self, one: permission.Permission) -> Exchange[permission.Granted]:
        return self._ask(
            "POST", permission.REVIEW_PATH, one.review(), lambda members: permission.read(members, one), f": {one}"
        )

    def _make_account(self, permissions: tuple[Exchange[permission.Granted], ...]) -> Exchange[AccountSeen]:
        path = f"{self._core}/serviceaccounts"
        if permission.allowed(permissions, permission.remove_account(self._question.namespace)) is not True:
            return Exchange(f"POST {path}", 0, Outcome.DONE, "not sent", found=AccountSeen(Account.NOT_TRIED))
        body = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": self._account.metadata,
            "automountServiceAccountToken": False,
        }
        return self._account.make(body)

    def _mint(self) -> Exchange[token.TokenSeen]:
        audiences = (self._question.audience, self._foreign)

        def read(members: Members) -> token.TokenSeen | None:
            issued = members.get("status")
            value = issued.get("token") if isinstance(issued, dict) else None
            if not isinstance(value, str) or not value:
                return None
            self._hidden[value] = "[token]"
            seen = token.read(value, uid=self._account.uid, stand_ins={self._foreign: token.FOREIGN})
            self._token = value
            return seen

        path = f"{self._core}/serviceaccounts/{permission.NAME}/token"
        request = f"POST {path}"
        try:
            answer = self._send("POST", path, token.request(audiences))
        except MeshpkiError as error:
            return unanswered(request, error.seen)
        # Read before anything is cleaned: an answer whose token could not be found must not be quoted either.
        if 200 <= answer.status < 300:
            found = record(request, answer, read)
            kept = "" if found.found else "an answer without a token that can be read"
            return Exchange(request, found.status, found.outcome, kept, found=found.found)
        return self._record(request, answer, read)

    def _review(self, audiences: tuple[str, ...]) -> Exchange[review.ReviewSeen] | None:
        if not self._token:
            return None
        said = f" for {', '.join(self._clean(name) for name in audiences)}" if audiences else " without audiences"
        return self._ask("POST", review.PATH, review.request(self._token, audiences), review.read, said)

    def _keys(self) -> Exchange[issuer.KeysSeen]:
        path = issuer.KEYS_PATH
        try:
            answer = self._send("GET", path)
        except MeshpkiError as error:
            return unanswered(f"GET {path}", error.seen)
        verifies = _verifies(self._token, answer.body) if self._token and answer.status == 200 else None
        return self._record(f"GET {path}", answer, lambda members: issuer.read_keys(members, verifies=verifies))

    def _certificates(self) -> tuple[Exchange[certificates.CertificateResources], ...]:
        """The beta is asked for only where v1 does not answer the question."""
        asked: list[Exchange[certificates.CertificateResources]] = []
        for name in certificates.VERSIONS:
            asked.append(self._get(f"{certificates.GROUP}/{name}", certificates.read))
            if (found := asked[-1].found) is not None and found.both:
                break
        return tuple(asked)

    def _canary(self) -> Exchange[canary.CanarySeen] | None:
        wanted = self._question.canary
        if wanted is None or not self._account.uid:
            return None
        self._say(f"step 9: a canary pod, for at most {wanted.seconds:.0f} s")
        body = canary.pod(self._question.audience, wanted.image, self._pod.metadata, self._account.uid)
        made = self._pod.make(body)
        if not self._pod.uid:
            stands = made.found is not None
            outcome = Outcome.CONFLICT if stands else made.outcome
            return Exchange(made.request, made.status, outcome, made.message, made.about)
        return self._watch(time.monotonic() + wanted.seconds)

    def _watch(self, deadline: float) -> Exchange[canary.CanarySeen]:
        path = f"{self._core}/pods/{permission.NAME}"
        events = f"{self._core}/events?fieldSelector=involvedObject.uid%3D{self._pod.uid}"
        told = ""
        while True:
            seen = self._get(path, canary.read_pod)
            if seen.found is not None and not seen.found.mounted:
                seen = _with_events(seen, self._get(events, canary.read_events))
            if seen.found is None or seen.found.settled or time.monotonic() >= deadline:
                return seen
            state = f"the pod is {seen.found.phase or 'new'} {seen.found.waiting}".rstrip()
            if state != told:
                self._say(told := state)
            time.sleep(POLL_SECONDS)


def _with_events(seen: Exchange[canary.CanarySeen], events: Exchange[str]) -> Exchange[canary.CanarySeen]:
    found = seen.found
    if found is None or not events.found:
        return seen
    told = canary.CanarySeen(found.phase, found.scheduled, found.waiting, events.found)
    return Exchange(seen.request, seen.status, seen.outcome, seen.message, seen.about, told)


@dataclass(frozen=True, slots=True)
class _Cleaned:
    """An answer in which secrets and whatever the run made up have been replaced."""

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


def _verifies(issued: str, jwks: bytes) -> bool | None:
    """Whether one of the published keys verifies the token, by the CA's own rules; None when there is no telling."""
    from meshpki.tokens.keys import KeySet
    from meshpki.tokens.parse import parse
    from meshpki.tokens.reasons import TokenRefusedError
    from meshpki.tokens.verify import check_signature

    try:
        keys = KeySet.from_jwks(jwks)
        parsed = parse(issued.encode())
        check_signature(parsed, keys.candidates(parsed.header.kid))
    except TokenRefusedError:
        return False
    except MeshpkiError:
        return None
    return True
