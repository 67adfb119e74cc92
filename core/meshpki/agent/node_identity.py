"""One token of node mode at work: a keeper that asks with this very token, and what it obtained."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from meshpki.agent.credential import TokenCredential
from meshpki.agent.feed import Feed
from meshpki.agent.keeper import Keeper
from meshpki.agent.turns import Lane

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.agent.ca_client import Answer
    from meshpki.agent.credential import Credential
    from meshpki.agent.keeper import Authority, ConfiguredRoots, Wish
    from meshpki.agent.node_token import StreamToken
    from meshpki.agent.snapshot import Snapshot
    from meshpki.agent.turns import Turns

MARGIN_SECONDS: Final = 5.0
"""A token with less than this to live is not sent any more: it may be over when the CA reads it."""


class NodeIdentity:
    """From the first stream with a token until nobody needs it any more. The token is in memory only, here only."""

    def __init__(
        self,
        token: StreamToken,
        wish: Wish,
        authority: Authority,
        turns: Turns,
        roots: ConfiguredRoots,
        *,
        clock_jumps: Callable[[], asyncio.Future[None]],
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.key = token.key
        self.feed = Feed()
        self._token = token
        self._authority = authority
        self._turns = turns
        self._seen: Snapshot | None = None
        self._on_spent: Callable[[NodeIdentity], None] = lambda _: None
        self._task: asyncio.Task[None] | None = None
        self._halted = False
        self.keeper = Keeper(
            wish,
            authority=self,
            credentials=self,
            feed=self.feed,
            roots=roots,
            clock_jumps=clock_jumps,
            clock=clock,
            chance=chance,
        )

    def start(
        self,
        stepped: Callable[[NodeIdentity], None],
        spent: Callable[[NodeIdentity], None],
    ) -> None:
        """Begin to ask. `stepped` is called after each step of the keeper, `spent` once the token is of no more use."""
        self._on_spent = spent
        self._task = asyncio.create_task(self.keeper.run())
        self._follow(stepped)

    def halt(self) -> None:
        """Send this token no more. The keeper lives on: what it holds follows a change of the roots."""
        self._halted = True

    def end(self) -> asyncio.Task[None] | None:
        """Be over. Gives the task that is ending."""
        if self._task is not None:
            self._task.cancel()
        return self._task

    def is_new_certificate(self) -> bool:
        """Whether the keeper holds another certificate than at the last call."""
        before, self._seen = self._seen, self.keeper.state.snapshot
        return self._seen is not None and (before is None or before.serial != self._seen.serial)

    def _follow(self, stepped: Callable[[NodeIdentity], None]) -> None:
        """Call back after each step. No task for it: there are a thousand of us, and nearly all only wait."""

        def tell(_: asyncio.Future[None]) -> None:
            if self._task is not None and not self._task.cancelling():
                self._follow(stepped)
                stepped(self)

        self.keeper.steps().add_done_callback(tell)

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        """Ask the CA when it is this identity's turn. An Authority for the keeper."""
        lane = Lane.NEWCOMER if self.keeper.state.snapshot is None else Lane.RENEWAL
        async with self._turns.turn(lane):
            return await self._authority.sign(csr_pem, credential, ttl_seconds)

    async def read(self, now: float, held: Snapshot | None) -> Credential:  # noqa: ARG002 - a token needs none
        """Give the token; never return once it is of no more use. A CredentialSource for the keeper."""
        if not self._halted and self._token.ends is not None and self._token.ends - now <= MARGIN_SECONDS:
            self._on_spent(self)
            self._halted = True
        if self._halted:
            await self.changed()
        return TokenCredential(self._token.text)

    async def changed(self) -> None:
        """Never return: a stream's token does not change, its client comes back with another."""
        await asyncio.get_running_loop().create_future()
