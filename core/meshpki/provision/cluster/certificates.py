"""Rung 8: whether pods can ask for certificates by themselves: PodCertificateRequest and ClusterTrustBundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.provision.cluster import version
from meshpki.provision.cluster.evidence import Outcome, objects, text
from meshpki.provision.cluster.permission import CERTIFICATES
from meshpki.provision.cluster.verdict import Answer, Reason, Rung, Verdict, could_not_tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.provision.cluster.evidence import Exchange, Members
    from meshpki.provision.cluster.version import VersionSeen

GROUP: Final = "/apis/certificates.k8s.io"
VERSIONS: Final = ("v1", "v1beta1")
_WANTED: Final = frozenset({"podcertificaterequests", "clustertrustbundles"})


@dataclass(frozen=True, slots=True)
class CertificateResources:
    """What of one version of the group matters."""

    version: str
    kinds: tuple[str, ...]
    """Those of the two that it serves, sorted."""

    @property
    def both(self) -> bool:
        """Whether it serves both."""
        return set(self.kinds) == _WANTED


def read(members: Members) -> CertificateResources | None:
    """Read an APIResourceList of the group."""
    if text(members, "kind") != "APIResourceList":
        return None
    names = {text(one, "name") for one in objects(members, "resources")}
    return CertificateResources(text(members, "groupVersion").rpartition("/")[2], tuple(sorted(names & _WANTED)))


def judge(seen: Sequence[Exchange[CertificateResources]], server: VersionSeen | None) -> Verdict:
    """Whether both kinds are served as v1. A beta, whose fields differed between 1.35 and 1.36, is none to build on."""
    evidence = tuple(seen)
    found = [one.found for one in seen if one.found is not None]
    if any(one.version == "v1" and one.both for one in found):
        text = "PodCertificateRequest and ClusterTrustBundle are served as v1"
        return Verdict(Rung.CERTIFICATES, Answer.YES, Reason.STABLE, text, evidence=evidence)
    for one in seen:
        if one.found is None and one.outcome is not Outcome.NOT_FOUND:
            verdict = could_not_tell(Rung.CERTIFICATES, one, CERTIFICATES)
            return Verdict(verdict.rung, verdict.answer, verdict.reason, verdict.seen, verdict.todo, evidence)
    if any(one.version != "v1" and one.both for one in found):
        text = "PodCertificateRequest and ClusterTrustBundle are served as a beta, which changes between releases"
        return Verdict(Rung.CERTIFICATES, Answer.NO, Reason.BETA, text, _way_up(server), evidence)
    some = sorted({kind for one in found for kind in one.kinds})
    text = "PodCertificateRequest and ClusterTrustBundle do not exist here"
    if len(some) == 1:
        text = f"of the two that it takes only {some[0]} is served"
    return Verdict(Rung.CERTIFICATES, Answer.NO, Reason.NOT_SERVED, text, _way_up(server), evidence)


def _way_up(server: VersionSeen | None) -> str:
    """What an API server of that version lacks to serve both kinds as v1."""
    needed = version.POD_CERTIFICATES
    if server is None or server.release is None or server.release < needed:
        return f"upgrade to {needed} or later"
    if server.features is not None and server.features < needed:
        return (
            f"end the emulation of {server.features} (--emulated-version) on every API server, once the upgrade to "
            f"{server.release} need not be taken back"
        )
    return f"see why this {server.release} does not serve certificates.k8s.io/v1 (--runtime-config, --feature-gates)"
