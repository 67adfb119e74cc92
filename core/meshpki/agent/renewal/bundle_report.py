"""Tells the CA which roots this agent serves, after each renewal and each change: for a rotation that waits for proof.

Nothing waits for it, and its failures are nobody's: a CA that is away hears it later, one that does not know the call
is left alone until there is news.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final, Protocol

from meshpki.agent.renewal.ca_client import BundleHeld, CaRefusedError, CaUnavailableError
from meshpki.agent.renewal.reporting import failure_of
from meshpki.agent.rotation.backoff import DENIED, RETRY

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.agent.renewal.credential import Credential, CredentialSource
    from meshpki.agent.rotation.bundle import Bundle
    from meshpki.agent.rotation.feed import Feed

log = logging.getLogger(__name__)

SPREAD_SECONDS: Final = 5.0
"""A file of roots changes everywhere at once: reports are spread over this long."""


def held_of(bundle: Bundle) -> BundleHeld | None:
    """What there is to say of a bundle; None of an empty one."""
    return BundleHeld(bundle.digest, bundle.sequence, len(bundle.roots)) if bundle.roots else None


class Hearer(Protocol):
    """Whoever is told: a CaClient."""

    async def report(self, bundle: BundleHeld, credential: Credential) -> None:
        """Tell once. Raises a MeshpkiError."""
        ...


class BundleReporter:
    """Reports for one identity. `held` says what is served; `clock` gives epoch seconds, `chance` numbers in [0, 1)."""

    def __init__(
        self,
        hearer: Hearer,
        *,
        credentials: CredentialSource,
        feed: Feed,
        held: Callable[[], BundleHeld | None],
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`credentials` has to be a source of its own: one that the keeper reads too would hide new tokens from it."""
        self._told: tuple[BundleHeld, int] | None = None
        self._hearer = hearer
        self._credentials = credentials
        self._feed = feed
        self._held = held
        self._clock = clock
        self._chance = chance

    @property
    def has_news(self) -> bool:
        """Whether there is something that the CA has not heard."""
        news = self._news()
        return news is not None and news != self._told

    async def run(self) -> None:
        """Report until cancelled. Raises nothing of its own."""
        while True:
            changed = self._feed.changes()
            await self.tell()
            await asyncio.wait([changed])

    async def tell(self) -> None:
        """Tell what there is to tell, and what comes meanwhile; returns when the CA has heard it, or never will.

        Raises nothing of its own.
        """
        failures = 0
        while (news := self._news()) is not None and news != self._told:
            changed = self._feed.changes()
            if not failures:
                await asyncio.sleep(SPREAD_SECONDS * self._chance())
                news = self._news() or news  # what became of it meanwhile is news enough
            failure = await self._tell(news[0])
            failures = failures + 1 if failure is not None else 0
            wait = self._patience(failure, failures)
            if wait is None:
                self._told, failures = news, 0
            else:
                await asyncio.wait([changed], timeout=wait)

    def _news(self) -> tuple[BundleHeld, int] | None:
        """What there is to tell, and the serial number of the certificate that it is told with or after."""
        bundle, snapshot = self._held(), self._feed.current
        return None if bundle is None or snapshot is None else (bundle, snapshot.serial)

    async def _tell(self, bundle: BundleHeld) -> Exception | None:
        try:
            credential = await self._credentials.read(self._clock(), self._feed.current)
            await self._hearer.report(bundle, credential)
        except Exception as error:  # noqa: BLE001 - whatever it is, the workload's certificate does not depend on it
            failure = failure_of(error)
            log.debug(
                "the CA was not told which roots are served",
                extra={"fault": failure.kind.value, "reason": failure.reason, "seen": failure.seen},
            )
            return error
        log.debug("the CA was told which roots are served", extra={"digest": bundle.digest, "roots": bundle.roots})
        return None

    def _patience(self, failure: Exception | None, failures: int) -> float | None:
        """How long to wait before it is told again; None when there is nothing more to tell."""
        match failure:
            case None:
                return None
            case CaUnavailableError(status="UNIMPLEMENTED"):
                return None  # another CA than ours
            case CaRefusedError():
                return DENIED.delay(failures, self._chance())
            case _:
                return RETRY.delay(failures, self._chance())
