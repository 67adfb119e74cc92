"""One entry of a node's cache: what the CA gave for one token, in a form that no other token finds or is given.

Pure. An entry is named by the SHA-256 of the very token that the CA accepted, and says the same inside, so that a file
that was moved is no other token's entry. No name out of a token is in the way to it. The token itself is not in it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.agent.renewal import cache
from meshpki.agent.renewal.cache import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshpki.agent.node.actions import TokenKey
    from meshpki.agent.renewal.keeper import Held
    from meshpki.agent.rotation.bundle import Roots

MAX_BYTES: Final = 64 * 1024
"""Of an entry. Key, chain and a handful of roots are about 6 KiB."""
LATEST_END: Final = 10**11
"""Epoch seconds. A token that says it lasts longer is not kept."""
KEPT_FRACTION: Final = 0.75
"""Where there are too many, so much of what may be there stays: not every further entry is then one too many."""
_HEAD: Final = re.compile(rb"meshpki-node-cache 1 ([0-9a-f]{64}) ([0-9]{1,11}) ([0-9a-f]{64})")
_NAME: Final = re.compile(r"[0-9a-f]{64}\.json|\.[0-9a-f]{64}\.json\.[0-9]+\.[0-9a-f]{8}\.new")


@dataclass(frozen=True, slots=True)
class Found:
    """A file in the directory. `ends`, in epoch seconds, is when it is good for nothing any more."""

    name: str
    ends: float
    size: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be there."""

    entries: int
    size: int
    """Bytes."""


def name_of(key: TokenKey) -> str:
    """Give the entry's file name."""
    return f"{key.hex()}.json"


def is_ours(name: str) -> bool:
    """Whether a file of that name is an entry, or one that was being written: nothing else is ever removed."""
    return _NAME.fullmatch(name) is not None


def is_worth_keeping(token_ends: int | None, now: float) -> bool:
    """Whether a token's entry can be of use: one without a known end would never be over."""
    return token_ends is not None and now < token_ends < LATEST_END


def ends_of(token_ends: int, held: Held) -> int:
    """When an entry is over: with the token or with the certificate, whichever comes first."""
    return min(token_ends, held.snapshot.not_after)


def render(key: TokenKey, token_ends: int, held: Held, ca: str = "") -> bytes:
    """Give the entry: a line that says whose it is, and what pod mode's cache has."""
    body = cache.render(held, ca)
    return _head(key, token_ends, body) + b"\n" + body


def examine(content: bytes, key: TokenKey, token_ends: int, roots: Roots, now: float, *, ca: str = "") -> Held:
    """Give what was kept for this very token and of this CA, if token and certificate are valid at `now`.

    Raises CacheError or AnswerError.
    """
    head, _, body = content.partition(b"\n")
    if not (match := _HEAD.fullmatch(head)):
        raise CacheError("it does not begin as an entry of version 1 does")
    if match[1] != key.hex().encode():
        raise CacheError("it is another token's entry")
    if head != _head(key, token_ends, body):
        raise CacheError("its digest is not that of its content")
    if token_ends <= now:
        raise CacheError("its token has expired")
    return cache.examine(body, roots, now, ca)


def surplus(found: Iterable[Found], bounds: Bounds, now: float) -> list[Found]:
    """Say what has to go: what is over, and where there is no room for one more, what is over soonest."""
    ordered = sorted(found, key=lambda one: (one.ends, one.name))
    gone = [one for one in ordered if one.ends <= now]
    left = ordered[len(gone) :]
    entries, size = len(left), sum(one.size for one in left)
    if entries < bounds.entries and size + MAX_BYTES <= bounds.size:
        return gone
    for one in left:
        if entries <= bounds.entries * KEPT_FRACTION and size <= bounds.size * KEPT_FRACTION:
            break
        gone.append(one)
        entries, size = entries - 1, size - one.size
    return gone


def _head(key: TokenKey, token_ends: int, body: bytes) -> bytes:
    """The digest tells a content that was cut or garbled; it proves nothing about who wrote it."""
    said = f"{key.hex()} {token_ends}".encode()
    return b"meshpki-node-cache 1 " + said + b" " + hashlib.sha256(said + b"\n" + body).hexdigest().encode()
