"""Places for the calls of one listener: what is begun and has no answer yet takes one."""

from __future__ import annotations


class Places:
    """So many at a time. Safe for threads; to ask whether there is one and to take it is for one thread alone."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken: set[object] = set()

    def count(self) -> int:
        """How many are taken."""
        return len(self._taken)

    def full(self) -> bool:
        """Whether all are."""
        return len(self._taken) >= self.most

    def take(self, call: object) -> None:
        """Take one for it. Takes one more than there are, too: whoever asks has to say no."""
        self._taken.add(call)

    def leave(self, call: object) -> None:
        """It needs none any more, if it had one."""
        self._taken.discard(call)
