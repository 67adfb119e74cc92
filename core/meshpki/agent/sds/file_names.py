"""Istio's names of secrets that lie in files: `file-cert:<cert>~<key>`, `file-root:<ca>`, `file-root:system`."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, TypeAlias

from meshpki.errors import InvalidValueError

CERTIFICATE: Final = "file-cert:"
ROOTS: Final = "file-root:"
SYSTEM: Final = "file-root:system"
"""The operating system's own bundle of public CAs."""
MAX_PATH_BYTES: Final = 4095
_SEPARATOR: Final = "~"  # istio escapes it nowhere: a path that holds one cannot be named


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A chain and its key, PEM, in two files or in one."""

    certificate: PurePosixPath
    key: PurePosixPath


@dataclass(frozen=True, slots=True)
class RootsFile:
    """Roots, PEM."""

    path: PurePosixPath


@dataclass(frozen=True, slots=True)
class SystemRoots:
    """Wherever this operating system has them."""


FileName: TypeAlias = CertificateFiles | RootsFile | SystemRoots


def is_file_name(name: str) -> bool:
    """Whether a secret's name speaks of files at all."""
    return name.startswith((CERTIFICATE, ROOTS))


def parse(name: str) -> FileName:
    """Read a name. Raises InvalidValueError, so also for a path that could be spelt shorter: one file, one name."""
    if name == SYSTEM:
        return SystemRoots()
    if name.startswith(ROOTS):
        return RootsFile(_path(name.removeprefix(ROOTS), name))
    parts = name.removeprefix(CERTIFICATE).split(_SEPARATOR)
    if not name.startswith(CERTIFICATE) or len(parts) != 2:
        raise _invalid(name, "file-cert:<certificate>~<key>, file-root:<roots> or file-root:system")
    return CertificateFiles(_path(parts[0], name), _path(parts[1], name))


def _path(text: str, name: str) -> PurePosixPath:
    if _SEPARATOR in text or "\0" in text or len(text.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise _invalid(name, "paths of ordinary characters and length, without ~")
    if not text.startswith("/") or text != posixpath.normpath(text) or text.startswith("//"):
        raise _invalid(name, "absolute paths, without '.', '..', or a slash too many")
    return PurePosixPath(text)


def _invalid(name: str, wanted: str) -> InvalidValueError:
    return InvalidValueError(f"secret name {name[:200]!r}", wanted=wanted)
