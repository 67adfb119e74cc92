"""Asks a cluster rung by rung, in order, and judges nothing: what came back goes to the pure verdicts."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

from meshpki.errors import MeshpkiError
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
from meshpki.provision.cluster.asking import LOGIN, Asking, Unanswered
from meshpki.provision.cluster.evidence import Exchange, Outcome, record, unanswered
from meshpki.provision.cluster.recorded import Recorded
from meshpki.provision.cluster.throw_away import ThrowAway, this_run
from meshpki.provision.cluster.token import Account, AccountSeen
from meshpki.provision.cluster.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.hooks import Progress
    from meshpki.provision.cluster.asking import Login
    from meshpki.provision.cluster.evidence import Asker, Members
    from meshpki.provision.cluster.ladder import Ladder
    from meshpki.provision.cluster.question import Question

POLL_SECONDS: Final = 0.5
BUDGET_SECONDS: Final = 240.0
"""From the making of the account on: after that nothing new is asked. The last question and the removals, each of a
minute at most, end before what stands counts as left by a dead run (`throw_away.STALE_SECONDS`)."""


class LeftBehindError(MeshpkiError):
    """Something that detection made could not be removed, or nobody knows whether it was."""

    def __init__(self, left: Sequence[str], *, todo: str, ladder: Ladder | None = None) -> None:
        """`ladder` is what was found out all the same; None when the run was broken off."""
        super().__init__("; ".join(left), wanted="nothing of detection left on the cluster", todo=todo)
        self.ladder = ladder


def climb(
    asker: Asker,
    question: Question,
    *,
    progress: Progress | None = None,
    login: Login = lambda: LOGIN,
    kubectl: str = "kubectl",
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Ladder:
    """Ask everything and judge it. Leaves nothing on the cluster, after Ctrl-C neither.

    The asker takes a minute for a request at most. For messages: `login` says what to do after a 401, `kubectl` is how
    kubectl reaches this cluster. Raises what the asker raises when the first question brings no answer at all,
    RefusedError when the cluster does not accept the credential, LeftBehindError when the throw-away account could not
    be removed: then also in place of KeyboardInterrupt.
    """
    run = _Climb(Asking(asker, login, monotonic), question, progress or (lambda _: None), kubectl, sleep)
    found = ladder.build(run.all())
    run.demand_nothing_left(found)
    return found


class _Climb:
    def __init__(
        self, asking: Asking, question: Question, progress: Progress, kubectl: str, sleep: Callable[[float], None]
    ) -> None:
        self._asking = asking
        self._sleep = sleep
        self._question = question
        self._say = progress
        self._foreign = f"{permission.NAME}.{secrets.token_hex(8)}"
        self._asking.hide(self._foreign, token.FOREIGN)
        self._core = f"/api/v1/namespaces/{question.namespace}"
        run = this_run()
        self._account = ThrowAway(asking.asker, f"{self._core}/serviceaccounts", "ServiceAccount", run)
        self._pod = ThrowAway(asking.asker, f"{self._core}/pods", "Pod", run)
        self._token = ""
        self._kubectl = kubectl
        self._left: tuple[str, ...] | None = None
        """What could not be removed, and why; None until the removal came to its end."""

    def all(self) -> Recorded:
        """Ask in order; take away what was made, whatever happens. Raises LeftBehindError only for a broken run."""
        try:
            try:
                return self._ask_all()
            finally:
                self._remove()
        except BaseException:
            try:
                self._remove()  # if a second Ctrl-C came before the first removal had begun
            finally:
                self.demand_nothing_left()
            raise

    def _remove(self) -> None:
        """Both, once: a Ctrl-C while the first is removed must not leave the second, and is heard when it is known."""
        self._token = ""
        if self._left is None:
            with uninterrupted():
                self._left = tuple(filter(None, (self._pod.remove(), self._account.remove())))

    def demand_nothing_left(self, found: Ladder | None = None) -> None:
        """Raise LeftBehindError unless it is known that nothing is left."""
        if self._left == ():
            return
        where = f"{self._question.namespace}/{permission.NAME}"
        raise LeftBehindError(
            self._left or (f"ServiceAccount and Pod {where} may be left: the removal was broken off",),
            todo=f"{self._kubectl} -n {self._question.namespace} delete serviceaccount,pod {permission.NAME}",
            ladder=found,
        )

    def _ask_all(self) -> Recorded:
        question, get = self._question, self._asking.get
        self._say("step 1: version")
        first = self._asking.first(version.PATH, version.read)
        self._say("step 2: discovery of TokenRequest")
        resources = get(discovery.PATH, discovery.read)
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
        document = get(issuer.DOCUMENT_PATH, issuer.read_document)
        keys = self._keys() if document.found else None
        self._say("step 8: certificate APIs")
        return Recorded(
            namespace=question.namespace,
            audience=question.audience,
            version=first,
            resources=resources,
            permissions=permissions,
            account=account,
            token=minted,
            review=reviewed,
            own_review=own,
            document=document,
            keys=keys,
            certificates=self._certificates(),
            canary=self._canary(),
            canary_wanted=question.canary is not None,
        )

    def _permissions(self) -> tuple[Exchange[permission.Granted], ...]:
        wanted = permission.needed(self._question.namespace, canary=self._question.canary is not None)
        return tuple(self._permission(one) for one in wanted)

    def _permission(self, one: permission.Permission) -> Exchange[permission.Granted]:
        return self._asking.ask(
            "POST", permission.REVIEW_PATH, one.review(), lambda members: permission.read(members, one), f": {one}"
        )

    def _make_account(self, permissions: tuple[Exchange[permission.Granted], ...]) -> Exchange[AccountSeen]:
        path = f"{self._core}/serviceaccounts"
        if permission.allowed(permissions, permission.remove_account(self._question.namespace)) is not True:
            return Exchange(f"POST {path}", 0, Outcome.DONE, "not sent", found=AccountSeen(Account.NOT_TRIED))
        if why := self._asking.of_no_use:
            return unanswered(f"POST {path}", why)
        self._asking.end_in(BUDGET_SECONDS)
        body = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": self._account.metadata,
            "automountServiceAccountToken": False,
        }
        made = self._account.make(body)
        self._asking.note(made)
        return made

    def _mint(self) -> Exchange[token.TokenSeen]:
        def read(members: Members) -> token.TokenSeen | None:
            issued = members.get("status")
            value = issued.get("token") if isinstance(issued, dict) else None
            if not isinstance(value, str) or not value:
                return None
            self._asking.hide(value, "[token]")
            seen = token.read(value, uid=self._account.uid, stand_ins={self._foreign: token.FOREIGN})
            self._token = value
            return seen

        path = f"{self._core}/serviceaccounts/{permission.NAME}/token"
        request = f"POST {path}"
        answer = self._asking.attempt("POST", path, token.request((self._question.audience, self._foreign)))
        if isinstance(answer, Unanswered):
            return unanswered(request, answer.why)
        if not 200 <= answer.status < 300:
            return self._asking.recorded(request, answer, read)
        # Read before anything is cleaned: an answer whose token could not be found must not be quoted either.
        found = record(request, answer, read)
        kept = "" if found.found else "an answer without a token that can be read"
        return Exchange(request, found.status, found.outcome, kept, found=found.found)

    def _review(self, audiences: tuple[str, ...]) -> Exchange[review.ReviewSeen] | None:
        if not self._token:
            return None
        named = self._asking.clean(", ".join(audiences))
        said = f" for {named}" if named else " without audiences"
        return self._asking.ask("POST", review.PATH, review.request(self._token, audiences), review.read, said)

    def _keys(self) -> Exchange[issuer.KeysSeen]:
        request = f"GET {issuer.KEYS_PATH}"
        answer = self._asking.attempt("GET", issuer.KEYS_PATH)
        if isinstance(answer, Unanswered):
            return unanswered(request, answer.why)
        verifies = _verifies(self._token, answer.body) if self._token and answer.status == 200 else None
        return self._asking.recorded(request, answer, lambda members: issuer.read_keys(members, verifies=verifies))

    def _certificates(self) -> tuple[Exchange[certificates.CertificateResources], ...]:
        """The beta is asked for only where v1 does not answer the question."""
        asked: list[Exchange[certificates.CertificateResources]] = []
        for name in certificates.VERSIONS:
            asked.append(self._asking.get(f"{certificates.GROUP}/{name}", certificates.read))
            if (found := asked[-1].found) is not None and found.both:
                break
        return tuple(asked)

    def _canary(self) -> Exchange[canary.CanarySeen] | None:
        wanted = self._question.canary
        if wanted is None or not self._token:
            return None
        self._say(f"step 9: a canary pod, for at most {wanted.seconds:.0f} s")
        if why := self._asking.of_no_use:
            return unanswered(f"POST {self._core}/pods", why)
        made = self._pod.make(canary.pod(self._question.audience, wanted.image, self._pod.metadata, self._account.uid))
        if not self._pod.uid:
            outcome = made.outcome if made.found is None else Outcome.CONFLICT
            return Exchange(made.request, made.status, outcome, made.message, made.about)
        return self._watch(min(self._asking.monotonic() + wanted.seconds, self._asking.ends_at))

    def _watch(self, deadline: float) -> Exchange[canary.CanarySeen]:
        path = f"{self._core}/pods/{permission.NAME}"
        events = f"{self._core}/events?fieldSelector=involvedObject.uid%3D{self._pod.uid}"
        told = ""
        while True:
            seen = self._asking.get(path, canary.read_pod)
            if seen.found is not None and not seen.found.mounted:
                seen = canary.with_events(seen, self._asking.get(events, canary.read_events))
            if seen.found is None or seen.found.settled or self._asking.monotonic() >= deadline:
                return seen
            state = f"the pod is {seen.found.phase or 'new'} {seen.found.waiting}".rstrip()
            if state != told:
                self._say(told := state)
            self._sleep(POLL_SECONDS)


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
