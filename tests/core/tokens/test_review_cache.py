"""How long a verdict of an API server is used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.tokens.reasons import TokenReason
from meshpki.tokens.review import Cause, Confirmed, Refused, Unjudged
from meshpki.tokens.review_cache import VerdictCache

GOOD = Confirmed()
BAD = Refused(TokenReason.POD_GONE, "gone")
FAR = 10_000.0
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


@pytest.mark.parametrize(
    ("seconds", "verdict", "expires_at", "holds", "ends"),
    [
        (30, GOOD, FAR, 1029.9, 1030),
        (30, BAD, FAR, 1004.9, 1005),
        (3, BAD, FAR, 1002.9, 1003),
        (30, GOOD, 1010, 1009.9, 1010),
        (30, BAD, 1002, 1001.9, 1002),
    ],
)
def test_bounds(seconds: float, verdict: Confirmed | Refused, expires_at: float, holds: float, ends: float) -> None:
    cache = VerdictCache(seconds)
    cache.put(A, verdict, expires_at=expires_at, now=1000)
    assert cache.get(A, 1000) == verdict
    assert cache.get(A, holds) == verdict
    assert cache.get(A, ends) is None
    assert len(cache) == 0, "what is over takes no room"


def test_using_a_verdict_does_not_lengthen_it() -> None:
    cache = VerdictCache(30)
    cache.put(A, GOOD, expires_at=FAR, now=1000)
    assert all(cache.get(A, 1000 + second) == GOOD for second in range(30))
    assert cache.get(A, 1030) is None


def test_a_clock_that_went_back_makes_nothing_valid() -> None:
    cache = VerdictCache(30)
    cache.put(A, GOOD, expires_at=FAR, now=1000)
    assert cache.get(A, 999) is None


@pytest.mark.parametrize("cause", Cause)
def test_what_is_no_verdict_is_not_kept(cause: Cause) -> None:
    cache = VerdictCache(30)
    cache.put(A, Unjudged(cause, "why"), expires_at=FAR, now=1000)
    assert len(cache) == 0


def test_nothing_is_kept_without_time() -> None:
    for seconds, expires_at in ((0, FAR), (30, 1000.0), (30, 900.0)):
        cache = VerdictCache(seconds)
        cache.put(A, GOOD, expires_at=expires_at, now=1000)
        assert (len(cache), cache.get(A, 1000)) == (0, None)


def test_the_least_used_goes_first() -> None:
    cache = VerdictCache(30, most=2)
    cache.put(A, GOOD, expires_at=FAR, now=1000)
    cache.put(B, GOOD, expires_at=FAR, now=1000)
    cache.get(A, 1001)
    cache.put(C, GOOD, expires_at=FAR, now=1001)
    assert [cache.get(key, 1001) for key in (A, B, C)] == [GOOD, None, GOOD]


def test_a_later_verdict_replaces_an_earlier_one() -> None:
    cache = VerdictCache(30)
    cache.put(A, GOOD, expires_at=FAR, now=1000)
    cache.put(A, BAD, expires_at=FAR, now=1001)
    assert cache.get(A, 1001) == BAD


@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.integers(0, 5), st.sampled_from([GOOD, BAD, None]), st.floats(-5, 100)),
        max_size=60,
    )
)
def test_over_any_history(events: list[tuple[float, int, Confirmed | Refused | None, float]]) -> None:
    cache, now, put = VerdictCache(30, most=4), 0.0, dict[bytes, tuple[float, float, Confirmed | Refused]]()
    for pause, number, verdict, life in events:
        now += pause
        key = bytes([number]) * 32
        if verdict is not None:
            cache.put(key, verdict, expires_at=now + life, now=now)
            if now + life > now:
                put[key] = (now, now + life, verdict)
        found = cache.get(key, now)
        if found is not None:
            at, expires_at, expected = put[key]
            assert found == expected
            assert now < expires_at
            assert now - at < (30 if found == GOOD else 5)
        assert len(cache) <= 4
