"""From when to when: profile, token and chain bound what was asked for, and never notAfter <= now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.ca.lifetime import Lifetime, LifetimeLimit, decide
from meshpki.ca.profile import DAY, Profile
from meshpki.ca.reasons import LifetimeReason, LifetimeRefusedError
from meshpki.errors import InvalidValueError, UnavailableError
from support.authority import MESH, NOW

if TYPE_CHECKING:
    from meshpki.ca.issuer import Issuer

HOUR = 3600


def chain(not_before: int = NOW - DAY, not_after: int = NOW + 365 * DAY) -> Issuer:
    return cast("Issuer", SimpleNamespace(not_before=not_before, not_after=not_after))


PROFILE = Profile(MESH, default_ttl_seconds=6 * HOUR, max_ttl_seconds=12 * HOUR)
TIED = Profile(MESH, default_ttl_seconds=6 * HOUR, max_ttl_seconds=12 * HOUR, clamp_to_token=True)


@pytest.mark.parametrize(
    ("profile", "requested", "token", "issuer", "seconds", "limit"),
    [
        (PROFILE, 0, NOW + HOUR, chain(), 6 * HOUR, LifetimeLimit.DEFAULT),
        (PROFILE, -1, NOW + HOUR, chain(), 6 * HOUR, LifetimeLimit.DEFAULT),
        (PROFILE, -(2**63), None, chain(), 6 * HOUR, LifetimeLimit.DEFAULT),
        (PROFILE, HOUR, None, chain(), HOUR, LifetimeLimit.REQUESTED),
        (PROFILE, 1, None, chain(), 1, LifetimeLimit.REQUESTED),
        (PROFILE, 12 * HOUR, None, chain(), 12 * HOUR, LifetimeLimit.REQUESTED),
        (PROFILE, 12 * HOUR + 1, None, chain(), 12 * HOUR, LifetimeLimit.PROFILE),
        (PROFILE, 24 * HOUR, None, chain(), 12 * HOUR, LifetimeLimit.PROFILE),
        (PROFILE, 2**63 - 1, None, chain(), 12 * HOUR, LifetimeLimit.PROFILE),
        (PROFILE, 0, NOW - 1, chain(), 6 * HOUR, LifetimeLimit.DEFAULT),
        (TIED, 0, NOW + HOUR, chain(), HOUR, LifetimeLimit.TOKEN),
        (TIED, 0, None, chain(), 6 * HOUR, LifetimeLimit.DEFAULT),
        (TIED, HOUR, NOW + 2 * HOUR, chain(), HOUR, LifetimeLimit.REQUESTED),
        (TIED, 0, NOW + 1, chain(), 1, LifetimeLimit.TOKEN),
        (TIED, 0, NOW + HOUR, chain(not_after=NOW + 9), 9, LifetimeLimit.CHAIN),
        (PROFILE, 0, None, chain(not_after=NOW + 1), 1, LifetimeLimit.CHAIN),
        (PROFILE, HOUR, None, chain(not_after=NOW + HOUR), HOUR, LifetimeLimit.REQUESTED),
    ],
)
def test_the_end(
    profile: Profile, requested: int, token: int | None, issuer: Issuer, seconds: int, limit: LifetimeLimit
) -> None:
    found = decide(profile, issuer, requested_seconds=requested, token_expires_at=token, now=NOW)
    assert (found.not_after - NOW, found.limited_by) == (seconds, limit)


@pytest.mark.parametrize(
    ("backdate", "ttl", "issuer", "start"),
    [
        (120, 6 * HOUR, chain(), NOW - 120),
        (0, 6 * HOUR, chain(), NOW),
        (120, 600, chain(), NOW - 60),
        (120, 9, chain(), NOW),
        (120, 6 * HOUR, chain(not_before=NOW - 10), NOW - 10),
        (120, 6 * HOUR, chain(not_before=NOW), NOW),
    ],
)
def test_the_start(backdate: int, ttl: int, issuer: Issuer, start: int) -> None:
    profile = Profile(MESH, default_ttl_seconds=ttl, max_ttl_seconds=ttl, backdate_seconds=backdate)
    assert decide(profile, issuer, requested_seconds=0, token_expires_at=None, now=NOW).not_before == start


@pytest.mark.parametrize(
    ("issuer", "seen"),
    [
        (chain(not_after=NOW), "expired 0 s ago"),
        (chain(not_after=NOW - 5), "expired 5 s ago"),
        (chain(not_before=NOW + 7), "not valid for another 7 s"),
    ],
)
def test_a_chain_that_is_not_valid_now_issues_nothing(issuer: Issuer, seen: str) -> None:
    with pytest.raises(UnavailableError, match=seen):
        decide(PROFILE, issuer, requested_seconds=0, token_expires_at=None, now=NOW)


@pytest.mark.parametrize("expired_at", [NOW, NOW - 1, 0])
def test_an_expired_token_gives_no_certificate_that_ends_with_it(expired_at: int) -> None:
    with pytest.raises(LifetimeRefusedError) as caught:
        decide(TIED, chain(), requested_seconds=0, token_expires_at=expired_at, now=NOW)
    assert caught.value.reason is LifetimeReason.TOKEN_EXPIRED


@given(
    requested=st.integers(-(2**63), 2**63 - 1),
    token=st.none() | st.integers(0, NOW + 10 * DAY),
    starts=st.integers(NOW - 1000, NOW + 10),
    ends=st.integers(NOW - 10, NOW + 10 * DAY),
    tied=st.booleans(),
    default=st.integers(1, DAY),
    more=st.integers(0, DAY),
    backdate=st.integers(0, 3600),
)
def test_what_always_holds(
    requested: int,
    token: int | None,
    starts: int,
    ends: int,
    tied: bool,
    default: int,
    more: int,
    backdate: int,
) -> None:
    profile = Profile(
        MESH,
        default_ttl_seconds=default,
        max_ttl_seconds=default + more,
        backdate_seconds=backdate,
        clamp_to_token=tied,
    )
    try:
        found: Lifetime = decide(
            profile, chain(starts, ends), requested_seconds=requested, token_expires_at=token, now=NOW
        )
    except (UnavailableError, LifetimeRefusedError):
        return
    assert starts <= found.not_before <= NOW < found.not_after <= ends
    assert found.not_after - NOW <= profile.max_ttl_seconds
    assert found.not_before >= NOW - backdate
    assert (found.not_before + found.not_after) / 2 >= NOW, "half of its life is over at the first second"
    if tied and token is not None:
        assert found.not_after <= token


@pytest.mark.parametrize(
    "wrong",
    [
        {"default_ttl_seconds": 0},
        {"max_ttl_seconds": DAY - 1},
        {"max_ttl_seconds": 91 * DAY},
        {"default_ttl_seconds": -5, "max_ttl_seconds": 5},
        {"backdate_seconds": -1},
        {"backdate_seconds": 3601},
    ],
)
def test_a_profile_that_contradicts_itself_is_none(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidValueError):
        Profile(MESH, **wrong)  # type: ignore[arg-type]  # integers all
