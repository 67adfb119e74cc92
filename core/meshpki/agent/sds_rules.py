"""What the methods of secret discovery have in common: bounds, the type they serve, and what they say in the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from google.protobuf.any_pb2 import Any as AnyMessage

from meshpki.errors import RefusedError
from meshpki.wire.methods import SECRET_TYPE_URL

if TYPE_CHECKING:
    from collections.abc import Collection

    from meshpki.agent.resources import Resource, Resources
    from meshpki.wire.sds_pb2 import Status

log = logging.getLogger(__name__)

WILDCARD: Final = "*"
MAX_NAMES: Final = 256
"""Of one stream. Envoy asks for one or two, an Istio gateway for two a host."""
MAX_NAME_BYTES: Final = 8 * 1024 + 16
"""Two of the longest paths of Linux with `file-cert:` before them, or a SPIFFE ID (2,048)."""
MAX_LOGGED: Final = 200


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


_NOTHING: Final[frozenset[str]] = frozenset()


class Finder:
    """Looks names up for one stream, and says once of each unknown one that it is."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told = _NOTHING

    def find(self, resources: Resources, name: str) -> Resource | None:
        """Give the resource; None for a name that we do not have, which is no error: it may appear later."""
        resource = resources.by_name.get(name)
        if resource is None and name not in self._told and len(self._told) < MAX_NAMES:
            self._told |= {name}
            log.warning(
                "a client asks for a secret that this workload does not have; it is sent if it appears",
                extra={"secret": name[:MAX_LOGGED], "has": sorted(resources.by_name)},
            )
        return resource


def log_rejection(error: Status, version: str) -> None:
    """Say that the client sent a NACK. What it said is cut short; what it was sent is not repeated."""
    log.error(
        "Envoy rejected what it was sent, and keeps what it had; the next certificate is sent when there is one",
        extra={"version": version, "code": error.code, "said": error.message[:MAX_LOGGED]},
    )
