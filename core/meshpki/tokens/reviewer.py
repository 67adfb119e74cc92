"""Asks a cluster's API server about tokens: over connections of its own, so many at once, each token once."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from meshpki.errors import InvalidValueError, MeshpkiError
from meshpki.tokens.api_turns import Turns, cause_of
from meshpki.tokens.reasons import TokenRefusedError, TokenUnjudgedError, UnjudgedReason
from meshpki.tokens.review import (
    NO_TOKEN,
    PATH,
    Cause,
    Confirmed,
    Refused,
    Unjudged,
    Verdict,
    read_review,
    read_self_check,
    request_body,
)
from meshpki.tokens.review_cache import VerdictCache
from meshpki.tokens.review_counts import Outcome, ReviewCounts
from meshpki.tokens.review_gate import FULL, Gate, Places

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshpki.kube.client import Answer
    from meshpki.tokens.caller import Caller
    from meshpki.tokens.policy import ClusterPolicy

logger = logging.getLogger(__name__)
_Read = TypeVar("_Read")
MAX_CACHE_SECONDS: Final = 600.0
_GRACE_SECONDS: Final = 1.0


class Api(Protocol):
    """What of a KubeClient is used."""

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        timeout: float | None = None,
        retry: bool = True,
    ) -> Answer:
        """Send one request; whatever status comes back is an answer. Raises MeshpkiError when none comes."""
        ...


@dataclass(frozen=True, slots=True)
class ReviewTerms:
    """Bounds of one cluster's reviews, in seconds and numbers."""

    cache_seconds: float = 30.0
    """How long a good verdict is used; what was deleted meanwhile is believed for so long."""
    timeout_seconds: float = 5.0
    """For one ask."""
    at_once: int = 8
    """Asks under way; the pool of connections should have as many."""
    waiting: int = 4
    """Calls that wait beside them: for a place, or for another's ask about the same token."""
    patience_seconds: float = 3.0
    """How long they wait for a place."""

    def __post_init__(self) -> None:
        """Raise InvalidValueError for terms that would let nobody ask, or believe too long."""
        times = (self.timeout_seconds, self.patience_seconds)
        if not 0 <= self.cache_seconds <= MAX_CACHE_SECONDS or not all(0 < each <= 60 for each in times):
            raise InvalidValueError(f"bounds of reviews {self}", wanted=f"a cache of 0 to {MAX_CACHE_SECONDS:.0f} s")
        if self.at_once < 1 or self.waiting < 0:
            raise InvalidValueError(f"{self.at_once} reviews at once, {self.waiting} waiting", wanted="1 or more")


class TokenReviewer:
    """The reviews of one cluster. Safe for threads."""

    def __init__(
        self,
        api: Api,
        policy: ClusterPolicy,
        terms: ReviewTerms | None = None,
        *,
        places: Places | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`places` are shared with whatever else asks this API server; by default as many as `terms` speak of."""
        self.cluster = policy.cluster
        self.counts = ReviewCounts()
        self._api = api
        self._audiences = policy.audiences
        self._terms = terms = terms or ReviewTerms()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._cache = VerdictCache(terms.cache_seconds)
        self._turns = Turns(
            Gate(places or Places(terms.at_once + terms.waiting), probe_seconds=terms.timeout_seconds),
            terms.at_once,
            patience_seconds=terms.patience_seconds,
            monotonic=monotonic,
        )
        self._flights: dict[bytes, Future[Verdict]] = {}

    @property
    def failure(self) -> Unjudged | None:
        """What keeps the API server from being asked now, as far as the last ask told."""
        return self._turns.failure

    def review(self, token: bytes, caller: Caller, now: float) -> None:
        """See `meshpki.tokens.verify.Reviewer.review`. Raises TokenRefusedError, TokenUnjudgedError."""
        digest = hashlib.sha256(token).digest()
        with self._lock:
            verdict: Verdict | None = self._cache.get(digest, now)
            outcome = Outcome.TURNED_AWAY if verdict is None else Outcome.CACHED
            if verdict is None:
                verdict = self._turns.enter()
            flight, mine = self._join(digest) if verdict is None else (None, False)
        if verdict is not None:
            self.counts.add(outcome)
        elif flight is not None:
            verdict = self._land(digest, flight, token, caller, now) if mine else self._follow(flight)
        if isinstance(verdict, Refused | Unjudged):
            raise self._error(verdict)

    def check(self) -> Unjudged | None:
        """Ask about no token, to learn whether tokens can be asked about: None if so, else what is missing.

        Waits for the network. It takes no place from the calls, and opens the way for them when the server is back.
        """
        verdict = self._ask(NO_TOKEN, lambda answer: read_self_check(answer.status, answer.body))
        self._note(verdict)
        return verdict

    def _join(self, digest: bytes) -> tuple[Future[Verdict], bool]:
        """The ask about this token that is under way, or a new one, which is then the caller's to make."""
        flight = self._flights.get(digest)
        if flight is not None:
            return flight, False
        flight = self._flights[digest] = Future()
        return flight, True

    def _follow(self, flight: Future[Verdict]) -> Verdict:
        """Wait for the verdict of the call that asks about the same token."""
        self.counts.add(Outcome.SHARED)
        terms = self._terms
        try:
            return flight.result(terms.patience_seconds + terms.timeout_seconds + _GRACE_SECONDS)
        except FutureTimeoutError:
            return FULL
        finally:
            self._turns.leave()

    def _land(self, digest: bytes, flight: Future[Verdict], token: bytes, caller: Caller, now: float) -> Verdict:
        """Ask, keep the verdict, and tell it to those who follow."""
        verdict: Verdict = FULL
        try:
            verdict = self._in_turn(token, caller)
        finally:
            with self._lock:
                self._cache.put(digest, verdict, expires_at=caller.expires_at, now=now)
                del self._flights[digest]
            flight.set_result(verdict)
            self._turns.leave()
        return verdict

    def _in_turn(self, token: bytes, caller: Caller) -> Verdict:
        with self._turns.turn() as mine:
            if mine:
                return self._ask_about(token, caller)
        self.counts.add(Outcome.TURNED_AWAY)
        return FULL

    def _ask_about(self, token: bytes, caller: Caller) -> Verdict:
        began = self._monotonic()
        verdict = self._ask(
            token,
            lambda answer: read_review(
                answer.status,
                answer.body,
                caller,
                self._audiences,
                retry_after=answer.headers.get("retry-after", ""),
            ),
        )
        outcome = {Confirmed: Outcome.CONFIRMED, Refused: Outcome.REFUSED}.get(type(verdict), Outcome.UNJUDGED)
        self.counts.asked(outcome, self._monotonic() - began)
        self._note(verdict)
        return verdict

    def _ask(self, token: bytes, read: Callable[[Answer], _Read]) -> _Read | Unjudged:
        """Send one review. Whatever goes wrong on the way is no verdict."""
        try:
            return read(self._answer(request_body(token, self._audiences)))
        except MeshpkiError as error:
            return Unjudged(cause_of(error), str(error))
        except Exception as error:  # noqa: BLE001  # those who follow must be told
            # Without the traceback: what failed had the token in its hands.
            logger.error("a review failed", extra={"cluster": self.cluster, "why": type(error).__name__})  # noqa: TRY400
            return Unjudged(Cause.ANSWER, type(error).__name__)

    def _answer(self, body: Mapping[str, object]) -> Answer:
        """One answer; a second try where 1.13.0 says nothing, as to one write in some hundreds (kubernetes#71696)."""
        timeout = self._terms.timeout_seconds
        answer = self._api.request("POST", PATH, body, timeout=timeout, retry=False)
        if answer.status == 200 and not answer.body:
            answer = self._api.request("POST", PATH, body, timeout=timeout, retry=False)
        return answer

    def _note(self, verdict: Verdict | None) -> None:
        changed = self._turns.landed(verdict)
        if changed and isinstance(verdict, Unjudged):
            logger.error(
                "tokens cannot be reviewed",
                extra={"cluster": self.cluster, "cause": verdict.cause, "why": verdict.why, "todo": verdict.todo},
            )
        elif changed:
            logger.info("tokens are reviewed again", extra={"cluster": self.cluster})

    def _error(self, verdict: Refused | Unjudged) -> TokenRefusedError | TokenUnjudgedError:
        if isinstance(verdict, Refused):
            return TokenRefusedError(
                verdict.reason, verdict.seen, wanted=verdict.wanted, todo=verdict.todo, cluster=self.cluster
            )
        reason = UnjudgedReason.REVIEW_BUSY if verdict.cause is Cause.BUSY else UnjudgedReason.REVIEW
        return TokenUnjudgedError(
            reason, f"cluster {self.cluster}: {verdict.why}", todo=verdict.todo, cluster=self.cluster
        )
