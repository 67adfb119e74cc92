"""The token files: when each is due to be written again (as a kubelet decides), and the writing."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError
from meshpki.runtime.files import read_private, write_atomically
from meshpki_local.issuer import IssuerKey, TokenRequest, mint
from meshpki_local.settings import AUDIENCE, ISSUER
from meshpki_local.standing import sweep

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.identity import ServiceAccountRef

_LIMIT: Final = 8 << 10
_MAX_AGE: Final = 24 * 3600
_RENEW_AT: Final = 0.8


@dataclass(frozen=True, slots=True)
class TokenSeen:
    """What a token file says, as far as it bears on whether to write it again. Times are epoch seconds."""

    kid: str
    issuer: str
    subject: str
    audiences: tuple[str, ...]
    issued_at: int
    expires_at: int


def due_at(seen: TokenSeen | None, account: ServiceAccountRef, kid: str, now: float) -> float:
    """When to write the file: at 80 % of the token's life, or at the age of 24 h if that is sooner.

    At once (returns 0) when there is none, when it is another's, or when it was issued in the future: the rule of
    the kubelet's token manager (pkg/kubelet/token/token_manager.go), less its jitter, for there is one node here.
    """
    if seen is None or seen.issued_at > now or seen.expires_at <= seen.issued_at:
        return 0
    wanted = (kid, ISSUER, account.subject, (AUDIENCE,))
    if (seen.kid, seen.issuer, seen.subject, seen.audiences) != wanted:
        return 0
    return seen.issued_at + min(_RENEW_AT * (seen.expires_at - seen.issued_at), _MAX_AGE)


def read_seen(content: bytes) -> TokenSeen | None:
    """Read a token of our own making, unverified: enough to see when it is due. None if it is anything else."""
    try:
        # Any: JSON, which the conversions below check.
        header, body = (json.loads(_decode(part)) for part in content.split(b".")[:2])
        audiences = tuple(str(audience) for audience in body["aud"])
        times = int(body["iat"]), int(body["exp"])
        return TokenSeen(str(header["kid"]), str(body["iss"]), str(body["sub"]), audiences, *times)
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
        return None


def refresh(path: Path, account: ServiceAccountRef, key: IssuerKey, *, lifetime: int, node: str, now: float) -> float:
    """Write the token file if it is due; return when it is due next. Raises MachineError; then the old one stands.

    A life that the operator shortened applies at once: the file is written again when its token outlives it.
    """
    seen = _look(path)
    due = due_at(seen, account, key.kid, now)
    if seen is not None and seen.expires_at - seen.issued_at != lifetime:
        due = 0
    if due > now:
        return due
    request = TokenRequest(account, AUDIENCE, lifetime)
    token = mint(key, request, node=node, now=int(now)).encode()
    sweep(path)
    write_atomically(path, token)
    return due_at(read_seen(token), account, key.kid, now)


def _look(path: Path) -> TokenSeen | None:
    if not path.exists():
        return None
    try:
        return read_seen(read_private(path, limit=_LIMIT))
    except MachineError:
        return None  # Unreadable, or readable by others: written again, by rename, with the right owner and mode.


def _decode(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
