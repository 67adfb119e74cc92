"""How a call that failed ends: as a status and a text, and nothing is left of the error.

An error holds the frames that it passed through, and where one of them holds the error, the two are a cycle, which only
Python's collector takes apart, some time. The frames that called them hang on to it, and with them the call; and a call
that is still there counts against its connection's streams, whatever was answered: some hundred of them, and the
connection takes no more calls. So no handler is relied on to leave no cycle: whatever comes out of one is emptied here.

Not Exceptions alone: `cryptography` panics with a BaseException, and a hook may call `sys.exit`. Either is the end of
its call, and not of the thread that takes all others.
"""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

import grpc

from meshpki.ca.server.calls.methods import CallRefusedError

if TYPE_CHECKING:
    from meshpki.ca.server.calls.methods import Call

_LOG = logging.getLogger(__name__)


def ending(call: Call, error: BaseException) -> tuple[grpc.StatusCode, str]:
    """What the caller is told; the log gets what it is not told. `error` holds no frame any more afterwards."""
    try:
        if isinstance(error, CallRefusedError):
            return error.status, str(error)
        _LOG.error("a call failed", exc_info=error, extra={"call": call.id, "peer": call.peer})
        return grpc.StatusCode.INTERNAL, f"internal: the server's log has the cause under call {call.id}"
    finally:
        forget(error)


def forget(error: BaseException) -> None:
    """Empty every frame that `error`, its causes and contexts passed through, and let go of them."""
    found: list[BaseException] = [error]
    for each in found:  # it grows on the way
        traceback.clear_frames(each.__traceback__)
        each.__traceback__ = None
        linked = (each.__cause__, each.__context__)
        found += [other for other in linked if other is not None and other not in found]
