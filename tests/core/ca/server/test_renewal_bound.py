"""How long certificates may be renewed without a token: the profile, the clamp and the refusal, as pure decisions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.ca.lifetime import LifetimeLimit, check_renewable, decide
from meshpki.ca.profile import DAY, LONGEST_TTL, Profile
from meshpki.ca.reasons import LifetimeReason, LifetimeRefusedError
from meshpki.errors import InvalidValueError
from support.authority import MESH, NOW

if TYPE_CHECKING:
    from meshpki.ca.issuer import Issuer

HOUR = 3600
RENEWING = Profile(MESH, default_ttl_seconds=HOUR, max_ttl_seconds=2 * HOUR, max_without_token_seconds=6 * HOUR)
OFF = Profile(MESH, default_ttl_seconds=HOUR, max_ttl_seconds=2 * HOUR)
CHAIN = cast("Issuer", SimpleNamespace(not_before=NOW - DAY, not_after=NOW + DAY))


@pytest.mark.parametrize(
    ("profile", "requested", "attested", "seconds", "limit"),
    [
        (RENEWING, 0, NOW, HOUR, LifetimeLimit.DEFAULT),
        (RENEWING, 9 * HOUR, NOW, 2 * HOUR, LifetimeLimit.PROFILE),
        (RENEWING, 0, NOW - 5 * HOUR, HOUR, LifetimeLimit.DEFAULT),
        (RENEWING, 0, NOW - 5 * HOUR - 1, HOUR - 1, LifetimeLimit.ATTESTATION),
        (RENEWING, 9 * HOUR, NOW - 5 * HOUR, HOUR, LifetimeLimit.ATTESTATION),
        (RENEWING, 60, NOW - 6 * HOUR + 1, 1, LifetimeLimit.ATTESTATION),
        (OFF, 0, None, HOUR, LifetimeLimit.DEFAULT),
    ],
)
def test_the_end(profile: Profile, requested: int, attested: int | None, seconds: int, limit: LifetimeLimit) -> None:
    found = decide(profile, CHAIN, requested_seconds=requested, token_expires_at=None, now=NOW, attested_at=attested)
    assert (found.not_after - NOW, found.limited_by) == (seconds, limit)


@pytest.mark.parametrize("ago", [6 * HOUR, 6 * HOUR + 1, DAY])
def test_beyond_the_bound_there_is_no_certificate(ago: int) -> None:
    with pytest.raises(LifetimeRefusedError) as caught:
        decide(RENEWING, CHAIN, requested_seconds=0, token_expires_at=None, now=NOW, attested_at=NOW - ago)
    assert caught.value.reason is LifetimeReason.TOKEN_NEEDED
    assert "token" in caught.value.todo


@given(requested=st.integers(-10, 10**6), attested=st.integers(NOW - DAY, NOW))
def test_no_end_lies_beyond_the_bound(requested: int, attested: int) -> None:
    try:
        found = decide(
            RENEWING, CHAIN, requested_seconds=requested, token_expires_at=None, now=NOW, attested_at=attested
        )
    except LifetimeRefusedError:
        assert attested + 6 * HOUR <= NOW
    else:
        assert NOW < found.not_after <= attested + 6 * HOUR


@pytest.mark.parametrize(
    ("profile", "attested", "held_until", "renewable"),
    [
        (RENEWING, NOW, NOW + HOUR, True),
        (RENEWING, NOW, NOW + 6 * HOUR - 1, True),
        (RENEWING, NOW, NOW + 6 * HOUR, False),
        (RENEWING, NOW, NOW + 7 * HOUR, False),
        (RENEWING, None, NOW + HOUR, False),
        (OFF, NOW, NOW + HOUR, False),
        (OFF, None, NOW + HOUR, False),
    ],
)
def test_what_may_be_renewed_by_itself(
    profile: Profile, attested: int | None, held_until: int, *, renewable: bool
) -> None:
    if renewable:
        assert check_renewable(profile, attested_at=attested, held_until=held_until) == attested
        return
    with pytest.raises(LifetimeRefusedError) as caught:
        check_renewable(profile, attested_at=attested, held_until=held_until)
    assert caught.value.reason is LifetimeReason.TOKEN_NEEDED


def test_renewals_end_after_finitely_many() -> None:
    """Whoever renews at half life reaches the bound, is refused there, and does not halve for ever."""
    now, ends, renewals = NOW, NOW + HOUR, 0
    while True:
        now += (ends - now) // 2
        try:
            attested = check_renewable(RENEWING, attested_at=NOW, held_until=ends)
        except LifetimeRefusedError:
            break
        ends = decide(
            RENEWING, CHAIN, requested_seconds=0, token_expires_at=None, now=now, attested_at=attested
        ).not_after
        renewals += 1
    assert ends == NOW + 6 * HOUR
    assert renewals == 10


@pytest.mark.parametrize("longest", [0, -1, HOUR, 2 * HOUR, LONGEST_TTL + 1])
def test_a_bound_that_no_certificate_could_use_or_anybody_would_want(longest: int) -> None:
    with pytest.raises(InvalidValueError, match="max_without_token"):
        Profile(MESH, default_ttl_seconds=HOUR, max_ttl_seconds=2 * HOUR, max_without_token_seconds=longest)


@pytest.mark.parametrize("longest", [2 * HOUR + 1, LONGEST_TTL])
def test_bounds_at_the_edge(longest: int) -> None:
    Profile(MESH, default_ttl_seconds=HOUR, max_ttl_seconds=2 * HOUR, max_without_token_seconds=longest)


def test_not_together_with_certificates_that_end_with_their_token() -> None:
    with pytest.raises(InvalidValueError, match="clamp_to_token"):
        Profile(MESH, HOUR, HOUR, clamp_to_token=True, max_without_token_seconds=DAY)
