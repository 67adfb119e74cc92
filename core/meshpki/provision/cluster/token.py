"""Rung 4: a real token of a throw-away account. Of it only what is no secret is kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from meshpki.errors import InvalidValueError
from meshpki.provision.cluster import permission, version
from meshpki.provision.cluster.discovery import how_to_serve
from meshpki.provision.cluster.evidence import Outcome, shown
from meshpki.provision.cluster.verdict import Answer, Reason, Rung, Verdict, could_not_tell, not_asked
from meshpki.tokens.algorithms import SUPPORTED
from meshpki.tokens.parse import read_part, split
from meshpki.tokens.reasons import TokenRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshpki.provision.cluster.discovery import CoreResources
    from meshpki.provision.cluster.evidence import Exchange, Seen
    from meshpki.provision.cluster.version import Release

LIFETIME_SECONDS: Final = 600
"""The smallest that an API server gives."""
FOREIGN: Final = "meshpki-detect.(random)"
"""Stands in every record for the audience that was made up for the run."""


class Account(StrEnum):
    """How the throw-away account came out."""

    MADE = "made"
    MADE_ANEW = "made-anew"
    """After removing what a killed run had left."""
    IN_USE = "in-use"
    """Another run of detection is at work in this namespace."""
    FOREIGN = "foreign"
    """An account of that name stands there which detection did not make."""
    NOT_TRIED = "not-tried"
    """We may not remove it, or do not know whether we may: then it is not made."""


@dataclass(frozen=True, slots=True)
class AccountSeen:
    """The throw-away account."""

    state: Account


@dataclass(frozen=True, slots=True)
class TokenSeen:
    """What a token says of itself, without what would make it one."""

    algorithm: str
    kid: str | None
    """None when the header has none; empty as Kubernetes 1.13 writes it."""
    issuer: str
    audiences: tuple[str, ...]
    lifetime_seconds: int
    subject: str
    claims: tuple[str, ...]
    """The names of all claims, those within `kubernetes.io` with that prefix, sorted."""
    account_bound: bool
    """Whether it names the account's own UID."""

    @property
    def has_id(self) -> bool:
        """Whether it has a `jti`, by which an issued certificate can be traced back to it."""
        return "jti" in self.claims


def request(audiences: Sequence[str]) -> dict[str, object]:
    """The TokenRequest. `dryRun` is left out on purpose: it mints a live token all the same (1.37)."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": list(audiences), "expirationSeconds": LIFETIME_SECONDS},
    }


def read(token: str, *, uid: str, stand_ins: Mapping[str, str]) -> TokenSeen:
    """Decode header and claims of a token, replacing what the run made up. Raises InvalidValueError."""
    try:
        head, payload, _ = split(token.encode("ascii", "replace"))
        header, claims = read_part(head, "header"), read_part(payload, "payload")
    except TokenRefusedError as error:
        raise InvalidValueError("what was issued is no JWT") from error
    kube = claims.get("kubernetes.io")
    kube = kube if isinstance(kube, dict) else {}
    account = kube.get("serviceaccount")
    names = {name for name in claims if name != "kubernetes.io"} | {f"kubernetes.io/{name}" for name in kube}
    kid = header.get("kid")
    return TokenSeen(
        algorithm=_text(header.get("alg")),
        kid=shown(kid) if isinstance(kid, str) else None,
        issuer=_text(claims.get("iss")),
        audiences=tuple(stand_ins.get(name, shown(name)) for name in _texts(claims.get("aud"))),
        lifetime_seconds=_integer(claims.get("exp")) - _integer(claims.get("iat")),
        subject=_text(claims.get("sub")),
        claims=tuple(sorted(shown(name) for name in names)),
        account_bound=isinstance(account, dict) and account.get("uid") == uid,
    )


def _text(value: object) -> str:
    return shown(value) if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _integer(value: object) -> int:
    if type(value) is not int:
        raise InvalidValueError("exp or iat is no whole number")
    return value


@dataclass(frozen=True, slots=True)
class Asked:
    """What the token was asked for, and what else is known when it is judged."""

    namespace: str
    audiences: tuple[str, ...]
    """The mesh's, and FOREIGN."""
    release: Release | None
    resources: CoreResources | None
    may_remove: Exchange[permission.Granted]
    """Whether the account can be taken away again."""

    @property
    def subject(self) -> str:
        """What a token of the throw-away account says in `sub`, and a review as the user's name."""
        return f"system:serviceaccount:{self.namespace}:{permission.NAME}"


def judge(account: Exchange[AccountSeen] | None, minted: Exchange[TokenSeen] | None, asked: Asked) -> Verdict:
    """Whether this cluster issues tokens for an audience of our choice, as asked."""
    if account is None:
        return not_asked(Rung.TOKEN, "no account was made")
    if account.found is None:
        return could_not_tell(Rung.TOKEN, account, _account_permission(account, asked.namespace))
    if minted is None:
        return _without_account(account, account.found.state, asked)
    if minted.found is None:
        return _not_minted(account, minted, asked)
    evidence = (account, minted)
    if (problem := _problem(minted.found, asked)) is not None:
        reason, text, todo = problem
        return Verdict(Rung.TOKEN, Answer.NO, reason, text, todo, evidence)
    seen = minted.found
    text = f"a token for {asked.audiences[0]}, {seen.lifetime_seconds} s, {seen.algorithm}, issuer {seen.issuer}"
    if not seen.kid:
        text += "; it names no key (an empty kid, as 1.13 writes), so keys alone can check it only while there is one"
        return Verdict(Rung.TOKEN, Answer.YES, Reason.WITHOUT_KEY_ID, text, evidence=evidence)
    if asked.resources is not None and not asked.resources.token_request:
        text += "; yet discovery does not list it, so the API servers behind this address may differ"
    return Verdict(Rung.TOKEN, Answer.YES, Reason.AS_ASKED, text, evidence=evidence)


def _account_permission(account: Exchange[AccountSeen], namespace: str) -> permission.Permission:
    makers = {
        "GET": permission.read_account(namespace),
        "DELETE": permission.remove_account(namespace),
    }
    return makers.get(account.request.split(" ")[0], permission.create_account(namespace))


def _without_account(account: Exchange[AccountSeen], state: Account, asked: Asked) -> Verdict:
    where = f"ServiceAccount {asked.namespace}/{permission.NAME}"
    evidence: tuple[Seen, ...] = (account,)
    match state:
        case Account.FOREIGN:
            reason, text = Reason.ACCOUNT_FOREIGN, f"{where} stands there, and detection did not make it"
            todo = "look whose it is; remove it, or name another namespace (--namespace)"
        case Account.IN_USE:
            reason, text = Reason.ACCOUNT_IN_USE, f"{where} is in use: another `meshpki detect` is at work"
            todo = "run it again when that one is done; what a killed run left counts as left after ten minutes"
        case _ if asked.may_remove.found is None:
            reason = Reason.WOULD_STAY_BEHIND
            text = f"no token was asked for: whether we may remove {where} again is not known"
            todo = could_not_tell(Rung.TOKEN, asked.may_remove, permission.ACCESS_REVIEW).todo
            evidence = (account, asked.may_remove)
        case _:
            reason, text = Reason.WOULD_STAY_BEHIND, f"no token was asked for: we may not remove {where} again"
            todo = permission.remove_account(asked.namespace).todo
    return Verdict(Rung.TOKEN, Answer.UNKNOWN, reason, text, todo, evidence)


def _not_minted(account: Exchange[AccountSeen], minted: Exchange[TokenSeen], asked: Asked) -> Verdict:
    evidence = (account, minted)
    if minted.outcome is not Outcome.NOT_FOUND:
        verdict = could_not_tell(Rung.TOKEN, minted, permission.request_token(asked.namespace))
        return Verdict(verdict.rung, verdict.answer, verdict.reason, verdict.seen, verdict.todo, evidence)
    if permission.NAME in minted.about or permission.NAME in minted.message:
        text = f"the throw-away account vanished before its token was issued: {minted.message}"
        todo = "look for a controller that removes service accounts, and try again"
        return Verdict(Rung.TOKEN, Answer.UNKNOWN, Reason.ACCOUNT_GONE, text, todo, evidence)
    if asked.resources is not None and asked.resources.token_request:
        text = f"discovery lists TokenRequest, and the request says {minted.short}: the API servers may differ"
        todo = "compare the flags of all API servers behind this address, and try again"
        return Verdict(Rung.TOKEN, Answer.UNKNOWN, Reason.SERVERS_DIFFER, text, todo, evidence)
    release = asked.release
    if release is None:
        text = f"{minted.request}: {minted.short}; without the version there is no telling whether it is off"
        todo = "see why /version cannot be read: until it was, nothing is concluded from this"
        return Verdict(Rung.TOKEN, Answer.UNKNOWN, Reason.NOT_FOUND, text, todo, evidence)
    if release >= version.REQUIRED_ISSUER:
        text = f"every API server since {version.REQUIRED_ISSUER} serves TokenRequest, and this one says {minted.short}"
        return Verdict(Rung.TOKEN, Answer.UNKNOWN, Reason.TOKEN_REQUEST_HIDDEN, text, how_to_serve(release), evidence)
    text = f"TokenRequest is off: {minted.short}"
    return Verdict(Rung.TOKEN, Answer.NO, Reason.TOKEN_REQUEST_OFF, text, how_to_serve(release), evidence)


def _problem(seen: TokenSeen, asked: Asked) -> tuple[Reason, str, str] | None:
    if set(seen.audiences) != set(asked.audiences):
        text = f"the token is for {_list(seen.audiences)}, asked for was {_list(asked.audiences)}"
        return Reason.AUDIENCE_NOT_AS_ASKED, text, "ask the vendor why another audience cannot be had"
    if not 0 < seen.lifetime_seconds <= LIFETIME_SECONDS:
        text = f"the token lives {seen.lifetime_seconds} s, asked for were {LIFETIME_SECONDS} s"
        return Reason.LIVES_TOO_LONG, text, "ask the vendor, or look for what extends tokens' lives"
    if seen.subject != asked.subject:
        return Reason.OTHER_SUBJECT, f"the token is for {seen.subject!a}, not {asked.subject!a}", "ask the vendor"
    if seen.algorithm not in SUPPORTED:
        text = f"the token is signed by {seen.algorithm!a}, which the CA does not take"
        return Reason.ALGORITHM_NOT_ALLOWED, text, f"sign tokens by one of {', '.join(SUPPORTED)}"
    return None


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "nobody"
