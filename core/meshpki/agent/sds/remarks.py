"""What the log says of clients of secret discovery: for each identity so much and no more, however often it happens."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from meshpki.agent.sds.rules import Remarks
from meshpki.runtime.repeats import SUM_SECONDS, Repeats

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from meshpki.agent.rotation.feed import Feed

log = logging.getLogger(__name__)

UNKNOWN: Final = "a client asks for a secret that this workload does not have; it is sent if it appears"
REJECTED: Final = (
    "Envoy rejected what it was sent, and keeps what it had; the next certificate is sent when there is one"
)
MOST_KINDS: Final = 16
"""Different names, or different complaints, of one identity in a minute. What is more counts as one."""


class RemarksByIdentity:
    """By identity and not by stream: a client can open streams without end."""

    def __init__(self, *, seconds: float = SUM_SECONDS) -> None:
        self._seconds = seconds
        self._kept: MutableMapping[Feed, Remarks] = WeakKeyDictionary()

    def of(self, feed: Feed) -> Remarks:
        """Give what a stream of this identity says its remarks with."""
        kept = self._kept.get(feed)
        if kept is None:
            unknown = Repeats(log, UNKNOWN, seconds=self._seconds, most_kinds=MOST_KINDS)
            rejected = Repeats(log, REJECTED, seconds=self._seconds, most_kinds=MOST_KINDS, level=logging.ERROR)
            kept = self._kept[feed] = Remarks(unknown.say, rejected.say)
        return kept
