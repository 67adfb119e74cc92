"""One DeltaSecrets stream as pure logic: a request or a new snapshot comes in, at most one response goes out.

The rules are those of the xDS protocol, incremental variant (envoy, docs/root/api-docs/xds_protocol.rst).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.agent.sds.rules import UNSAID, WILDCARD, Finder, as_any, check_names, check_type, remark_rejection
from meshpki.wire.methods import SECRET_TYPE_URL
from meshpki.wire.sds_pb2 import DeltaDiscoveryResponse
from meshpki.wire.sds_pb2 import Resource as WireResource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meshpki.agent.sds.resources import Resources
    from meshpki.agent.sds.rules import Remarks
    from meshpki.wire.sds_pb2 import DeltaDiscoveryRequest

Told = dict[str, str | None]
"""What a client was told last of each name: a version, or None for "there is no such thing"."""


class DeltaStream:
    """The state of one stream: what its client wants, and what it was told last of each name.

    What has gone out counts as told, whatever the client thinks of it: a NACK is never answered with the same
    content, not even to a client that subscribes anew in the very NACK (istio#21111).
    """

    def __init__(self, resources: Resources, remarks: Remarks = UNSAID) -> None:
        self._resources = resources
        self._names: dict[str, None] = {}  # a set that keeps its order
        self._wildcard = False
        self._asked = False
        self._told: Told = {}
        self._last: frozenset[str] = frozenset()  # names in the last response: a NACK rejects just that
        self._nonce = 0
        self._remarks = remarks
        self._finder = Finder(remarks)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the client subscribes to now, without the wildcard."""
        return tuple(self._names)

    def request(self, request: DeltaDiscoveryRequest) -> DeltaDiscoveryResponse | None:
        """Take a request: subscribe, unsubscribe, ACK or NACK; a stale nonce changes nothing of that. Raises
        RefusedError for a type that is not a secret's, or names without end.
        """
        check_type(request.type_url)
        if not self._asked:
            return self._respond(self._first(request))
        rejected = self._rejected(request)
        if request.HasField("error_detail"):
            remark_rejection(self._remarks, request.error_detail, self._resources.version)
        owed = self._unsubscribe(request.resource_names_unsubscribe)
        owed |= self._subscribe(request.resource_names_subscribe)
        return self._respond(owed - rejected)

    def update(self, resources: Resources) -> DeltaDiscoveryResponse | None:
        """Take a new snapshot's resources: whatever is wanted and changed, or is there no more, goes out."""
        self._resources = resources
        return self._respond(set())

    def _first(self, request: DeltaDiscoveryRequest) -> set[str]:
        """Begin, or go on where the client's last stream ended: what it already has is not sent again."""
        self._asked = True
        subscribe = request.resource_names_subscribe
        self._wildcard = not subscribe and not request.resource_names_unsubscribe  # from before there was a `*`
        self._subscribe(subscribe)
        self._told = self._still_held(request.initial_resource_versions)
        return set()

    def _still_held(self, versions: Mapping[str, str]) -> Told:
        """With a wildcard, what the client has and we do not is to be removed: so all of it is remembered."""
        check_names(versions)
        return {name: version for name, version in versions.items() if self._wildcard or name in self._names}

    def _rejected(self, request: DeltaDiscoveryRequest) -> frozenset[str]:
        """What this NACK, if it is one and of the last response, rejects and keeps: asking again is no reason."""
        if not request.HasField("error_detail") or request.response_nonce != str(self._nonce):
            return frozenset()
        return self._last - set(request.resource_names_unsubscribe)

    def _subscribe(self, names: Iterable[str]) -> set[str]:
        """Take names in; gives those to be answered in any case, for a client may have forgotten what it had."""
        wanted = tuple(dict.fromkeys(names))
        explicit = [name for name in wanted if name != WILDCARD]
        check_names({*self._names, *explicit})
        self._names |= dict.fromkeys(explicit)
        if WILDCARD not in wanted:
            return set(explicit)
        self._wildcard = True
        return {*explicit, *self._resources.everything}

    def _unsubscribe(self, names: Iterable[str]) -> set[str]:
        """Take names out and forget what was told of them; gives those that must be answered nevertheless.

        Who leaves a name but keeps the wildcard cannot know whether the wildcard holds the name too: told again, or
        told that it is gone.
        """
        leaving = dict.fromkeys(names)
        if WILDCARD in leaving:
            self._wildcard = False
        left = {name for name in leaving if name in self._names}
        self._names = {name: None for name in self._names if name not in left}
        if self._wildcard:
            return left
        self._told = {name: version for name, version in self._told.items() if name in self._names}
        return set()

    def _subscribed(self) -> dict[str, None]:
        return self._names | dict.fromkeys(self._resources.everything if self._wildcard else ())

    def _respond(self, owed: set[str]) -> DeltaDiscoveryResponse | None:
        """Say what differs from what was told last, and everything that is owed."""
        subscribed = self._subscribed()
        now = {name: self._finder.find(self._resources, name) for name in subscribed}
        versions: Told = {name: resource.version if resource else None for name, resource in now.items()}
        # What is subscribed no more but was told (the wildcard has lost it) is as good as gone.
        versions |= {name: None for name in self._told if name not in subscribed}
        said = {
            name: version
            for name, version in versions.items()
            if name in owed or self._told.get(name, "") != version  # no version is empty
        }
        self._told = {name: version for name, version in versions.items() if name in subscribed}
        if not said:
            return None
        self._last = frozenset(said)
        self._nonce += 1
        return DeltaDiscoveryResponse(
            system_version_info=self._resources.version,
            resources=[
                WireResource(name=name, version=resource.version, resource=as_any(resource))
                for name, resource in now.items()
                if name in said and resource is not None
            ],
            removed_resources=[name for name, version in said.items() if version is None],
            type_url=SECRET_TYPE_URL,
            nonce=str(self._nonce),
        )
