"""A port of this machine that stays a test's own while no server listens there: before it starts, between two runs."""

from __future__ import annotations

import socket


def kept_port() -> socket.socket:
    """A port of 127.0.0.1 that nobody else is given for as long as this is open. Who connects meanwhile is refused.

    A server of ours can listen there all the same: Linux allows it where both sockets have SO_REUSEADDR.
    """
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    return kept


def number_of(kept: socket.socket) -> int:
    """The port."""
    number: int = kept.getsockname()[1]
    return number
