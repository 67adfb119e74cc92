"""SPIFFE IDs as immutable values, by the rules of SPIFFE-ID section 2; nothing is ever normalised."""

from __future__ import annotations

import re
from dataclasses import dataclass

from meshpki.errors import InvalidValueError
from meshpki.identity.service_account import ServiceAccountRef
from meshpki.identity.trust_domain import TrustDomain

SCHEME = "spiffe://"
MAX_SPIFFE_ID_BYTES = 2048
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+", re.ASCII)


def _invalid(text: str, wanted: str) -> InvalidValueError:
    return InvalidValueError(f"SPIFFE ID {text[:120]!r}", wanted=wanted)


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A trust domain and a path; `str()` gives the URI. The path is empty for a trust domain's own ID."""

    trust_domain: TrustDomain
    segments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise InvalidValueError for a segment that is empty, `.`, `..`, or holds another character."""
        for segment in self.segments:
            if segment in {".", ".."} or not _SEGMENT.fullmatch(segment):
                raise _invalid(segment, "path segments of a-z, A-Z, 0-9, '.', '-', '_'; not empty, '.' or '..'")
        if len(str(self)) > MAX_SPIFFE_ID_BYTES:
            raise _invalid(str(self), f"at most {MAX_SPIFFE_ID_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Read a SPIFFE ID as a URI. Raises InvalidValueError.

        The standard lets scheme and trust domain be read case-insensitively; we refuse upper case, because two
        spellings of one identity are two chances to be wrong.
        """
        if len(text) > MAX_SPIFFE_ID_BYTES:
            raise _invalid(text, f"at most {MAX_SPIFFE_ID_BYTES} bytes")
        if not text.startswith(SCHEME):
            raise _invalid(text, "a URI that begins with spiffe:// in lower case")
        authority, slash, path = text[len(SCHEME) :].partition("/")
        if slash and not path:
            raise _invalid(text, "no slash at the end")
        return cls(TrustDomain(authority), tuple(path.split("/")) if slash else ())

    @classmethod
    def for_service_account(cls, trust_domain: TrustDomain, account: ServiceAccountRef) -> SpiffeId:
        """Build Istio's form: `spiffe://<trust domain>/ns/<namespace>/sa/<name>`."""
        return cls(trust_domain, ("ns", account.namespace, "sa", account.name))

    @property
    def path(self) -> str:
        """The path with its leading slash, or the empty string."""
        return "/" + "/".join(self.segments) if self.segments else ""

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain.name}{self.path}"
