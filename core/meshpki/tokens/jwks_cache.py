"""When fetched keys may be used, and when to fetch them again. Pure: a state, a policy and a time come in."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from meshpki.errors import InvalidValueError

if TYPE_CHECKING:
    from meshpki.tokens.keys import KeySet

_AT_WORK_SECONDS: Final = 30.0


class Step(StrEnum):
    """What to do before a question about a key is answered."""

    USE = "use"
    """Answer from the keys at hand; a kid that is not among them is unknown."""
    REFRESH = "refresh"
    """Answer from the keys at hand, and fetch beside it."""
    LOAD = "load"
    """Fetch first, then decide again."""
    UNAVAILABLE = "unavailable"
    """No answer can be given now: no keys, too old ones, or a kid that the last, failed fetch might have brought."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Bounds in seconds."""

    refresh_seconds: float = 60.0
    """Age at which keys are fetched again; a key taken out of the JWKS is believed for so long, and no longer."""
    unknown_kid_seconds: float = 10.0
    """Least time between two fetches on behalf of unknown kids: strangers can ask for any."""
    retry_seconds: float = 5.0
    """Least time from the end of a fetch that failed to the next."""
    stale_seconds: float = 3600.0
    """How long keys are used while they cannot be fetched (stale-if-error)."""
    new_key_margin_seconds: float = 30.0
    """A token issued so long before the last look, or earlier, does not wait for the next one."""

    def __post_init__(self) -> None:
        """Raise InvalidValueError for bounds that are negative, or stale before they are refreshed."""
        bounds = (self.refresh_seconds, self.unknown_kid_seconds, self.retry_seconds)
        if not all(0 < bound < math.inf for bound in bounds) or not self.refresh_seconds <= self.stale_seconds:
            raise InvalidValueError(
                f"bounds {self}", wanted="positive seconds, stale_seconds not below refresh_seconds"
            )


@dataclass(frozen=True, slots=True)
class CacheState:
    """What is known of the keys of one source. Times are epoch seconds."""

    keys: KeySet | None = None
    loaded_at: float = -math.inf
    """When the fetch that brought them began."""
    tried_at: float = -math.inf
    """When the last fetch ended: one that hangs for as long as the pause after it must not leave none."""
    failure: str = ""
    """Why the last fetch failed; empty if it did not."""


def decide(state: CacheState, policy: CachePolicy, kid: str | None, now: float) -> Step:
    """Decide for a token with that kid. A clock that went back makes everything due, and nothing unusable."""
    since_try = _elapsed(state.tried_at, now)
    if state.keys is None or now - state.loaded_at > policy.stale_seconds:
        # A failure holds further tries back; keys that merely aged while nobody asked are fetched at once.
        return Step.UNAVAILABLE if state.failure and since_try < policy.retry_seconds else Step.LOAD
    if kid is not None and not state.keys.candidates(kid):
        pause = policy.retry_seconds if state.failure else policy.unknown_kid_seconds
        if since_try >= pause:
            return Step.LOAD
        return Step.UNAVAILABLE if state.failure else Step.USE
    due = _elapsed(state.loaded_at, now) >= policy.refresh_seconds
    return Step.REFRESH if due and since_try >= policy.retry_seconds else Step.USE


def may_be_behind(state: CacheState, policy: CachePolicy, issued_at: float, now: float) -> bool:
    """Whether a key that is not among ours may have signed a token of that age, and we have not looked since.

    A token that was issued well before our last look was signed by a key that should have been there; and a look for
    this very token, at `now`, settles it. The margin is for clocks that differ.
    """
    margin = policy.new_key_margin_seconds
    return state.loaded_at < now and state.loaded_at - margin < issued_at <= now + margin


def after_success(keys: KeySet, now: float, took: float = 0.0) -> CacheState:
    """The state after a fetch that began at `now`, took so many seconds, and brought `keys`: others are gone."""
    return CacheState(keys, loaded_at=now, tried_at=now + took)


def after_failure(state: CacheState, failure: str, now: float, took: float = 0.0) -> CacheState:
    """The state after a fetch that failed: the old keys, not believed any longer than before."""
    return replace(state, tried_at=now + took, failure=failure, loaded_at=min(state.loaded_at, now))


def _elapsed(since: float, now: float) -> float:
    """Seconds since then; infinite when the clock went back. A call looks at the clock when it comes, and may be asked
    about here when a fetch has ended meanwhile: that is no clock that went back.
    """
    if since - _AT_WORK_SECONDS <= now < since:
        return 0.0
    return now - since if now >= since else math.inf
