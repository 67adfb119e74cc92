"""What an identity holds, kept over a restart of the agent: one private file, believed only after a full examination.

An agent that is restarted while everything above it is away serves at once what is still valid. Nothing in the file is
taken on trust: key, chain, times and roots are examined as if the CA had just sent them, against the roots that
are configured now. It has to be of the CA that is asked now, and its identity the one of the agent's token.
A cache is a help and no duty: whatever is wrong with it is said, and the agent does without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from typing import TYPE_CHECKING, Final

from meshpki.agent.renewal.cache_owner import speaks_for
from meshpki.agent.renewal.keeper import Held
from meshpki.agent.rotation.acceptance import AnswerError, accept_held
from meshpki.agent.rotation.bundle import pem_of
from meshpki.errors import MachineError
from meshpki.runtime.files import (
    check_private_directory,
    machine_errors,
    private_directory,
    read_private,
    write_atomically,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from meshpki.agent.rotation.bundle import Roots

log = logging.getLogger(__name__)

FILE: Final = "identity.json"
VERSION: Final = 2
MAX_BYTES: Final = 2 * 1024 * 1024
NOT_USED: Final = "what an earlier run left in the cache is not used"
_PARTS: Final = ("chain", "bundle", "key", "ca")


class CacheError(Exception):
    """The cache is not believed; internal to the agent. The message is the reason, and shows nothing of the content."""


class Cache:
    """The cache of one identity in a directory of its own, which may be on tmpfs. `ca` says whose answers it keeps."""

    def __init__(self, directory: Path, ca: str = "") -> None:
        self._directory = directory
        self._ca = ca
        self._path = directory / FILE
        self._stored = b""
        self._complaint = ""

    def load(self, roots: Roots, now: float, said: str | None = None) -> Held | None:
        """Give what an earlier run left, if it can be served now; None otherwise, and the reason is logged.

        `roots` are those configured now, `said` is the `sub` of the token that is at hand, None where there is none.
        """
        try:
            return self._load(roots, now, said) if self._is_there() else None
        except (CacheError, AnswerError, MachineError) as error:
            log.warning(NOT_USED, extra={"file": str(self._path), **why_not(error)})
            return None

    def store(self, held: Held) -> None:
        """Keep it. A failure is logged, once, and no more: the next call tries again."""
        content = render(held, self._ca)
        if content == self._stored:
            return
        try:
            private_directory(self._directory)
            write_atomically(self._path, content)
        except MachineError as error:
            level = logging.DEBUG if error.seen == self._complaint else logging.WARNING
            log.log(level, "the cache could not be written", extra={"seen": error.seen, "todo": error.todo})
            self._complaint = error.seen
        else:
            self._stored, self._complaint = content, ""

    def _is_there(self) -> bool:
        """Not Path.exists: in a directory that we may not enter there may be one."""
        with machine_errors("could not look for", self._path):
            try:
                self._path.stat()
            except FileNotFoundError:
                return False
        return True

    def _load(self, roots: Roots, now: float, said: str | None) -> Held:
        check_private_directory(self._directory)
        held = examine(read_private(self._path, limit=MAX_BYTES), roots, now, self._ca)
        if not speaks_for(said, held.snapshot.spiffe_id):
            raise CacheError(f"it is {held.snapshot.spiffe_id}'s, and the token of this agent is another account's")
        return held


def examine(content: bytes, roots: Roots, now: float, ca: str = "") -> Held:
    """Give what `render` made this content from, if it can be served at `now`. Raises CacheError or AnswerError."""
    parts, renew_at = _parse(content, ca)
    snapshot = accept_held(parts["chain"], parts["bundle"], parts["key"], roots_pem=pem_of(roots), now=now)
    return Held(snapshot, renew_at)


def why_not(error: CacheError | AnswerError | MachineError) -> Mapping[str, str]:
    """Say for the log why a cache is not used."""
    if isinstance(error, CacheError):
        return {"reason": "cache", "seen": str(error)}
    return {"reason": error.reason if isinstance(error, AnswerError) else "cache", "seen": error.seen}


def render(held: Held, ca: str = "") -> bytes:
    """Give the file's content. `ca` says whose answer it is."""
    parts = {
        "chain": held.snapshot.chain_pem.decode("ascii"),
        "bundle": held.snapshot.bundle_pem.decode("ascii"),
        "key": held.snapshot.key_pem.decode("ascii"),
        "ca": ca,
    }
    document = {"version": VERSION, **parts, "renew_at": held.renew_at, "sha256": _digest(parts, held.renew_at)}
    return (json.dumps(document, indent=1) + "\n").encode("ascii")


def _digest(parts: dict[str, str], renew_at: float) -> str:
    """Tells a content that was cut or garbled; it proves nothing about who wrote it."""
    return hashlib.sha256(json.dumps([parts[name] for name in _PARTS] + [renew_at]).encode()).hexdigest()


def _parse(content: bytes, ca: str = "") -> tuple[dict[str, bytes], float]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        # Not chained: the error carries the document, and the document holds a key.
        raise CacheError("it is no JSON document: cut short or garbled") from None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise CacheError(f"it is not in the form of version {VERSION}")
    parts = {name: document.get(name) for name in _PARTS}
    renew_at = document.get("renew_at")
    texts = {name: value for name, value in parts.items() if isinstance(value, str) and value.isascii()}
    if texts.keys() != parts.keys() or not isinstance(renew_at, (int, float)) or not math.isfinite(renew_at):
        raise CacheError("a part of it is missing or of another kind")
    if document.get("sha256") != _digest(texts, renew_at):
        raise CacheError("its digest is not that of its content")
    if texts["ca"] != ca:
        raise CacheError("it is of another CA, or of another cluster's, than this agent is told to ask")
    return {name: value.encode("ascii") for name, value in texts.items()}, renew_at
