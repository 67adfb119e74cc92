"""A Kubernetes service account by name: the pair that identity is built from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from meshpki.errors import InvalidValueError

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII)
MAX_SUBDOMAIN = 253
SUBJECT_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True, slots=True, order=True)
class ServiceAccountRef:
    """Namespace and name of a service account, both valid by Kubernetes' own rules.

    A namespace is a DNS label (RFC 1123, at most 63 characters); a service account name is a DNS subdomain
    (at most 253 characters).
    """

    namespace: str
    name: str

    def __post_init__(self) -> None:
        """Raise InvalidValueError for a name that Kubernetes could not have issued."""
        if not _LABEL.fullmatch(self.namespace):
            raise InvalidValueError(
                f"namespace {self.namespace[:80]!r}",
                wanted="a DNS label: a-z, 0-9 and '-', 1 to 63 characters, no '-' at the ends",
            )
        if len(self.name) > MAX_SUBDOMAIN or not _SUBDOMAIN.fullmatch(self.name):
            raise InvalidValueError(
                f"service account name {self.name[:80]!r}",
                wanted="a DNS subdomain: a-z, 0-9, '-' and '.', 1 to 253 characters",
            )

    @classmethod
    def parse(cls, text: str) -> ServiceAccountRef:
        """Read `NAMESPACE/NAME`, the way an operator writes it. Raises InvalidValueError."""
        namespace, slash, name = text.partition("/")
        if not slash:
            raise InvalidValueError(f"service account {text[:80]!r}", wanted="NAMESPACE/NAME, for example default/web")
        return cls(namespace, name)

    @classmethod
    def from_subject(cls, subject: str) -> ServiceAccountRef:
        """Read a token's `sub`: exactly `system:serviceaccount:<namespace>:<name>`. Raises InvalidValueError."""
        parts = subject.split(":")
        if len(parts) != 4 or not subject.startswith(SUBJECT_PREFIX):
            raise InvalidValueError(
                f"subject {subject[:120]!r}", wanted=f"{SUBJECT_PREFIX}<namespace>:<service account>"
            )
        return cls(parts[2], parts[3])

    @property
    def subject(self) -> str:
        """The name the API server gives this account: `system:serviceaccount:<namespace>:<name>`."""
        return f"{SUBJECT_PREFIX}{self.namespace}:{self.name}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
