"""The methods of one listener, each with the lane of its calls and what is said when there is no place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc

from meshpki.ca.server.calls.methods import CallRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshpki.ca.server.calls.lanes import Lane
    from meshpki.ca.server.calls.methods import AnyMethod

SERVER_BUSY: Final = "server_busy"


@dataclass(frozen=True, slots=True)
class Row:
    """One method as it is served."""

    method: AnyMethod
    lane: Lane
    busy: CallRefusedError


class MethodTable:
    """What is served, by path."""

    def __init__(
        self,
        methods: Iterable[AnyMethod],
        lane: Lane,
        aside: Lane | None = None,
        *,
        with_certificate: bool = False,
    ) -> None:
        """`aside` is the lane of methods that are served aside; without it they share `lane`.

        `with_certificate`: for a listener that demands client certificates; rules see them then.
        """
        self.with_certificate = with_certificate
        self.lanes = (lane,) if aside is None else (lane, aside)
        self.rows = {method.path: _row(method, lane, aside) for method in methods}

    def stop(self) -> None:
        """End the threads of its lanes when they have done what there is."""
        for lane in self.lanes:
            lane.workers.stop()


def _row(method: AnyMethod, lane: Lane, aside: Lane | None) -> Row:
    taken = aside if method.aside and aside is not None else lane
    busy = CallRefusedError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        SERVER_BUSY,
        f"{taken.places.most} calls are under way, as many as are taken at once; to do: try again in a moment",
    )
    return Row(method, taken, busy)
