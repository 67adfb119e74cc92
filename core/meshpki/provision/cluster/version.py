"""Rung 1: which Kubernetes this is, whatever its vendor appends to the number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.provision.cluster.evidence import text
from meshpki.provision.cluster.permission import VERSION
from meshpki.provision.cluster.verdict import Answer, Reason, Rung, Verdict, could_not_tell

if TYPE_CHECKING:
    from meshpki.provision.cluster.evidence import Exchange, Members

PATH: Final = "/version"
_GIT: Final = re.compile(r"v?(\d{1,3})\.(\d{1,4})(?:\.(\d{1,4}))?(?![\d.])(.*)")
_MINOR: Final = re.compile(r"(\d{1,4})\D*")
"""`21+` on EKS and old GKE, where the plus stands for the vendor's own patches."""
_VENDORS: Final = (
    ("gke", "-gke."),
    ("eks", "-eks-"),
    ("rke2", "+rke2"),
    ("k3s", "+k3s"),
    ("k0s", "+k0s"),
    ("ack", "-aliyun."),
    ("tke", "-tke."),
    ("cce", "-r0-CCE"),
    ("tkg", "+vmware."),
    ("mirantis", "-mirantis-"),
)


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """A minor release of Kubernetes."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


FOUNDING: Final = Release(1, 13)
"""The first whose tokens may name another audience than the API server's own."""
DISCOVERY: Final = Release(1, 18)
"""The first that can publish issuer and keys (ServiceAccountIssuerDiscovery, alpha)."""
DISCOVERY_BY_DEFAULT: Final = Release(1, 20)
REQUIRED_ISSUER: Final = Release(1, 20)
"""From here on an API server does not start without issuer and signing key."""
SEVERAL_ISSUERS: Final = Release(1, 22)
NODE_CLAIMS: Final = Release(1, 30)
"""From here on by default: the claim `jti`, and the node's name and UID in a pod's token."""
POD_CERTIFICATES: Final = Release(1, 37)


@dataclass(frozen=True, slots=True)
class VersionSeen:
    """What of /version matters."""

    git_version: str
    major: str
    minor: str
    emulation: str = ""
    """`1.36` when the binary behaves like an older release (KEP-4330)."""

    @property
    def release(self) -> Release | None:
        """The release of the binary; None when neither text can be read."""
        return _release(self.git_version) or _pair(self.major, self.minor)

    @property
    def features(self) -> Release | None:
        """The release whose features it has: the emulated one, if there is one."""
        return (_release(self.emulation) if self.emulation else None) or self.release


def read(members: Members) -> VersionSeen | None:
    """Read /version's answer; None unless a release can be made out."""
    emulated = _pair(text(members, "emulationMajor"), text(members, "emulationMinor"))
    seen = VersionSeen(
        text(members, "gitVersion"),
        text(members, "major"),
        text(members, "minor"),
        "" if emulated is None else str(emulated),
    )
    if seen.release is None:
        return None
    return seen if emulated != seen.release else VersionSeen(seen.git_version, seen.major, seen.minor)


def distribution(git_version: str) -> str:
    """Whose build it is, by its suffix; `kubernetes` when it has none that we know."""
    return next((name for name, mark in _VENDORS if mark in git_version), "kubernetes")


def judge(seen: Exchange[VersionSeen]) -> Verdict:
    """Whether tokens for the mesh alone can exist at all in this release."""
    if seen.found is None or (release := seen.found.features) is None:
        return could_not_tell(Rung.VERSION, seen, VERSION)
    name = seen.found.git_version or f"{seen.found.major}.{seen.found.minor}"
    emulated = bool(seen.found.emulation)
    said = f"{name}, which emulates {seen.found.emulation}" if emulated else name
    if release < FOUNDING:
        return Verdict(
            Rung.VERSION,
            Answer.NO,
            Reason.TOO_OLD,
            f"{said}: before {FOUNDING} a token's audience could only be the API server itself, so no token can be "
            "for the mesh's CA alone",
            _ways_out(name),
            (seen,),
        )
    reason = Reason.EMULATED if emulated else Reason.NEW_ENOUGH
    return Verdict(Rung.VERSION, Answer.YES, reason, said, evidence=(seen,))


def _ways_out(git_version: str) -> str:
    if distribution(git_version) == "gke":
        return f"upgrade the cluster to {FOUNDING} or later, or say --fallback file-mount"
    return (
        f"upgrade to {FOUNDING} or later, and on premises set the API server's service-account flags; where the "
        "provider cannot, say --fallback file-mount"
    )


def _release(git_version: str) -> Release | None:
    found = _GIT.fullmatch(git_version)
    return Release(int(found[1]), int(found[2])) if found else None


def _pair(major: str, minor: str) -> Release | None:
    number, minors = _MINOR.fullmatch(major), _MINOR.fullmatch(minor)
    return Release(int(number[1]), int(minors[1])) if number and minors else None
