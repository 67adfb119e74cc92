"""Reading the claims of a Kubernetes token: each in its one right shape, or the token is refused."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from meshpki.errors import InvalidValueError
from meshpki.identity import ServiceAccountRef
from meshpki.tokens.caller import BoundObject
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from meshpki.tokens.texts import MAX_TIME, moment
from meshpki.value import value

if TYPE_CHECKING:
    from collections.abc import Mapping

    Claims = Mapping[str, object]

LEGACY_ISSUER: Final = "kubernetes/serviceaccount"
LEGACY_PREFIX: Final = "kubernetes.io/serviceaccount/"
KUBERNETES: Final = "kubernetes.io"
_OBJECT_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_UID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_TOKEN_ID: Final = re.compile(r"[!-~]{1,128}")


@value
class TokenTimes:
    """The times a token names, in epoch seconds."""

    issued_at: int
    not_before: int
    """`nbf`, or `iat` for a token without one."""
    expires_at: int
    warn_after: int | None
    """When Kubernetes wanted the token to be gone, had it not extended its life (KEP-1205)."""


def check_legacy(claims: Claims, cluster: str = "") -> None:
    """Refuse a secret-based token by name (LEGACY): by its issuer, or by its flat claims under any issuer."""
    legacy = claims.get("iss") == LEGACY_ISSUER
    for name in claims:
        legacy = legacy or name.startswith(LEGACY_PREFIX)
    if legacy:
        raise TokenRefusedError(
            TokenReason.LEGACY,
            "this is a legacy service-account token out of a Secret: no audience, no expiry, bound to nothing",
            wanted="a projected token (TokenRequest), bound to an audience and a pod",
            todo="mount a projected serviceAccountToken volume; see `meshpki provision`",
            cluster=cluster,
        )


def read_issuer(claims: Claims) -> str:
    """Return `iss`. Raises TokenRefusedError: CLAIM_MISSING, CLAIM_INVALID."""
    issuer = claims.get("iss")
    if isinstance(issuer, str):
        return issuer
    raise unfit(claims, "iss", "a text", "")


def read_times(claims: Claims, cluster: str = "") -> TokenTimes:
    """Return the times: integers in range, exp after iat. Raises TokenRefusedError: CLAIM_MISSING, CLAIM_INVALID."""
    expires_at = _time(claims, "exp", cluster)
    issued_at = _time(claims, "iat", cluster)
    not_before = _time(claims, "nbf", cluster) if "nbf" in claims else issued_at
    if expires_at <= issued_at:
        raise TokenRefusedError(
            TokenReason.CLAIM_INVALID,
            f"the token expires at {moment(expires_at)}, not after it was issued at {moment(issued_at)}",
            wanted="exp after iat",
            cluster=cluster,
        )
    kube = claims.get(KUBERNETES)
    warn_after = _time(kube, "warnafter", cluster) if isinstance(kube, dict) and "warnafter" in kube else None
    return TokenTimes(issued_at, not_before, expires_at, warn_after)


def read_kubernetes(claims: Claims, cluster: str = "") -> Mapping[str, object]:
    """Return the claim `kubernetes.io`. Raises TokenRefusedError: CLAIM_MISSING, CLAIM_INVALID."""
    kube = claims.get(KUBERNETES)
    if isinstance(kube, dict):
        return kube
    raise unfit(claims, KUBERNETES, "an object", cluster)


def read_bound(kube: Claims, member: str, cluster: str = "") -> BoundObject | None:
    """Return a member {name, uid} of `kubernetes.io`, or None. Raises TokenRefusedError: CLAIM_INVALID."""
    if member not in kube:
        return None
    value = kube[member]
    if isinstance(value, dict):
        name, uid = value.get("name"), value.get("uid")
        if isinstance(name, str) and isinstance(uid, str) and _OBJECT_NAME.fullmatch(name) and _UID.fullmatch(uid):
            return BoundObject(name, uid)
    raise unfit(kube, member, "an object with a valid name and uid", cluster)


def read_token_id(claims: Claims, cluster: str = "") -> str | None:
    """Return `jti`, which Kubernetes writes since 1.29. Raises TokenRefusedError: CLAIM_INVALID."""
    if "jti" not in claims:
        return None
    token_id = claims["jti"]
    if isinstance(token_id, str) and _TOKEN_ID.fullmatch(token_id):
        return token_id
    raise unfit(claims, "jti", "a text of 1 to 128 printable ASCII characters", cluster)


def _time(claims: Claims, name: str, cluster: str) -> int:
    value = claims.get(name)
    if type(value) is int and 0 < value <= MAX_TIME:  # no bool, which is an int to isinstance
        return value
    raise unfit(claims, name, "whole seconds since 1970", cluster)


def read_account(subject: object) -> ServiceAccountRef | None:
    """Return the service account that a `sub` names, or None if it names none."""
    return _parsed_account(subject) if isinstance(subject, str) else None


# Few accounts, many tokens. A verifier comes here with verified tokens only, so strangers cannot fill the cache.
@lru_cache(maxsize=4096)
def _parsed_account(subject: str) -> ServiceAccountRef | None:
    try:
        return ServiceAccountRef.from_subject(subject)
    except InvalidValueError:
        return None


def unfit(claims: Claims, name: str, wanted: str, cluster: str) -> TokenRefusedError:
    """The refusal of a claim that is missing or malformed; the text holds its name, never its value."""
    if name not in claims:
        return TokenRefusedError(
            TokenReason.CLAIM_MISSING, f"the token has no claim {name}", wanted=wanted, cluster=cluster
        )
    return TokenRefusedError(
        TokenReason.CLAIM_INVALID, f"the token's claim {name} is malformed", wanted=wanted, cluster=cluster
    )
