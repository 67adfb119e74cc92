"""An agent's configured roots that never change: those of one fake authority."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.agent.rotation.bundle import read_roots
from meshpki.runtime.wakeup import Signal

if TYPE_CHECKING:
    import asyncio

    from meshpki.agent.rotation.bundle import Roots
    from support.fake_ca import FakeAuthority


class FixedRoots:
    """What a keeper takes for the file of roots."""

    def __init__(self, authority: FakeAuthority) -> None:
        self.current: Roots = read_roots(authority.roots_pem)
        self._never = Signal()

    def changes(self) -> asyncio.Future[None]:
        """Nothing ever comes of it."""
        return self._never.next()

    def refresh(self) -> None:
        """There is nothing to look at again."""
