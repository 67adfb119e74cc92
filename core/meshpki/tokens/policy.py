"""What a cluster's tokens must say: issuer, audience, times, subject and binding. Pure: claims and a time come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.errors import InvalidValueError
from meshpki.identity import ServiceAccountRef
from meshpki.tokens.caller import BoundObject, Caller
from meshpki.tokens.claims import (
    LEGACY_ISSUER,
    TokenTimes,
    check_legacy,
    read_account,
    read_bound,
    read_issuer,
    read_kubernetes,
    read_times,
    read_token_id,
    unfit,
)
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from meshpki.tokens.texts import listed, moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshpki.tokens.parse import ParsedToken

    Claims = Mapping[str, object]

MAX_LEEWAY_SECONDS: Final = 60
DEFAULT_AUDIENCE: Final = "istio-ca"
_MAX_LIFETIME_SECONDS: Final = 366 * 86400


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """The terms on which tokens of one cluster are believed. Times are seconds."""

    cluster: str
    """Our name for the cluster: what reports, metrics and the audit log show."""
    issuer: str
    """The exact `iss` of its tokens; nothing is normalised."""
    audiences: tuple[str, ...] = (DEFAULT_AUDIENCE,)
    """A token must be meant for one of these."""
    leeway_seconds: int = 30
    """How far two clocks may differ; 0 to 60."""
    max_lifetime_seconds: int = 86400
    """Cap of exp minus iat. A kubelet renews after 24 h at the latest; an extended token lives a year."""
    require_pod: bool = True
    """Refuse a token that is not bound to a pod: it would outlive whoever holds it."""

    def __post_init__(self) -> None:
        """Raise InvalidValueError for terms that would let anybody in, or nobody."""
        if not self.cluster or not self.issuer or self.issuer == LEGACY_ISSUER:
            raise InvalidValueError(
                f"cluster {self.cluster!r} with issuer {self.issuer!r}",
                wanted=f"a name, and the cluster's own issuer; never {LEGACY_ISSUER}, which every cluster shares",
            )
        if not self.audiences or not all(self.audiences):
            raise InvalidValueError(f"audiences {self.audiences!r}", wanted="one audience or more, none of them empty")
        if not 0 <= self.leeway_seconds <= MAX_LEEWAY_SECONDS:
            raise InvalidValueError(f"leeway of {self.leeway_seconds} s", wanted=f"0 to {MAX_LEEWAY_SECONDS} s")
        if not 1 <= self.max_lifetime_seconds <= _MAX_LIFETIME_SECONDS:
            raise InvalidValueError(
                f"a maximal token lifetime of {self.max_lifetime_seconds} s", wanted="1 s to a year"
            )


def check_claims(parsed: ParsedToken, policy: ClusterPolicy, now: float) -> Caller:
    """Judge the claims of a token whose signature was verified. `now` is epoch seconds.

    Raises TokenRefusedError with exactly one reason; its texts name the audience and the two clocks, and nothing
    else that the token says.
    """
    claims = parsed.claims
    check_legacy(claims, policy.cluster)
    if read_issuer(claims) != policy.issuer:
        raise TokenRefusedError(
            TokenReason.UNKNOWN_ISSUER,
            f"the token is not of the issuer of cluster {policy.cluster}",
            wanted=f"iss {policy.issuer}",
            cluster=policy.cluster,
        )
    check_audience(claims, policy)
    times = check_times(claims, policy, now)
    kube = read_kubernetes(claims, policy.cluster)
    account, uid = check_subject(claims, kube, policy.cluster)
    pod = check_pod(kube, policy)
    node = read_bound(kube, "node", policy.cluster)
    return Caller(
        cluster=policy.cluster,
        issuer=policy.issuer,
        service_account=account,
        service_account_uid=uid,
        pod=pod,
        node=node,
        token_id=read_token_id(claims, policy.cluster),
        issued_at=times.issued_at,
        expires_at=times.expires_at,
    )


def check_audience(claims: Claims, policy: ClusterPolicy) -> None:
    """Demand one of our audiences; `aud` is a text or a list of texts (RFC 7519, section 4.1.3).

    Raises TokenRefusedError: NO_AUDIENCE for a missing or empty one, WRONG_AUDIENCE, CLAIM_INVALID.
    """
    audience = claims.get("aud", [])
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list):
        raise unfit(claims, "aud", "a text or a list of texts", policy.cluster)
    for name in audiences:
        if not isinstance(name, str):
            raise unfit(claims, "aud", "a text or a list of texts", policy.cluster)
    for name in audiences:
        if name in policy.audiences:
            return
    wanted = f"audience {listed(policy.audiences)}"
    if not any(audiences):
        raise TokenRefusedError(
            TokenReason.NO_AUDIENCE,
            "the token is meant for no audience: it would open every door",
            wanted=wanted,
            todo="name the audience in the pod's projected serviceAccountToken volume",
            cluster=policy.cluster,
        )
    raise TokenRefusedError(
        TokenReason.WRONG_AUDIENCE,
        f"the token is meant for audience {listed(audiences)}",
        wanted=wanted,
        todo="name our audience in the pod's projected serviceAccountToken volume, or this one in the cluster's policy",
        cluster=policy.cluster,
    )


def check_times(claims: Claims, policy: ClusterPolicy, now: float) -> TokenTimes:
    """Demand that the token lives now and not for too long; both clocks are named when it does not.

    Raises TokenRefusedError: LIFETIME_TOO_LONG, EXPIRED, NOT_YET_VALID, and those of `read_times`.
    """
    times = read_times(claims, policy.cluster)
    leeway = policy.leeway_seconds
    if times.expires_at - times.issued_at > policy.max_lifetime_seconds:
        raise _too_long(times, policy)
    if times.expires_at + leeway <= now:
        raise _clock(TokenReason.EXPIRED, f"the token expired at {moment(times.expires_at)}", policy, now)
    if times.issued_at - leeway > now:
        raise _clock(TokenReason.NOT_YET_VALID, f"the token was issued at {moment(times.issued_at)}", policy, now)
    if times.not_before - leeway > now:
        raise _clock(TokenReason.NOT_YET_VALID, f"the token is valid from {moment(times.not_before)}", policy, now)
    return times


def check_subject(claims: Claims, kube: Claims, cluster: str = "") -> tuple[ServiceAccountRef, str]:
    """Return service account and its UID; `sub` and `kubernetes.io` must name the same account.

    Raises TokenRefusedError: BAD_SUBJECT, CLAIM_MISSING, CLAIM_INVALID.
    """
    if "sub" not in claims:
        raise unfit(claims, "sub", "system:serviceaccount:<namespace>:<name>", cluster)
    account = read_account(claims["sub"])
    if account is None:
        raise _bad_subject("the token's sub names no Kubernetes service account", cluster)
    uid_of = read_bound(kube, "serviceaccount", cluster)
    if uid_of is None:
        raise unfit(kube, "serviceaccount", "an object with name and uid", cluster)
    if kube.get("namespace") != account.namespace or uid_of.name != account.name:
        raise _bad_subject("the token's sub and its claim kubernetes.io name different accounts", cluster)
    return account, uid_of.uid


def check_pod(kube: Claims, policy: ClusterPolicy) -> BoundObject | None:
    """Return the pod that the token is bound to. Raises TokenRefusedError: NOT_BOUND, CLAIM_INVALID."""
    pod = read_bound(kube, "pod", policy.cluster)
    if pod is None and policy.require_pod:
        raise TokenRefusedError(
            TokenReason.NOT_BOUND,
            "the token is not bound to a pod: deleting the pod would not end it",
            wanted="a token out of a pod's projected serviceAccountToken volume",
            todo="use the projected token, or set require_pod: false for this cluster",
            cluster=policy.cluster,
        )
    return pod


def _bad_subject(seen: str, cluster: str) -> TokenRefusedError:
    return TokenRefusedError(
        TokenReason.BAD_SUBJECT, seen, wanted="system:serviceaccount:<namespace>:<name>", cluster=cluster
    )


def _clock(reason: TokenReason, seen: str, policy: ClusterPolicy, now: float) -> TokenRefusedError:
    todo = "read the token file again before each call" if reason is TokenReason.EXPIRED else "compare the clocks"
    return TokenRefusedError(
        reason,
        f"{seen}; our clock says {moment(now)}",
        wanted=f"a token that is valid now, give or take {policy.leeway_seconds} s",
        todo=todo,
        cluster=policy.cluster,
    )


def _too_long(times: TokenTimes, policy: ClusterPolicy) -> TokenRefusedError:
    todo = "ask for a shorter expirationSeconds, or raise max_token_lifetime for this cluster"
    if times.warn_after is not None:
        todo = "the API server extended it as it does for expirationSeconds 3607: project a volume with another value"
    return TokenRefusedError(
        TokenReason.LIFETIME_TOO_LONG,
        f"the token lives {times.expires_at - times.issued_at} s, until {moment(times.expires_at)}",
        wanted=f"at most {policy.max_lifetime_seconds} s from issue to expiry",
        todo=todo,
        cluster=policy.cluster,
    )
