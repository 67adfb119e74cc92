"""One StreamSecrets stream as pure logic: a request or a new snapshot comes in, at most one response goes out.

The rules are those of the xDS protocol, state of the world (envoy, docs/root/api-docs/xds_protocol.rst). The other
two methods of the service stand beside this one over the same `Resources`: `sds_delta` and `sds_fetch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.agent.sds.rules import UNSAID, WILDCARD, Finder, as_any, check_names, check_type, remark_rejection
from meshpki.wire.methods import SECRET_TYPE_URL
from meshpki.wire.sds_pb2 import DiscoveryResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshpki.agent.sds.resources import Resources
    from meshpki.agent.sds.rules import Remarks
    from meshpki.wire.sds_pb2 import DiscoveryRequest


class SdsStream:
    """The state of one stream: what its client wants, and which version of each secret it was sent last.

    A secret counts as sent once it has gone out, whatever the client thinks of it: a NACK is therefore never
    answered with the same content, but with the next version as soon as there is one (istio#21111).
    """

    __slots__ = ("_asked", "_finder", "_named", "_names", "_nonce", "_remarks", "_resources", "_sent", "_wildcard")

    def __init__(self, resources: Resources, remarks: Remarks = UNSAID) -> None:
        self._resources = resources
        self._names: tuple[str, ...] = ()
        self._wildcard = True  # in force until a request names something
        self._named = False
        self._asked = False
        self._sent: dict[str, str] = {}
        self._nonce = 0
        self._remarks = remarks
        self._finder = Finder(remarks)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the client subscribes to now, without the wildcard."""
        return self._names

    def request(self, request: DiscoveryRequest) -> DiscoveryResponse | None:
        """Take a request: subscribe, ACK or NACK. Raises RefusedError for a type that is not a secret's, or names
        without end.
        """
        check_type(request.type_url)
        if self._is_stale(request):
            return None
        if request.HasField("error_detail"):  # the mark of a NACK; versions tell nothing for this type
            remark_rejection(self._remarks, request.error_detail, self._resources.version)
        self._subscribe(request.resource_names)
        return self._respond()

    def update(self, resources: Resources) -> DiscoveryResponse | None:
        """Take a new snapshot's resources: whatever is wanted and changed goes out."""
        self._resources = resources
        return self._respond() if self._asked else None

    def _is_stale(self, request: DiscoveryRequest) -> bool:
        """A request that was on its way when the last response went out; another one follows it.

        Where nothing has been sent yet, a nonce is left over from another stream, and says nothing about this one.
        """
        return bool(self._nonce and request.response_nonce) and request.response_nonce != str(self._nonce)

    def _subscribe(self, names: Iterable[str]) -> None:
        wanted = tuple(dict.fromkeys(names))
        check_names(wanted)
        # An empty list means everything, but only as long as the client has never named anything, `*` included.
        self._named = self._named or bool(wanted)
        self._wildcard = WILDCARD in wanted or not self._named
        self._asked = True
        self._names = tuple(name for name in wanted if name != WILDCARD)
        subscribed = self._subscribed()
        # Who unsubscribes has dropped the secret, and gets it anew when asking again.
        self._sent = {name: version for name, version in self._sent.items() if name in subscribed}

    def _subscribed(self) -> tuple[str, ...]:
        every = self._resources.everything if self._wildcard else ()
        return tuple(dict.fromkeys((*self._names, *every)))

    def _respond(self) -> DiscoveryResponse | None:
        found = [self._finder.find(self._resources, name) for name in self._subscribed()]
        changed = [
            resource for resource in found if resource is not None and self._sent.get(resource.name) != resource.version
        ]
        if not changed:
            return None
        self._sent |= {resource.name: resource.version for resource in changed}
        self._nonce += 1
        return DiscoveryResponse(
            version_info=self._resources.version,
            resources=[as_any(resource) for resource in changed],
            type_url=SECRET_TYPE_URL,
            nonce=str(self._nonce),
        )
