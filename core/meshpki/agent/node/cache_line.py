"""The order in which a node's cache is written and read: one thread of its own, one thing after the other.

So an entry whose token was refused is gone before anybody reads it again, and a disk that is slow stops no stream.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from meshpki.agent.node.cache import NodeCache
from meshpki.agent.node.cache_entry import MAX_BYTES, Bounds, is_worth_keeping
from meshpki.agent.renewal.cache import NOT_USED, CacheError, why_not
from meshpki.agent.rotation.acceptance import AnswerError
from meshpki.errors import MachineError
from meshpki.runtime.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future
    from pathlib import Path
    from typing import ParamSpec

    from meshpki.agent.node.actions import TokenKey
    from meshpki.agent.renewal.keeper import Held
    from meshpki.agent.rotation.bundle import Roots

    P = ParamSpec("P")

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 300.0
"""What is over is removed this often, for workloads that are gone never write again."""
RETRY_SECONDS: Final = 30.0
"""What could not be written is tried again this often: a disk that was full need not be so until the next renewal."""
AVERAGE_BYTES: Final = 16 * 1024


def bounds_for(identities: int) -> Bounds:
    """Room for so many accepted tokens, and for as many that theirs have followed or whose workloads are gone."""
    return Bounds(2 * identities, 2 * identities * AVERAGE_BYTES + MAX_BYTES)


class NodeCacheLine:
    """What NodeSessions has of the cache in `directory`. Lives in one event loop, which nothing here blocks."""

    def __init__(self, directory: Path, bounds: Bounds, ca: str = "") -> None:
        self._cache = NodeCache(directory, bounds, ca)
        self._thread = ThreadPoolExecutor(1, "node-cache")
        self._swept_at = float("-inf")
        self._owed: set[TokenKey] = set()
        """Whose entry could not be written. Changed in the thread, and by `give_up`, in single steps."""
        self._retried_at = float("-inf")
        self._unused = Repeats(log, NOT_USED)

    def earlier(
        self, key: TokenKey, token_ends: int | None, roots: Roots, now: float
    ) -> Callable[[], Awaitable[Held | None]] | None:
        """Give what reads what an earlier run was given for this very token; None where there is nothing to read."""
        # A look at the name is all that a forged token costs.
        if token_ends is None or not is_worth_keeping(token_ends, now) or not self._cache.has(key):
            return None
        return partial(self._read, key, token_ends, roots, now)

    async def _read(self, key: TokenKey, token_ends: int, roots: Roots, now: float) -> Held | None:
        try:
            return await asyncio.wrap_future(self._thread.submit(self._cache.load, key, token_ends, roots, now))
        except (CacheError, AnswerError, MachineError) as error:
            said = why_not(error)
            self._unused.say(said["reason"], {"file": str(self._cache.path(key)), **said})
        except Exception as error:  # noqa: BLE001 - a cache is a help: whatever it holds, the CA is still to be asked
            self._unused.say("fault", {"reason": "fault", "seen": type(error).__name__})
        return None

    def keep(self, key: TokenKey, token_ends: int | None, held: Held | None, now: float) -> None:
        """Keep what the CA has just given for this very token."""
        if token_ends is not None and is_worth_keeping(token_ends, now) and held is not None:
            self._do(self._store, key, token_ends, held, now)

    def _store(self, key: TokenKey, token_ends: int, held: Held, now: float) -> None:
        if self._cache.store(key, token_ends, held, now):
            self._owed.discard(key)
        else:
            self._owed.add(key)

    def owed(self, now: float) -> tuple[TokenKey, ...]:
        """Give those whose entry could not be written, if it is time to try again. `now` may go back."""
        if not self._owed or 0 <= now - self._retried_at < RETRY_SECONDS:
            return ()
        self._retried_at = now
        return tuple(self._owed)

    def give_up(self, key: TokenKey) -> None:
        """Write no entry for this token: it is gone."""
        self._owed.discard(key)

    def drop(self, key: TokenKey) -> None:
        """Forget what was given for a token: the CA has refused it."""
        self._do(self._drop, key)

    def _drop(self, key: TokenKey) -> None:
        self._cache.remove(key)
        self._owed.discard(key)

    def tidy(self, now: float) -> None:
        """Remove what is over, if it is time. `now` may go back."""
        if not 0 <= now - self._swept_at < SWEEP_SECONDS:
            self._swept_at = now
            self._do(self._cache.sweep, now)

    def close(self) -> None:
        """Finish what was begun. Blocks: call it in a thread."""
        self._thread.shutdown()

    def _do(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        self._thread.submit(work, *args, **kwargs).add_done_callback(_say_fault)


def _say_fault(done: Future[None]) -> None:
    if (error := done.exception()) is not None:  # its text might hold anything
        log.error("a fault of the agent: the cache was not kept", extra={"fault": type(error).__name__})
