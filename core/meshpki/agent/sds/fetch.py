"""FetchSecrets as pure logic: one request, one response with all of it that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.agent.sds.rules import UNSAID, WILDCARD, Finder, as_any, check_names, check_type
from meshpki.wire.methods import SECRET_TYPE_URL
from meshpki.wire.sds_pb2 import DiscoveryResponse

if TYPE_CHECKING:
    from meshpki.agent.sds.resources import Resources
    from meshpki.agent.sds.rules import Remarks
    from meshpki.wire.sds_pb2 import DiscoveryRequest


def fetch(request: DiscoveryRequest, resources: Resources, remarks: Remarks = UNSAID) -> DiscoveryResponse:
    """Answer with every name that we have; an unknown one is left out. No names, or `*`, mean everything.

    The answer is full even if `version_info` is the present version: REST has a 304 for that, gRPC has no word for
    it, and an empty response would read as "there are none". There is no nonce, for nobody acknowledges.
    Raises RefusedError for a type that is not a secret's, or names without end.
    """
    check_type(request.type_url)
    names = dict.fromkeys(request.resource_names)
    check_names(names)
    every = resources.everything if not names or WILDCARD in names else ()
    finder = Finder(remarks)
    wanted = dict.fromkeys([*(name for name in names if name != WILDCARD), *every])
    found = [finder.find(resources, name) for name in wanted]
    return DiscoveryResponse(
        version_info=resources.version,
        resources=[as_any(resource) for resource in found if resource is not None],
        type_url=SECRET_TYPE_URL,
    )
