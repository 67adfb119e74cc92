"""One StreamSecrets stream as pure logic: a request or a new snapshot comes in, at most one response goes out.

The rules are those of the xDS protocol, state of the world (envoy, docs/root/api-docs/xds_protocol.rst). The other
two methods of the service, DeltaSecrets and FetchSecrets, will stand beside this one over the same `Resources`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from google.protobuf.any_pb2 import Any as AnyMessage

from meshpki.errors import RefusedError
from meshpki.wire.methods import SECRET_TYPE_URL
from meshpki.wire.sds_pb2 import DiscoveryResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshpki.agent.resources import Resource, Resources
    from meshpki.wire.sds_pb2 import DiscoveryRequest

log = logging.getLogger(__name__)

WILDCARD: Final = "*"
MAX_NAMES: Final = 256
"""Of one stream. Envoy asks for one or two."""
MAX_LOGGED: Final = 200


class SdsStream:
    """The state of one stream: what its client wants, and which version of each secret it was sent last.

    A secret counts as sent once it has gone out, whatever the client thinks of it: a NACK is therefore never
    answered with the same content, but with the next version as soon as there is one (istio#21111).
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._names: tuple[str, ...] = ()
        self._wildcard = False
        self._asked = False
        self._sent: dict[str, str] = {}
        self._nonce = 0
        self._told_unknown: set[str] = set()

    def request(self, request: DiscoveryRequest) -> DiscoveryResponse | None:
        """Take a request: subscribe, ACK or NACK. Raises RefusedError for a type that is not a secret's."""
        if request.type_url not in {"", SECRET_TYPE_URL}:
            raise RefusedError(f"type URL {request.type_url[:MAX_LOGGED]!r}", wanted=SECRET_TYPE_URL)
        if self._is_stale(request):
            return None
        if request.HasField("error_detail"):  # the mark of a NACK; versions tell nothing for this type
            self._log_rejection(request)
        self._subscribe(request.resource_names)
        return self._respond()

    def update(self, resources: Resources) -> DiscoveryResponse | None:
        """Take a new snapshot's resources: whatever is wanted and changed goes out."""
        self._resources = resources
        return self._respond()

    def _is_stale(self, request: DiscoveryRequest) -> bool:
        """A request that was on its way when the last response went out; another one follows it."""
        return bool(request.response_nonce) and request.response_nonce != str(self._nonce)

    def _subscribe(self, names: Iterable[str]) -> None:
        wanted = tuple(names)
        if len(wanted) > MAX_NAMES:
            raise RefusedError(f"{len(wanted)} names in one request", wanted=f"at most {MAX_NAMES}")
        # An empty list means everything, but only as a stream's first; later it means nothing any more.
        self._wildcard = WILDCARD in wanted or (not wanted and (self._wildcard or not self._asked))
        self._asked = True
        self._names = tuple(name for name in wanted if name != WILDCARD)
        subscribed = self._subscribed()
        # Who unsubscribes has dropped the secret, and gets it anew when asking again.
        self._sent = {name: version for name, version in self._sent.items() if name in subscribed}

    def _subscribed(self) -> tuple[str, ...]:
        every = self._resources.everything if self._wildcard else ()
        return tuple(dict.fromkeys((*self._names, *every)))

    def _respond(self) -> DiscoveryResponse | None:
        changed = [resource for name in self._subscribed() if (resource := self._find(name)) is not None]
        changed = [resource for resource in changed if self._sent.get(resource.name) != resource.version]
        if not changed:
            return None
        self._sent |= {resource.name: resource.version for resource in changed}
        self._nonce += 1
        return DiscoveryResponse(
            version_info=self._resources.version,
            resources=[AnyMessage(type_url=SECRET_TYPE_URL, value=resource.body) for resource in changed],
            type_url=SECRET_TYPE_URL,
            nonce=str(self._nonce),
        )

    def _find(self, name: str) -> Resource | None:
        """A name we do not have is no error: the protocol has no word for it, and it may appear later."""
        resource = self._resources.by_name.get(name)
        if resource is None and name not in self._told_unknown and len(self._told_unknown) < MAX_NAMES:
            self._told_unknown.add(name)
            log.warning(
                "a client asks for a secret that this workload does not have; it is sent if it appears",
                extra={"secret": name[:MAX_LOGGED], "has": sorted(self._resources.by_name)},
            )
        return resource

    def _log_rejection(self, request: DiscoveryRequest) -> None:
        log.error(
            "Envoy rejected what it was sent, and keeps what it had; the next certificate is sent when there is one",
            extra={
                "version": self._resources.version,
                "code": request.error_detail.code,
                "said": request.error_detail.message[:MAX_LOGGED],
            },
        )
