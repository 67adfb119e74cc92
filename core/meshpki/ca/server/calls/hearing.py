"""Whether the requests of a row were heard, before the next row is judged. Pure: calls, and what happens."""

from __future__ import annotations

from typing import Protocol


class Expected(Protocol):
    """A call whose request was asked for."""

    def waits(self) -> bool:
        """Whether its request has not come yet."""


class Hearing:
    """Those of a row whom another row might cost their places, until they could be heard.

    No time is given to them: whoever sends no request would hold up everybody else for it, row after row.
    """

    def __init__(self) -> None:
        self._calls: list[Expected] = []

    def add(self, call: Expected) -> None:
        """One more to be heard."""
        self._calls.append(call)

    def over(self, *, nothing_more: bool) -> bool:
        """Whether nobody is left. Ask whenever something has happened: who is heard is let go.

        `nothing_more`: all that has happened was taken, so whose request is not here now is late.
        """
        calls = self._calls
        if nothing_more:
            calls.clear()
        while calls and not calls[-1].waits():
            calls.pop()
        return not calls

    def patience(self) -> float | None:
        """Seconds to wait for what happens next: only what has happened counts; None: there is nobody."""
        return 0.0 if self._calls else None
