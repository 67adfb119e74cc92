"""Who may read the files that the agent writes: the mode of a file with a key, its owner and its group."""

from __future__ import annotations

import grp
import pwd
import re
from dataclasses import dataclass
from typing import Final

from meshpki.errors import UsageError

OWNER_READS: Final = 0o400
OWNER_WRITES: Final = 0o200
GROUP_READS: Final = 0o040
DEFAULT_MODE: Final = OWNER_READS | OWNER_WRITES
MAX_ID: Final = 2**32 - 2
"""The highest user or group number; the one above it means "leave as it is" to chown."""


@dataclass(frozen=True, slots=True)
class FileAccess:
    """Raises UsageError for a mode that would let everybody read a key, or let anyone but the owner write it.

    Directories stay the agent's own, so that no one else can put a symbolic link into its way; a group that may
    read the files may enter them.
    """

    mode: int = DEFAULT_MODE
    """Of a file that holds a key. Files without one can be read by everybody who can enter the directory."""
    uid: int | None = None
    gid: int | None = None
    """None: as the process that writes."""

    def __post_init__(self) -> None:
        """Refuse what is no mode for a key."""
        if not self.mode & OWNER_READS or self.mode & ~(OWNER_READS | OWNER_WRITES | GROUP_READS):
            raise UsageError(
                f"mode {self.mode:04o} for a private key",
                wanted="0600, 0400, 0640 or 0440: its owner reads it, and its group at most",
                todo="give the program's group with the owner of the files, and mode 0640",
            )

    @property
    def directory_mode(self) -> int:
        """Of the directories around the files."""
        return 0o750 if self.gid is not None or self.mode & GROUP_READS else 0o700


def parse_mode(text: str) -> int:
    """Read an octal mode such as 0640. Raises UsageError."""
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise UsageError(f"file mode {text[:40]!r}", wanted="an octal number, for example 0640")
    return int(text, 8)


def parse_owner(text: str) -> tuple[int | None, int | None]:
    """Read `USER:GROUP`, `USER` (and that user's own group) or `:GROUP`, names or numbers. Raises UsageError."""
    user, colon, group = text.partition(":")
    if not user and not group:
        raise UsageError(f"owner {text[:80]!r}", wanted="USER:GROUP, USER or :GROUP, names or numbers")
    uid = _user(user) if user else None
    if group:
        return uid, _group(group)
    if colon or uid is None:
        raise UsageError(f"owner {text[:80]!r} has no group", wanted="USER:GROUP, USER or :GROUP")
    try:
        return uid, pwd.getpwuid(uid).pw_gid
    except KeyError as error:
        raise UsageError(
            f"there is no user {text[:80]!r} whose group could be taken", wanted="USER:GROUP with a group"
        ) from error


def _user(text: str) -> int:
    try:
        return _number(text) if text.isascii() and text.isdigit() else pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"there is no user {text[:80]!r}", wanted="a name that this machine knows, or a number"
        ) from error


def _group(text: str) -> int:
    try:
        return _number(text) if text.isascii() and text.isdigit() else grp.getgrnam(text).gr_gid
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"there is no group {text[:80]!r}", wanted="a name that this machine knows, or a number"
        ) from error


def _number(text: str) -> int:
    number = int(text[:20])
    if number > MAX_ID:
        raise ValueError(text)
    return number
