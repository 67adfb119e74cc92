"""What the methods of secret discovery have in common: bounds, the type they serve, and what is worth a remark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from google.protobuf.any_pb2 import Any as AnyMessage

from meshpki.errors import RefusedError
from meshpki.wire.methods import SECRET_TYPE_URL

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from meshpki.agent.sds.resources import Resource, Resources
    from meshpki.wire.sds_pb2 import Status

WILDCARD: Final = "*"
MAX_NAMES: Final = 256
"""Of one stream. Envoy asks for one or two, an Istio gateway for two a host."""
MAX_NAME_BYTES: Final = 8 * 1024 + 16
"""Two of the longest paths of Linux with `file-cert:` before them, or a SPIFFE ID (2,048)."""
MAX_LOGGED: Final = 200
MAX_LISTED: Final = 16


def check_type(type_url: str) -> None:
    """Raise RefusedError for a type that is not a secret's; none at all is taken for ours."""
    if type_url not in {"", SECRET_TYPE_URL}:
        raise RefusedError(f"type URL {type_url[:MAX_LOGGED]!r}", wanted=SECRET_TYPE_URL)


def check_names(names: Collection[str]) -> None:
    """Raise RefusedError when a stream's names are too many or one of them too long to be kept in mind."""
    if len(names) > MAX_NAMES:
        raise RefusedError(f"{len(names)} names on one stream", wanted=f"at most {MAX_NAMES}")
    longest = max((len(name) for name in names), default=0)
    if longest > MAX_NAME_BYTES:
        raise RefusedError(f"a name of {longest} characters", wanted=f"at most {MAX_NAME_BYTES}")


def as_any(resource: Resource) -> AnyMessage:
    """Give a secret as it stands in a response."""
    return AnyMessage(type_url=SECRET_TYPE_URL, value=resource.body)


class Say(Protocol):
    """Says a remark in the log, or counts it: a client can cause one as often as it likes, see `Repeats`."""

    def __call__(self, kind: str, extra: Mapping[str, object]) -> None:
        """`kind`: what makes it another remark than the one before."""
        ...


def _silence(kind: str, extra: Mapping[str, object]) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Remarks:
    """What is worth a line in the log about a client."""

    unknown: Say = _silence
    """It names a secret that there is not."""
    rejected: Say = _silence
    """It sent a NACK."""


UNSAID: Final = Remarks()
_NOTHING: Final[frozenset[str]] = frozenset()


class Finder:
    """Looks names up for one stream, and remarks once on each unknown one."""

    __slots__ = ("_remarks", "_told")

    def __init__(self, remarks: Remarks) -> None:
        self._remarks = remarks
        self._told = _NOTHING

    def find(self, resources: Resources, name: str) -> Resource | None:
        """Give the resource; None for a name that we do not have, which is no error: it may appear later."""
        resource = resources.by_name.get(name)
        if resource is None and name not in self._told:
            # Who goes through more names than a stream may have at a time is told of some of them twice.
            self._told = (self._told if len(self._told) < MAX_NAMES else _NOTHING) | {name}
            has = [known[:MAX_LOGGED] for known in sorted(resources.by_name)[:MAX_LISTED]]
            self._remarks.unknown(name[:MAX_LOGGED], {"secret": name[:MAX_LOGGED], "has": has})
        return resource


def remark_rejection(remarks: Remarks, error: Status, version: str) -> None:
    """Remark that the client sent a NACK. What it said is cut short; what it was sent is not repeated."""
    said = error.message[:MAX_LOGGED]
    remarks.rejected(f"{error.code} {said}", {"version": version, "code": error.code, "said": said})
