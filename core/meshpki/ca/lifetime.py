"""From when to when a certificate is valid: a pure decision, and the word for what bounded it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from meshpki.ca.reasons import LifetimeReason, LifetimeRefusedError
from meshpki.errors import UnavailableError
from meshpki.value import value

if TYPE_CHECKING:
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.profile import Profile


class LifetimeLimit(StrEnum):
    """What notAfter was taken from. The audit record and the log show the value."""

    REQUESTED = "requested"
    DEFAULT = "default"
    PROFILE = "profile"
    """More was asked for than the profile gives."""
    TOKEN = "token"
    CHAIN = "chain"
    """The issuing certificate or one above it ends sooner: time to renew it."""
    ATTESTATION = "attestation"
    """No token has proved the identity since; see `Profile.max_without_token_seconds`."""


@value
class Lifetime:
    """Both ends in epoch seconds; a certificate is valid at both of them (RFC 5280 section 4.1.2.5)."""

    not_before: int
    not_after: int
    limited_by: LifetimeLimit


def decide(
    profile: Profile,
    issuer: Issuer,
    *,
    requested_seconds: int,
    token_expires_at: int | None,
    now: int,
    attested_at: int | None = None,
) -> Lifetime:
    """Bound what was asked for by the profile, the token (by policy), the time since a token, and the chain.

    0 or less means the default, as istiod reads it. More than the profile gives is *clamped* and said so, where
    istiod refuses (InvalidArgument): istio-agent and ztunnel ask for their own 24 hours whatever the server allows
    (istio#45190, istio#21944), so a refusal would turn a shorter limit into a mesh that cannot renew, while every
    client has to read notAfter anyway, since chain and token clamp as well.

    The start is backdated by at most a tenth of the lifetime: clients renew at half of notBefore..notAfter, and would
    find a short certificate overdue from the first second.

    Raises UnavailableError outside the chain's own validity, LifetimeRefusedError when the token has expired or is
    too long ago; never returns a notAfter that is not after `now`.
    """
    not_after, limited_by = _asked(profile, requested_seconds, now)
    if profile.clamp_to_token and token_expires_at is not None and token_expires_at < not_after:
        not_after, limited_by = token_expires_at, LifetimeLimit.TOKEN
        if not_after <= now:
            raise LifetimeRefusedError(
                LifetimeReason.TOKEN_EXPIRED,
                f"a token that expired {now - not_after} s ago, and a profile that ends certificates with their token",
                wanted="a token with some life left",
                todo="read the token file again: the platform rewrites it well before the end",
            )
    if attested_at is not None and profile.max_without_token_seconds is not None:
        longest = attested_at + profile.max_without_token_seconds
        if longest < not_after:
            not_after, limited_by = longest, LifetimeLimit.ATTESTATION
            if not_after <= now:
                raise _token_needed(f"a token last proved this identity {now - attested_at} s ago", profile)
    return bound(issuer, not_after, limited_by, backdate_seconds=profile.backdate_seconds, now=now)


def check_renewable(profile: Profile, *, attested_at: int | None, held_until: int) -> int:
    """Whether a certificate may be renewed by itself, and since when no token proved its identity: that time.

    `held_until` is its notAfter. One that reaches the bound already is refused, valid though it is: each renewal
    would bring the same end, at half the time from the last. Raises LifetimeRefusedError. Times are epoch seconds.
    """
    if profile.max_without_token_seconds is None or attested_at is None:
        raise _token_needed("a certificate that was not issued for renewal by itself", profile)
    if held_until >= attested_at + profile.max_without_token_seconds:
        raise _token_needed("a certificate that ends where renewal without a token ends", profile)
    return attested_at


def _token_needed(seen: str, profile: Profile) -> LifetimeRefusedError:
    return LifetimeRefusedError(
        LifetimeReason.TOKEN_NEEDED,
        seen,
        wanted=f"a token at least every {profile.max_without_token_seconds or 0} s",
        todo="ask with a token; see why the workload has none",
    )


def bound(issuer: Issuer, not_after: int, limited_by: LifetimeLimit, *, backdate_seconds: int, now: int) -> Lifetime:
    """Fit a lifetime into that of the chain, and its backdating into itself, as `decide` says.

    Raises UnavailableError outside the chain's own validity.
    """
    if not issuer.not_before <= now < issuer.not_after:
        raise _chain_not_valid(issuer, now)
    if issuer.not_after < not_after:
        not_after, limited_by = issuer.not_after, LifetimeLimit.CHAIN
    backdate = min(backdate_seconds, (not_after - now) // 10)
    return Lifetime(max(now - backdate, issuer.not_before), not_after, limited_by)


def _asked(profile: Profile, requested_seconds: int, now: int) -> tuple[int, LifetimeLimit]:
    if requested_seconds <= 0:
        return now + profile.default_ttl_seconds, LifetimeLimit.DEFAULT
    if requested_seconds > profile.max_ttl_seconds:
        return now + profile.max_ttl_seconds, LifetimeLimit.PROFILE
    return now + requested_seconds, LifetimeLimit.REQUESTED


def _chain_not_valid(issuer: Issuer, now: int) -> UnavailableError:
    if now < issuer.not_before:
        return UnavailableError(
            f"the issuing chain is not valid for another {issuer.not_before - now} s",
            wanted="a clock that is right, or an older chain",
            todo="compare this machine's clock with `meshpki ca show`",
        )
    return UnavailableError(
        f"the issuing chain expired {now - issuer.not_after} s ago",
        wanted="a chain that is valid now",
        todo="renew the certificate that `meshpki ca show` names as expired, then restart the CA",
    )
