"""The trust domain: the authority part of a SPIFFE ID (SPIFFE-ID section 2.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from meshpki.errors import InvalidValueError

MAX_TRUST_DOMAIN_BYTES = 255
_ALLOWED = re.compile(r"[a-z0-9._-]+", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """An immutable, valid trust domain name such as `cluster.local`. Never normalised: upper case is refused."""

    name: str

    def __post_init__(self) -> None:
        """Raise InvalidValueError unless the name is 1..255 characters of `[a-z0-9._-]`."""
        if not self.name or len(self.name) > MAX_TRUST_DOMAIN_BYTES or not _ALLOWED.fullmatch(self.name):
            raise InvalidValueError(
                f"trust domain {self.name[:80]!r}",
                wanted="1 to 255 characters out of a-z, 0-9, '.', '-' and '_' (SPIFFE-ID 2.1)",
                todo="write it in lower case, without scheme, port, path or percent-encoding",
            )

    def __str__(self) -> str:
        return self.name
