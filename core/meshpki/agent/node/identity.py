"""One token of node mode at work: a keeper that asks with this very token, and what it obtained."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from meshpki.agent.node.turns import Lane
from meshpki.agent.renewal.bundle_report import BundleReporter, Hearer, held_of
from meshpki.agent.renewal.credential import TokenCredential
from meshpki.agent.renewal.keeper import Authority, Keeper
from meshpki.agent.rotation.feed import Feed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from meshpki.agent.node.token import StreamToken
    from meshpki.agent.node.turns import Turns
    from meshpki.agent.renewal.ca_client import Answer, BundleHeld
    from meshpki.agent.renewal.credential import Credential
    from meshpki.agent.renewal.keeper import ConfiguredRoots, Held, Wish
    from meshpki.agent.renewal.ledger import Ledger
    from meshpki.agent.rotation.failure import FailureKind
    from meshpki.agent.rotation.snapshot import Snapshot
    from meshpki.runtime.repeats import Repeats

MARGIN_SECONDS: Final = 5.0
"""A token with less than this to live is not sent any more: it may be over when the CA reads it."""


class Ca(Authority, Hearer, Protocol):
    """Who signs and is told which roots are served: a CaClient."""


class NodeIdentity:
    """From the first stream with a token until nobody needs it any more. The token is in memory only, here only."""

    def __init__(
        self,
        token: StreamToken,
        wish: Wish,
        ca: Ca,
        turns: Turns,
        roots: ConfiguredRoots,
        *,
        many: Mapping[FailureKind, Repeats],
        ledger: Ledger,
        clock_jumps: Callable[[], asyncio.Future[None]],
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.key = token.key
        self.feed = Feed()
        self._token = token
        self._ca = ca
        self._turns = turns
        self._seen: Snapshot | None = None
        self._on_spent: Callable[[NodeIdentity], None] = lambda _: None
        self._on_asking: Callable[[NodeIdentity], None] = lambda _: None
        self._task: asyncio.Task[None] | None = None
        self._halted = False
        self._refused_at = 0.0
        self.keeper = Keeper(
            wish,
            authority=self,
            credentials=self,
            feed=self.feed,
            roots=roots,
            many=many,
            ledger=ledger,
            clock_jumps=clock_jumps,
            clock=clock,
            chance=chance,
        )
        self._reporting: asyncio.Task[None] | None = None
        self._reporter = BundleReporter(
            self,
            credentials=_WhileItLasts(self),
            feed=self.feed,
            held=lambda: held_of(self.keeper.bundle),
            clock=clock,
            chance=chance,
        )

    def start(
        self,
        asks: Callable[[NodeIdentity], None],
        stepped: Callable[[NodeIdentity], None],
        spent: Callable[[NodeIdentity], None],
        earlier: Callable[[], Awaitable[Held | None]] | None = None,
    ) -> None:
        """Begin to ask. `asks` is called whenever a question goes to the CA, `stepped` after each step of the keeper,
        `spent` once the token is of no more use.

        `earlier` gives what an earlier run obtained with this very token, if it can be served still.
        """
        self._on_asking, self._on_spent = asks, spent
        self._task = asyncio.create_task(self.keeper.run() if earlier is None else self._go_on(earlier))
        self._follow(stepped)

    async def _go_on(self, earlier: Callable[[], Awaitable[Held | None]]) -> None:
        if (held := await earlier()) is not None:
            self.keeper.resume(held)
        await self.keeper.run()

    def halt(self) -> None:
        """Send this token no more. The keeper lives on: what it holds follows a change of the roots."""
        self._halted = True

    def end(self) -> list[asyncio.Task[None]]:
        """Be over. Gives the tasks that are ending."""
        tasks = [task for task in (self._task, self._reporting) if task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    def is_usable(self, now: float) -> bool:
        """Whether the token is still worth sending."""
        return not self._halted and (self._token.ends is None or self._token.ends - now > MARGIN_SECONDS)

    @property
    def ends(self) -> int | None:
        """When the token expires, as it says itself; true as soon as the CA has accepted it."""
        return self._token.ends

    @property
    def token(self) -> TokenCredential:
        """The very token."""
        return TokenCredential(self._token.text)

    def is_new_certificate(self) -> bool:
        """Whether the keeper holds another certificate than at the last call."""
        before, self._seen = self._seen, self.keeper.state.snapshot
        return self._seen is not None and (before is None or before.serial != self._seen.serial)

    def is_new_refusal(self) -> bool:
        """Whether the keeper has been refused since the last call."""
        before, self._refused_at = self._refused_at, self.keeper.state.failed_at
        return self._refused_at != before

    def _follow(self, stepped: Callable[[NodeIdentity], None]) -> None:
        """Call back after each step. No task for it: there are a thousand of us, and nearly all only wait."""

        def tell(_: asyncio.Future[None]) -> None:
            if self._task is not None and not self._task.cancelling():
                self._follow(stepped)
                stepped(self)
                self._report()

        self.keeper.steps().add_done_callback(tell)

    def _report(self) -> None:
        """Tell the CA which roots are served, in a task that lasts until it has heard it."""
        if self._reporting is None and not self._halted and self._reporter.has_news:
            self._reporting = asyncio.create_task(self._reporter.tell())
            self._reporting.add_done_callback(self._reported)

    def _reported(self, task: asyncio.Task[None]) -> None:
        self._reporting = None
        if not task.cancelled() and task.exception() is None:
            self._report()  # what came in the very moment in which it ended

    async def report(self, bundle: BundleHeld, credential: Credential) -> None:
        """Tell the CA when it is this identity's turn. A Hearer for the reporter."""
        async with self._turns.turn(Lane.RENEWAL):
            await self._ca.report(bundle, credential)

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        """Ask the CA when it is this identity's turn. An Authority for the keeper."""
        lane = Lane.NEWCOMER if self.keeper.state.snapshot is None else Lane.RENEWAL
        async with self._turns.turn(lane):
            self._on_asking(self)
            return await self._ca.sign(csr_pem, credential, ttl_seconds)

    async def read(self, now: float, held: Snapshot | None) -> Credential:  # noqa: ARG002 - a token needs none
        """Give the token; never return once it is of no more use. A CredentialSource for the keeper."""
        if not self._halted and not self.is_usable(now):
            self._on_spent(self)
            self._halted = True
        if self._halted:
            await self.changed()
        return self.token

    async def changed(self) -> None:
        """Never return: a stream's token does not change, its client comes back with another."""
        await asyncio.get_running_loop().create_future()


class _WhileItLasts:
    """The token for reports: one that is spent is none of their business, for the next one's identity reports too."""

    def __init__(self, identity: NodeIdentity) -> None:
        self._identity = identity
        self.changed = identity.changed

    async def read(self, now: float, held: Snapshot | None) -> Credential:  # noqa: ARG002 - a token needs none
        if not self._identity.is_usable(now):
            await self.changed()
        return self._identity.token
