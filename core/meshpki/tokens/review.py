"""TokenReview: what an API server is asked about a token, and what its answer is worth. Pure: bytes in, a verdict out.

Format: authentication.k8s.io/v1 TokenReview. Rules beyond it: audiences are sent and looked for in the answer
(Kubernetes: "a client that sets spec.audiences should validate status.audiences"), and the answer must not contradict
what the token itself says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from meshpki.errors import InvalidValueError
from meshpki.tokens.encoding import MAX_TOKEN_BYTES, StrictJsonError, read_object
from meshpki.tokens.reasons import TokenReason
from meshpki.tokens.review_texts import explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshpki.tokens.caller import Caller

PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
RULE: Final = '{apiGroups: ["authentication.k8s.io"], resources: ["tokenreviews"], verbs: ["create"]}'
MAX_ANSWER_BYTES: Final = 256 * 1024
"""An answer repeats the token and adds about 2 kB."""
NO_TOKEN: Final = b"meshpki-asks-whether-it-may-ask"
"""What a reviewer asks about to learn whether it may ask: no token of anybody."""
_EXTRA: Final = "authentication.kubernetes.io/"
_ALL_ACCOUNTS: Final = "system:serviceaccounts"


class Cause(StrEnum):
    """Why there is no verdict."""

    AWAY = "away"
    """No HTTP answer: nobody there, or not the one whom we believe."""
    SLOW = "slow"
    """No HTTP answer in time."""
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    UNAUTHORIZED = "unauthorized"
    """The API server does not know the reviewer, or the reviewer has no credential to show."""
    FORBIDDEN = "forbidden"
    """The reviewer may not create tokenreviews."""
    ANSWER = "answer"
    """Something that is no answer to a TokenReview."""
    BUSY = "busy"
    """We ask about too many others already."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The API server takes the token for our audience, as the token of the very caller that it names."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The API server does not take the token, or takes it for another's. No text of the answer is in here."""

    reason: TokenReason
    seen: str
    wanted: str = ""
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Unjudged:
    """No verdict on the token: this says something of the API server, or of us."""

    cause: Cause
    why: str
    todo: str = ""
    retry_after: float | None = None
    """Seconds, when the API server named them."""


Verdict: TypeAlias = Confirmed | Refused | Unjudged


def request_body(token: bytes, audiences: Sequence[str]) -> dict[str, object]:
    """The TokenReview to create. Raises InvalidValueError for a token beyond the cap, or no audience.

    Without audiences the API server would take a token for itself, which is no token for us.
    """
    if len(token) > MAX_TOKEN_BYTES or not audiences or not all(audiences):
        raise InvalidValueError("a review of a very large token, or for no audience", wanted="a token for our audience")
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token.decode("ascii"), "audiences": list(audiences)},
    }


def read_review(
    status: int, body: bytes, caller: Caller, audiences: Sequence[str], *, retry_after: str = ""
) -> Verdict:
    """Judge the answer to a review for `audiences`. `caller` is what the token's own claims say; nothing else is kept.

    `retry_after` is the header of that name.
    """
    if status not in {200, 201}:
        return _no_review(status, retry_after)
    answer = _read(body)
    if isinstance(answer, Unjudged):
        return answer
    error = answer.get("error", "")
    if answer.get("authenticated", False) is not True or error:
        return _not_authenticated(error if isinstance(error, str) else "", caller)
    confirmed = answer.get("audiences")
    if not isinstance(confirmed, list) or not any(audience in confirmed for audience in audiences):
        return Refused(
            TokenReason.AUDIENCE_NOT_CONFIRMED,
            "the API server takes the token, but does not say for which audience",
            wanted="our audience in status.audiences of its answer",
            todo="below Kubernetes 1.13, or behind a token webhook that knows no audiences, use authentication: jwks",
        )
    other = _contradiction(answer.get("user"), caller)
    return Confirmed() if other is None else _mismatch(other)


def read_self_check(status: int, body: bytes) -> Unjudged | None:
    """Judge the answer to a review of NO_TOKEN: None if reviews work, else what is missing."""
    if status not in {200, 201}:
        return _no_review(status, "")
    answer = _read(body)
    if isinstance(answer, Unjudged):
        return answer
    if answer.get("authenticated", False) is not False:
        return Unjudged(
            Cause.ANSWER,
            "the API server takes a text for a token that is none",
            "its answers are worth nothing: look at its authenticators",
        )
    return None


def _read(body: bytes) -> Mapping[str, object] | Unjudged:
    """`status` of a TokenReview."""
    why = "its answer is no TokenReview"
    if len(body) > MAX_ANSWER_BYTES:
        why = f"its answer has {len(body)} bytes"
    else:
        try:
            answer = read_object(body)
        except StrictJsonError:  # holds nothing of the answer, which repeats the token
            answer = {}
        status = answer.get("status")
        if answer.get("kind") == "TokenReview" and isinstance(status, dict):
            return status
    return Unjudged(Cause.ANSWER, why, "check that the address is a Kubernetes API server's, and not a proxy's")


def _no_review(status: int, retry_after: str) -> Unjudged:
    match status:
        case 401:
            why = "the API server does not know the reviewer by its credential (401)"
            return Unjudged(Cause.UNAUTHORIZED, why, "check the credential under `api_server`: is its token rewritten?")
        case 403:
            return Unjudged(
                Cause.FORBIDDEN,
                "the reviewer may not create tokenreviews.authentication.k8s.io (403)",
                f"bind a ClusterRole with the rule {RULE} to it: kubectl apply -f deploy/kubernetes/ca-rbac.yaml",
            )
        case 404:
            why = "there is no TokenReview at the address (404)"
            return Unjudged(Cause.ANSWER, why, "check that it is a Kubernetes API server's")
        case 429:
            seconds = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else None
            why = "the API server sheds load (429)"
            return Unjudged(Cause.THROTTLED, why, "see its priority and fairness settings", seconds)
        case _ if status >= 500:
            why = f"the API server answers with an error of its own ({status})"
            return Unjudged(Cause.SERVER_ERROR, why, "see the API server's log, and its etcd")
        case _:
            why = f"an answer with status {status}"
            return Unjudged(Cause.ANSWER, why, "check that the address is a Kubernetes API server's")


def _not_authenticated(error: str, caller: Caller) -> Refused:
    found = explain(error, caller)
    return Refused(found.reason, found.seen, found.wanted, found.todo)


def _contradiction(user: object, caller: Caller) -> str | None:
    """In what the answer is about another than `caller`; None if in nothing. Both need not say everything."""
    if not isinstance(user, dict):
        return "user"
    account = caller.service_account
    # The subject is exact and was made of parsed parts: equality leaves no other reading of the name.
    if user.get("username") != account.subject:
        return "user name"
    groups = user.get("groups")
    if not isinstance(groups, list) or not {_ALL_ACCOUNTS, f"{_ALL_ACCOUNTS}:{account.namespace}"} <= _texts(groups):
        return "groups"
    if user.get("uid") != caller.service_account_uid:
        return "service account UID"
    extra = user.get("extra", {})
    if not isinstance(extra, dict):
        return "extra"
    for name, ours in _claimed(caller).items():
        if extra.get(_EXTRA + name, [ours]) != [ours]:
            return name
    return None


def _texts(values: Sequence[object]) -> set[str]:
    return {value for value in values if isinstance(value, str)}


def _claimed(caller: Caller) -> dict[str, str]:
    """What API servers say beside the user: pods since 1.13, nodes and the token's ID since 1.29 (KEP-4193)."""
    claimed = {} if caller.token_id is None else {"credential-id": f"JTI={caller.token_id}"}
    for kind, bound in (("pod", caller.pod), ("node", caller.node)):
        if bound is not None:
            claimed |= {f"{kind}-name": bound.name, f"{kind}-uid": bound.uid}
    return claimed


def _mismatch(what: str) -> Refused:
    return Refused(
        TokenReason.REVIEW_MISMATCH,
        f"the API server says that the token is another's than it says itself: {what}",
        wanted="the same user name, groups, UID, pod, node and token ID in both",
        todo="check that `issuer` and `api_server` are of one cluster, and that no token webhook answers for it",
    )
