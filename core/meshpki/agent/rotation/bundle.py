"""The trust bundle that is served: the configured roots, and those that came with the CA's last accepted answer.

Pure: certificates and events come in, a bundle comes out. The configured file has the last word when it changes: a
root that leaves it leaves the bundle at once, even if the last answer had it too. A later answer may bring it again,
for that is the CA's newer word.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.hazmat.primitives.serialization import Encoding

from meshpki.agent.rotation.certificates import load_certificates
from meshpki.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_ROOTS: Final = 200
"""More than any operating system's bundle."""
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_WIDTH: Final = 64

Roots: TypeAlias = "tuple[bytes, ...]"
"""Certificates as DER, each once, in the order of their digests: the same set is always the same bytes."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one identity's faces serve as roots. `sequence` counts the changes since the agent began, from 1."""

    configured: Roots = ()
    answered: Roots = ()
    sequence: int = 0

    @property
    def roots(self) -> Roots:
        """Everything that is served."""
        return _ordered((*self.configured, *self.answered))

    @property
    def pem(self) -> bytes:
        """The same as PEM, one certificate after the other."""
        return pem_of(self.roots)

    @property
    def digest(self) -> str:
        """SHA-256 in hex over the DER of all roots in order: equal wherever the same roots are served."""
        return hashlib.sha256(b"".join(self.roots)).hexdigest()

    def with_configured(self, roots: Roots) -> Bundle:
        """Take a new content of the configured file."""
        withdrawn = set(self.configured) - set(roots)
        left = tuple(root for root in self.answered if root not in withdrawn)
        return self._changed(replace(self, configured=roots, answered=left))

    def with_answer(self, roots: Roots) -> Bundle:
        """Take the roots of an accepted answer in place of the answer's before it."""
        return self._changed(replace(self, answered=roots))

    def _changed(self, after: Bundle) -> Bundle:
        return replace(after, sequence=self.sequence + 1) if after.roots != self.roots else after


_SHARED: Final = 16
"""A node's identities have the same roots, in a rotation one set and another: each is kept once for all of them."""


@lru_cache(_SHARED)
def read_roots(pem: bytes) -> Roots:
    """Read a file of roots. Raises InvalidValueError when it holds none, or one that is cut short or broken.

    All or nothing: a file that is read while it is being written must not take roots away.
    """
    wanted = pem.count(_BEGIN)
    try:
        found = load_certificates(pem)
    except ValueError as error:
        raise InvalidValueError("the file of roots holds no readable PEM certificates", wanted=WANTED) from error
    if len(found) != wanted or wanted > MAX_ROOTS:
        raise InvalidValueError(
            f"the file of roots begins {wanted} certificates and holds {len(found)} whole ones", wanted=WANTED
        )
    return _ordered(certificate.public_bytes(Encoding.DER) for certificate in found)


WANTED: Final = f"1 to {MAX_ROOTS} PEM certificates, whole"


@lru_cache(_SHARED)
def pem_of(roots: Roots) -> bytes:
    """Spell roots as PEM."""
    return b"".join(map(_pem, roots))


def _ordered(roots: Iterable[bytes]) -> Roots:
    return tuple(sorted(set(roots), key=lambda der: hashlib.sha256(der).digest()))


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = b"".join(text[at : at + _WIDTH] + b"\n" for at in range(0, len(text), _WIDTH))
    return _BEGIN + b"\n" + lines + b"-----END CERTIFICATE-----\n"
