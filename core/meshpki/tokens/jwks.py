"""Sources of a cluster's keys: a file that is watched, and an https address that is asked when it is due."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.errors import MeshpkiError, UnavailableError
from meshpki.runtime.files import machine_errors, read_capped
from meshpki.tokens.jwks_cache import CachePolicy, CacheState, Step, after_failure, after_success, decide, may_be_behind
from meshpki.tokens.keys import MAX_JWKS_BYTES, KeySet
from meshpki.tokens.reasons import TokenUnjudgedError, UnjudgedReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.tokens.keys import VerificationKey

logger = logging.getLogger(__name__)
_LOOK_SECONDS: Final = 1.0
_HANGS_SECONDS: Final = 1.0
_STALE_SECONDS: Final = 3600.0
_GRACE_SECONDS: Final = 1.0
WAITING: Final = 16


@dataclass(frozen=True, slots=True)
class _FileState:
    keys: KeySet | None = None
    identity: tuple[int, int, int, int] | None = None
    """Inode, mtime, ctime and size of what was read last, good or bad; None if there was no file."""
    looked_at: float = 0.0
    broken_since: float | None = None
    failure: str = ""


class FileKeySource:
    """Keys out of a JWKS file, read again whenever inode, times or size change. Safe for many threads.

    The file is looked at once a second at most, and at once for a kid that is not known. While it is missing or
    broken the last good keys are used, for `stale_seconds`; that it is broken is logged once per change. A file system
    that hangs, as one over a network may, is as good as a broken file after a second, and holds the one who looks.
    """

    def __init__(self, path: Path, *, stale_seconds: float = _STALE_SECONDS) -> None:
        self._path = path
        self._stale_seconds = stale_seconds
        self._state = _FileState()
        self._lock = threading.Lock()
        self._began: float | None = None
        """When the look under way began; monotonic."""
        self._said = False

    def keys(self, kid: str | None, now: float) -> Sequence[VerificationKey]:
        """See `KeySource.keys`. Raises UnavailableError."""
        if found := self._fresh(kid, now):
            return found
        if self._hangs() or not self._lock.acquire(timeout=_HANGS_SECONDS):
            return self._answer(self._hung(now), kid, now)
        try:
            state = self._look_now(now)
        finally:
            self._lock.release()
        return self._answer(state, kid, now)

    def look(self, now: float) -> None:
        """Look at the file, unless somebody does. More often than once a second, and no call has to."""
        if self._lock.acquire(blocking=False):
            try:
                self._look_now(now)
            finally:
                self._lock.release()

    def at_once(self, kid: str | None, now: float) -> bool:
        """See `KeySource.at_once`: if nobody has to look, or nothing would come of it."""
        return bool(self._fresh(kid, now)) or self._hangs()

    def known(self) -> Sequence[VerificationKey] | None:
        """See `KeySource.known`."""
        keys = self._state.keys
        return None if keys is None else keys.keys

    def may_be_behind(self, issued_at: float, now: float) -> bool:  # noqa: ARG002
        """See `KeySource.may_be_behind`: never, for a file is read again for a kid that is not known."""
        return False

    def _fresh(self, kid: str | None, now: float) -> Sequence[VerificationKey]:
        """Those that were seen just now, if any; a call may be from before somebody looked."""
        state = self._state
        if state.keys is None or state.failure or abs(now - state.looked_at) >= _LOOK_SECONDS:
            return ()
        return state.keys.candidates(kid)

    def _hangs(self) -> bool:
        began = self._began
        return began is not None and time.monotonic() - began > _HANGS_SECONDS

    def _hung(self, now: float) -> _FileState:
        """The state that it is for as long as nobody comes back from his look."""
        began, state = self._began, self._state
        waited = _HANGS_SECONDS if began is None else time.monotonic() - began
        if not self._said:
            self._said = True
            logger.warning("keys kept as they were: the file system of the JWKS hangs", extra={"jwks": str(self._path)})
        since = now - waited if state.broken_since is None else min(state.broken_since, now)
        return replace(state, broken_since=since, failure=f"the file system of {self._path} does not answer")

    def _look_now(self, now: float) -> _FileState:
        self._began = time.monotonic()
        try:
            self._state = self._look(self._state, now)
        finally:
            self._began, self._said = None, False
        return self._state

    def _answer(self, state: _FileState, kid: str | None, now: float) -> Sequence[VerificationKey]:
        found = () if state.keys is None else state.keys.candidates(kid)
        too_old = state.broken_since is not None and now - state.broken_since > self._stale_seconds
        if state.failure and (too_old or not found):
            raise UnavailableError(
                f"no current keys: {state.failure}", todo=f"put a valid JWKS at {self._path}, renamed into place"
            )
        return found

    def _look(self, state: _FileState, now: float) -> _FileState:
        identity = None
        try:
            # The status before the content: a file that changes in between is read again at the next look.
            with machine_errors("could not examine", self._path):
                status = self._path.stat()
            identity = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            if identity == state.identity:
                return _FileState(state.keys, identity, now, state.broken_since, state.failure)
            keys = KeySet.from_jwks(read_capped(self._path, limit=MAX_JWKS_BYTES))
        except MeshpkiError as error:
            return self._broken(state, identity, str(error), now)
        _log_loaded(str(self._path), keys)
        return _FileState(keys, identity, now)

    def _broken(
        self, state: _FileState, identity: tuple[int, int, int, int] | None, failure: str, now: float
    ) -> _FileState:
        if failure != state.failure or identity != state.identity:
            logger.warning(
                "keys kept as they were: the JWKS is broken", extra={"jwks": str(self._path), "why": failure}
            )
        since = now if state.broken_since is None else min(state.broken_since, now)
        return _FileState(state.keys, identity, now, since, failure)


class FetchedKeySource:
    """Keys that are fetched, cached by the rules of `jwks_cache`. Safe for many threads.

    At most one fetch is under way. Who needs its outcome waits for it, if not too many do so already: an unknown kid
    takes nothing to write, and must not cost others their places. Due refreshes happen beside the calls.
    """

    def __init__(
        self,
        name: str,
        fetch: Callable[[], bytes],
        *,
        policy: CachePolicy | None = None,
        timeout_seconds: float = 5.0,
        waiting: threading.Semaphore | None = None,
    ) -> None:
        """`fetch` brings the JWKS document within `timeout_seconds`, or raises; `name` is what logs call it.

        `waiting` has a place for each who may wait; several sources may share it. Without it, WAITING may.
        """
        self._name = name
        self._fetch = fetch
        self._policy = policy or CachePolicy()
        self._timeout = timeout_seconds + _GRACE_SECONDS
        self._waiting = waiting or threading.Semaphore(WAITING)
        self._state = CacheState()
        self._lock = threading.Lock()
        self._flight: Future[None] | None = None
        self._closed = False

    def close(self) -> None:
        """Say nothing more: what a fetch under way comes to concerns nobody. Waits for none; its thread is a daemon."""
        self._closed = True

    def at_once(self, kid: str | None, now: float) -> bool:
        """See `KeySource.at_once`."""
        return decide(self._state, self._policy, kid, now) is not Step.LOAD

    def known(self) -> Sequence[VerificationKey] | None:
        """See `KeySource.known`."""
        keys = self._state.keys
        return None if keys is None else keys.keys

    def may_be_behind(self, issued_at: float, now: float) -> bool:
        """See `KeySource.may_be_behind`."""
        return may_be_behind(self._state, self._policy, issued_at, now)

    def keys(self, kid: str | None, now: float) -> Sequence[VerificationKey]:
        """See `KeySource.keys`. Raises UnavailableError."""
        step = decide(self._state, self._policy, kid, now)
        if step in {Step.LOAD, Step.REFRESH}:
            flight = self._start(kid, now)
            if step is Step.LOAD:
                self._wait(flight)
                step = decide(self._state, self._policy, kid, now)
        state = self._state
        if step in {Step.LOAD, Step.UNAVAILABLE} or state.keys is None:
            raise UnavailableError(
                f"no current keys from {self._name}: {state.failure or 'they are being fetched'}",
                todo="try again in some seconds",
            )
        return state.keys.candidates(kid)

    def _start(self, kid: str | None, now: float) -> Future[None]:
        """Join the fetch that is under way, or start one in a thread of its own."""
        with self._lock:
            if self._flight is not None:
                return self._flight
            flight = Future[None]()
            if decide(self._state, self._policy, kid, now) not in {Step.LOAD, Step.REFRESH}:
                flight.set_result(None)  # another fetch landed since the caller looked
                return flight
            self._flight = flight
        try:
            threading.Thread(target=self._run, args=(flight, now), name="jwks-fetch", daemon=True).start()
        except RuntimeError as error:  # no more threads
            self._land(flight, after_failure(self._state, str(error), now))
        return flight

    def _wait(self, flight: Future[None]) -> None:
        if flight.done():
            return
        if not self._waiting.acquire(blocking=False):
            raise self._unjudged()
        try:
            flight.result(self._timeout)
        except FutureTimeoutError as error:
            raise self._unjudged() from error
        finally:
            self._waiting.release()

    def _unjudged(self) -> TokenUnjudgedError:
        reason = UnjudgedReason.KEYS if self._state.keys is None else UnjudgedReason.KEY_NOT_SEEN_YET
        return TokenUnjudgedError(reason, f"no answer yet from {self._name}", todo="try again in some seconds")

    def _run(self, flight: Future[None], now: float) -> None:
        state, began = self._state, time.monotonic()
        try:
            keys = KeySet.from_jwks(self._fetch())
        except Exception as error:  # noqa: BLE001  # whatever it was, those who wait must be told
            if not self._closed:
                logger.warning("keys could not be fetched", extra={"jwks": self._name, "why": str(error)})
            failure = str(error) or type(error).__name__
            self._land(flight, after_failure(state, failure, now, time.monotonic() - began))
            return
        if keys != state.keys and not self._closed:
            _log_loaded(self._name, keys)
        self._land(flight, after_success(keys, now, time.monotonic() - began))

    def _land(self, flight: Future[None], state: CacheState) -> None:
        with self._lock:
            self._state = state
            self._flight = None
        flight.set_result(None)


class HttpsKeySource(FetchedKeySource):
    """Keys from one https address that asks for no credential."""

    def __init__(
        self,
        url: str,
        ca_file: Path,
        *,
        policy: CachePolicy | None = None,
        timeout_seconds: float = 5.0,
        fetch: Callable[[], bytes] | None = None,
        waiting: threading.Semaphore | None = None,
    ) -> None:
        """`fetch` replaces the network in tests. Raises UsageError for a URL that is not https."""
        from meshpki.tokens.jwks_fetch import JwksEndpoint
        from meshpki.tokens.jwks_fetch import fetch as fetch_once

        endpoint = JwksEndpoint.parse(url, ca_file, timeout_seconds=timeout_seconds)
        super().__init__(
            str(endpoint),
            fetch or (lambda: fetch_once(endpoint)),
            policy=policy,
            timeout_seconds=timeout_seconds,
            waiting=waiting,
        )


def _log_loaded(source: str, keys: KeySet) -> None:
    logger.info("keys loaded", extra={"jwks": source, "kids": [key.kid for key in keys.keys]})
    if keys.skipped:
        logger.warning("keys left out", extra={"jwks": source, "why": list(keys.skipped)})
