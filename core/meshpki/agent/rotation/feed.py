"""The snapshot of one identity that is being served, and how the faces learn of the next one: within one event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.runtime.wakeup import Signal

if TYPE_CHECKING:
    import asyncio

    from meshpki.agent.rotation.snapshot import Snapshot


class Feed:
    """Holds the newest snapshot of one identity. A reader that was slow sees the newest only, never a queue.

    Only another snapshot takes a snapshot's place. One that has expired stays: xDS has no word for "no longer", an
    Envoy keeps what it was sent whatever we do, and a peer that sees an expired certificate says so in its log, while
    a secret that never comes leaves Envoy's listener waiting without a word. Readiness and metrics tell the truth.
    """

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self._snapshot = snapshot
        self._changed = Signal()
        self._closed = False
        self.denied = False
        """Whether the CA refused this identity when it was asked last. Kept by the keeper; wakes nobody."""

    @property
    def current(self) -> Snapshot | None:
        """What to serve now; None before the first certificate."""
        return self._snapshot

    @property
    def closed(self) -> bool:
        """Whether nothing more will come: readers end their streams with a clean status."""
        return self._closed

    def publish(self, snapshot: Snapshot) -> None:
        """Replace what is served, and wake every reader."""
        self._snapshot = snapshot
        self._changed.wake()

    def close(self) -> None:
        """Tell every reader to end its stream."""
        self._closed = True
        self._changed.wake()

    def changes(self) -> asyncio.Future[None]:
        """Get a future that is done at the next `publish` or `close`: see Signal.next.

        Take it before looking at `closed` and `current`. After `close` it is never done.
        """
        return self._changed.next()
