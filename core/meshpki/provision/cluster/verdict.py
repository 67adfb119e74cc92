"""A verdict on one rung: the answer, the reason, what was seen, what to do; and the verdicts that all rungs share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from meshpki.provision.cluster.evidence import Outcome

if TYPE_CHECKING:
    from meshpki.provision.cluster.evidence import Seen
    from meshpki.provision.cluster.permission import Permission


class Rung(StrEnum):
    """What is examined, in the order in which it is asked."""

    VERSION = "version"
    TOKEN_REQUEST = "token-request"
    PERMISSIONS = "permissions"
    TOKEN = "token"
    REVIEW = "review"
    API_SERVER = "api-server"
    ISSUER = "issuer"
    CERTIFICATES = "certificates"
    CANARY = "canary"


class Answer(StrEnum):
    """What a rung's evidence comes to."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "could not tell"
    """Never the same as no: the same question may be answered tomorrow, or to somebody who may ask it."""
    DANGER = "danger"
    NOT_ASKED = "not asked"
    """An earlier rung left nothing to ask about."""


class Reason(StrEnum):
    """Why. Values are never used again for something else."""

    # Any rung
    FORBIDDEN = "forbidden"
    NOT_ADMITTED = "not-admitted"
    """By a quota, a webhook, a namespace that is being removed: not by RBAC."""
    NOT_FOUND = "not-found"
    NO_NAMESPACE = "no-namespace"
    CONFLICT = "conflict"
    INVALID = "invalid"
    THROTTLED = "throttled"
    SERVER_ERROR = "server-error"
    UNREADABLE = "unreadable"
    NO_ANSWER = "no-answer"
    UNAUTHORIZED = "unauthorized"
    NOT_REACHED = "not-reached"
    # version
    NEW_ENOUGH = "new-enough"
    TOO_OLD = "too-old"
    EMULATED = "emulated"
    # token-request
    SERVED = "served"
    NOT_SERVED = "not-served"
    # permissions
    ALL_GRANTED = "all-granted"
    MISSING = "missing"
    # token
    AS_ASKED = "as-asked"
    WITHOUT_KEY_ID = "without-key-id"
    TOKEN_REQUEST_OFF = "token-request-off"
    TOKEN_REQUEST_HIDDEN = "token-request-hidden"
    SERVERS_DIFFER = "servers-differ"
    ACCOUNT_GONE = "account-gone"
    ACCOUNT_FOREIGN = "account-foreign"
    ACCOUNT_IN_USE = "account-in-use"
    WOULD_STAY_BEHIND = "would-stay-behind"
    AUDIENCE_NOT_AS_ASKED = "audience-not-as-asked"
    LIVES_TOO_LONG = "lives-too-long"
    OTHER_SUBJECT = "other-subject"
    ALGORITHM_NOT_ALLOWED = "algorithm-not-allowed"
    # review
    AUDIENCE_CONFIRMED = "audience-confirmed"
    AUDIENCE_NOT_CONFIRMED = "audience-not-confirmed"
    NOT_AUTHENTICATED = "not-authenticated"
    NO_AUDIENCES = "no-audiences"
    # api-server
    CLOSED = "closed"
    OPEN_BY_AUDIENCE = "open-by-audience"
    OPEN_TO_ANY = "open-to-any"
    PROVES_NOTHING = "proves-nothing"
    # issuer
    PUBLISHED = "published"
    ONE_OF_SEVERAL = "one-of-several"
    ISSUER_NOT_HTTPS = "issuer-not-https"
    ISSUER_TOO_OLD = "issuer-too-old"
    ISSUER_HIDDEN = "issuer-hidden"
    ISSUER_DIFFERS = "issuer-differs"
    KEY_NOT_PUBLISHED = "key-not-published"
    # certificates
    STABLE = "stable"
    BETA = "beta"
    # canary
    RUNNING = "running"
    MOUNTED = "mounted"
    FAILED_MOUNT = "failed-mount"
    NO_KUBELET = "no-kubelet"
    POD_ENDED = "pod-ended"
    MOUNT_HELD_UP = "mount-held-up"
    TOO_SLOW = "too-slow"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rung comes to."""

    rung: Rung
    answer: Answer
    reason: Reason
    seen: str
    """What was seen, in a sentence without its full stop."""
    todo: str = ""
    evidence: tuple[Seen, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the answer is yes."""
        return self.answer is Answer.YES


_OF_PATH = re.compile(r' cannot \w+ path "([^"]*)"')
_TODO = {
    Outcome.UNAUTHORIZED: "give a credential that this cluster accepts",
    Outcome.CONFLICT: "try again",
    Outcome.INVALID: "look for an admission webhook or a proxy that changes or refuses such requests",
    Outcome.THROTTLED: "try again when the API server is less busy",
    Outcome.SERVER_ERROR: "look into the API server's log, and try again",
    Outcome.UNREADABLE: "check the server's address in the kubeconfig, and look for a proxy that answers in its place",
    Outcome.NO_ANSWER: "see whether the API server is up and reachable from here, and try again",
    Outcome.NOT_FOUND: "look for a proxy or an aggregated API that hides this path",
}


def could_not_tell(rung: Rung, seen: Seen, permission: Permission) -> Verdict:
    """The verdict on a request that brought no usable answer; `permission` is what the request needs."""
    reason, todo = Reason(seen.outcome.value), _TODO.get(seen.outcome, "")
    text = f"{seen.request}: {seen.short}"
    if seen.outcome is Outcome.FORBIDDEN:
        reason, text, todo = _refused(seen, permission)
    elif seen.outcome is Outcome.NOT_FOUND and seen.about.startswith("namespaces "):
        reason, text = Reason.NO_NAMESPACE, f"there is no {seen.about.replace('namespaces', 'namespace')}"
        todo = "name a namespace that is there (--namespace)"
    return Verdict(rung, Answer.UNKNOWN, reason, text, todo, (seen,))


def _refused(seen: Seen, permission: Permission) -> tuple[Reason, str, str]:
    """What a 403 says. Whoever authorizes says that the user cannot; all others have rules that no role changes."""
    if prefix := _prefix(seen):
        text = f"the API server was asked for {prefix}{seen.path}, of which it knows nothing"
        todo = f"take {prefix} out of the server's address in the kubeconfig, if no gateway serves the cluster there"
        return Reason.FORBIDDEN, text, todo
    if " cannot " in seen.message:
        return Reason.FORBIDDEN, f"not allowed to {permission}", permission.todo
    todo = "have the rule behind this changed"
    if permission.namespace:
        todo = "name a namespace that takes such an object (--namespace), or have the rule behind this changed"
    return Reason.NOT_ADMITTED, f"{seen.request} was not admitted: {seen.short}", todo


def _prefix(seen: Seen) -> str:
    """What stands before our path where the server was asked: it names the whole path when it refuses it."""
    asked = _OF_PATH.search(seen.message)
    return asked[1].removesuffix(seen.path) if asked and asked[1].endswith(seen.path) else ""


def not_asked(rung: Rung, why: str) -> Verdict:
    """The verdict on a rung that an earlier one left without a question."""
    return Verdict(rung, Answer.NOT_ASKED, Reason.NOT_REACHED, why)
