"""The workload's token: read anew for every call, looked at only for shape and expiry, never kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from meshpki.agent.renewal.token_text import NotATokenError, expiry
from meshpki.errors import MachineError, RefusedError
from meshpki.runtime.files import read_capped
from meshpki.tokens.reasons import TokenReason

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES: Final = 16 * 1024
"""More than any token a CA of ours reads (8 KiB) with white space around it."""
_SWAPS: Final = 3
"""A kubelet swaps a symlink and then removes the old directory: a path resolved in between is met again at once."""


class TokenFileError(RefusedError):
    """The token file holds nothing that is worth sending. `reason` is one of the words the CA would use."""

    def __init__(self, reason: TokenReason, seen: str, *, wanted: str = "", todo: str = "") -> None:
        super().__init__(seen, wanted=wanted, todo=todo)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FileToken:
    """A token out of the file, unverified. `expires_at` (epoch seconds) is for our own patience, never for trust."""

    value: str = field(repr=False)
    expires_at: int | None


Fingerprint = tuple[int, int, int, int]


def fingerprint(path: Path) -> Fingerprint | None:
    """Tell one content of the file from another without reading it; None while there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def read_token(path: Path, *, now: float) -> FileToken:
    """Read, trim and look at the token. Raises TokenFileError when it is not worth sending, MachineError when the
    file cannot be read although it is there.
    """
    text = _read(path).strip()
    if not text:
        raise TokenFileError(
            TokenReason.MISSING, f"token file {path} is empty", todo="see why nothing has been written into it"
        )
    token = FileToken(text.decode("ascii"), _expiry(text, path))
    if token.expires_at is not None and token.expires_at <= now:
        raise TokenFileError(
            TokenReason.EXPIRED,
            f"the token in {path} expired {now - token.expires_at:.0f} s ago"
            f" (expiry {token.expires_at}, this machine's clock {now:.0f}); it is not sent",
            todo="see why the file is not rewritten (kubelet or token issuer), and compare the clocks",
        )
    return token


def _read(path: Path) -> bytes:
    for _ in range(_SWAPS - 1):
        try:
            return read_capped(path, limit=MAX_FILE_BYTES)
        except MachineError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise _too_large_or(error) from error
    try:
        return read_capped(path, limit=MAX_FILE_BYTES)
    except MachineError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise TokenFileError(
                TokenReason.MISSING,
                f"there is no token file {path}",
                todo="see that the token is projected there, or name another file",
            ) from error
        raise _too_large_or(error) from error


def _too_large_or(error: MachineError) -> MachineError | TokenFileError:
    if error.__cause__ is not None or "larger" not in error.seen:
        return error
    return TokenFileError(TokenReason.TOO_LARGE, error.seen, wanted=error.wanted, todo="name the file of the token")


def _expiry(token: bytes, path: Path) -> int | None:
    try:
        return expiry(token)
    except NotATokenError as error:
        raise TokenFileError(
            TokenReason.MALFORMED,
            f"token file {path} holds no JWT: {error}",
            todo="was the file cut short while it was written?",
        ) from error
