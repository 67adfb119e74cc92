"""What can go wrong with an API server: each error says what was seen, what was wanted, and what to do."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum

from meshpki.errors import MeshpkiError, UnavailableError


class Unreachable(StrEnum):
    """Why no HTTP answer came."""

    NAME = "name"
    """The host's name is not known."""
    REFUSED = "refused"
    TIMEOUT = "timeout"
    TLS_CA = "tls_ca"
    """The server's certificate is by an authority that we were not told to believe."""
    TLS_NAME = "tls_name"
    """The server's certificate is for another name."""
    TLS_TIME = "tls_time"
    """The server's certificate is expired or not valid yet; or our clock is wrong."""
    TLS_CLIENT = "tls_client"
    """The server did not like our client certificate."""
    NO_TLS = "no_tls"
    """Something answered, but not in TLS."""
    CUT = "cut"
    """The connection was closed before the answer was complete."""
    OTHER = "other"


class KubeError(MeshpkiError):
    """Anything that a Kubernetes API server, or the way to it, does not give."""


class KubeCredentialError(KubeError):
    """Our own credential cannot be had: a token file that is gone, a plugin that failed, a key that does not fit."""


class KubeUnreachableError(KubeError, UnavailableError):
    """No HTTP answer. The same request may succeed later; `why` tells what stood in the way."""

    def __init__(self, seen: str, *, why: Unreachable, wanted: str = "", todo: str = "") -> None:
        super().__init__(seen, wanted=wanted, todo=todo)
        self.why = why


class KubeStatusError(KubeError):
    """An HTTP answer that is not what was asked for; `status` is its code."""

    def __init__(self, seen: str, *, status: int, wanted: str = "", todo: str = "") -> None:
        super().__init__(seen, wanted=wanted, todo=todo)
        self.status = status


class KubeThrottledError(KubeStatusError, UnavailableError):
    """429: the server sheds load, and did so until our patience ended."""


class KubeServerError(KubeStatusError, UnavailableError):
    """5xx: the server, or something behind it, is broken or away."""


class KubeUnauthorizedError(KubeStatusError):
    """401: the server does not know us by our credential."""


class KubeForbiddenError(KubeStatusError):
    """403: the server knows us, and we may not."""

    def __init__(self, seen: str, *, permission: Permission, wanted: str = "", todo: str = "") -> None:
        super().__init__(seen, status=403, wanted=wanted, todo=todo)
        self.permission = permission


class KubeNotFoundError(KubeStatusError):
    """404: the object is not there, or the server has no such API."""


@dataclass(frozen=True, slots=True)
class FieldConflict:
    """A field that somebody else owns (server-side apply)."""

    manager: str
    field: str


class KubeConflictError(KubeStatusError):
    """409: the object exists already, was changed meanwhile, or fields of it belong to another manager."""

    def __init__(
        self, seen: str, *, conflicts: tuple[FieldConflict, ...] = (), wanted: str = "", todo: str = ""
    ) -> None:
        super().__init__(seen, status=409, wanted=wanted, todo=todo)
        self.conflicts = conflicts


class KubeGoneError(KubeStatusError):
    """410: that resource version is too old; list again."""


class KubeInvalidError(KubeStatusError):
    """400 or 422: the server understood the request, and the object breaks its rules."""


class KubeUnsupportedError(KubeStatusError):
    """405, 406 or 415: this server is too old for the request."""


class KubeAnswerError(KubeError):
    """An answer that cannot be read: not JSON, another shape, too large, a redirect."""


@dataclass(frozen=True, slots=True)
class Permission:
    """What one request needs, as RBAC names it. It follows from our own request, never from an answer."""

    verb: str
    resource: str = ""
    """With its subresource: `serviceaccounts/token`. Empty: a path outside the resources, in `path`."""
    group: str = ""
    namespace: str = ""
    """Empty: needed cluster-wide."""
    name: str = ""
    path: str = ""

    def __str__(self) -> str:
        if not self.resource:
            return f"{self.verb} {self.path}"
        what = f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")
        return what + (f" in namespace {self.namespace}" if self.namespace else "")

    def rule(self) -> str:
        """The rule of a Role or ClusterRole that allows it, in YAML's flow style."""
        if not self.resource:
            return f'{{nonResourceURLs: ["{self.path}"], verbs: ["{self.verb}"]}}'
        return f'{{apiGroups: ["{self.group}"], resources: ["{self.resource}"], verbs: ["{self.verb}"]}}'

    def kind(self) -> str:
        """The kind of role that such a rule belongs into."""
        return f"Role in namespace {self.namespace}" if self.namespace else "ClusterRole"

    def question(self, subject: str) -> str:
        """The kubectl command that asks whether `subject` may."""
        if not self.resource:
            return f"kubectl auth can-i {self.verb} {self.path} --as {shlex.quote(subject)}"
        resource, _, sub = self.resource.partition("/")
        words = f"kubectl auth can-i {self.verb} {resource}" + (f".{self.group}" if self.group else "")
        words += f" --subresource={sub}" if sub else ""
        words += f" -n {self.namespace}" if self.namespace else " -A"
        return f"{words} --as {shlex.quote(subject)}"
