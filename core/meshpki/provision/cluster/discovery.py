"""Rung 2: whether the API server says that it serves TokenRequest, where kubelets and istioctl look for it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.provision.cluster import version
from meshpki.provision.cluster.evidence import objects, text, texts
from meshpki.provision.cluster.permission import DISCOVERY
from meshpki.provision.cluster.verdict import Answer, Reason, Rung, Verdict, could_not_tell

if TYPE_CHECKING:
    from meshpki.provision.cluster.evidence import Exchange, Members
    from meshpki.provision.cluster.version import Release

PATH: Final = "/api/v1"
_NAME: Final = "serviceaccounts/token"


@dataclass(frozen=True, slots=True)
class CoreResources:
    """What of /api/v1 matters. A subresource: `kubectl api-resources` never lists it."""

    token_request: bool
    """`serviceaccounts/token` of kind TokenRequest, group authentication.k8s.io, verb create."""


def read(members: Members) -> CoreResources | None:
    """Read an APIResourceList; None unless it lists service accounts, which every API server has."""
    if text(members, "kind") != "APIResourceList":
        return None
    resources = objects(members, "resources")
    if "serviceaccounts" not in [text(one, "name") for one in resources]:
        return None
    return CoreResources(any(_is_token_request(one) for one in resources))


def _is_token_request(resource: Members) -> bool:
    return (
        text(resource, "name") == _NAME
        and text(resource, "kind") == "TokenRequest"
        and text(resource, "group") == "authentication.k8s.io"
        and "create" in texts(resource, "verbs")
    )


def judge(seen: Exchange[CoreResources], release: Release | None) -> Verdict:
    """Whether TokenRequest is served. `release` tells which way out there is where it is not."""
    if seen.found is None:
        return could_not_tell(Rung.TOKEN_REQUEST, seen, DISCOVERY)
    if seen.found.token_request:
        text = f"{PATH} lists {_NAME}"
        return Verdict(Rung.TOKEN_REQUEST, Answer.YES, Reason.SERVED, text, evidence=(seen,))
    text = f"{PATH} does not list {_NAME}"
    if release is not None and release < version.REQUIRED_ISSUER:
        text += ": this cluster has legacy tokens only, without audience or expiry"
    return Verdict(Rung.TOKEN_REQUEST, Answer.NO, Reason.NOT_SERVED, text, how_to_serve(release), (seen,))


def how_to_serve(release: Release | None) -> str:
    """What makes an API server of that release serve TokenRequest."""
    if release is not None and release >= version.REQUIRED_ISSUER:
        return (
            f"ask the vendor: since {version.REQUIRED_ISSUER} every API server serves it, so a proxy or a patch hides "
            "it; or say --fallback file-mount"
        )
    return (
        "start every API server with --service-account-issuer=https://..., --service-account-signing-key-file and "
        "--api-audiences (never with the mesh's audience among them); where the provider does not, "
        "say --fallback file-mount"
    )
