"""All that was found out of a cluster: what it proved by itself, and what a platform adds, who can promise nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshpki.errors import PluginError, UsageError
from meshpki.hooks import Mode
from meshpki.provision.cluster.ladder import Standing, Step
from meshpki.provision.cluster.verdict import Answer

if TYPE_CHECKING:
    from meshpki.hooks import Detection, Evidence
    from meshpki.provision.cluster.ladder import Ladder


@dataclass(frozen=True, slots=True)
class Addition:
    """What a platform's plugin says of a cluster."""

    platform: str
    origin: str
    """The distribution, and its version, whose plugin says so."""
    detection: Detection
    evidence: tuple[Evidence, ...]
    """Of all evidence in it that which is the platform's own."""


def addition(platform: str, origin: str, seen: Detection, answer: Detection) -> Addition:
    """Examine a platform's answer beside what the cluster proved (`seen`).

    Raises UsageError for a platform that says nothing of clusters, PluginError for one that promises a mode.
    """
    if any(item not in answer.evidence for item in seen.evidence):
        raise UsageError(
            f"platform {platform!r} does not add to what was found of a cluster",
            wanted="a platform that is a cluster's",
            todo="leave out --platform",
        )
    promised = [mode for mode in answer.modes if mode not in seen.modes]
    if promised:
        raise PluginError(
            f"plugin {platform!r} of {origin} promises {', '.join(promised)}, which the cluster does not prove",
            wanted=f"at most {', '.join(seen.modes)}",
            todo="report it to the plugin's authors",
        )
    own = tuple(item for item in answer.evidence if item not in seen.evidence)
    return Addition(platform, origin, answer, own)


@dataclass(frozen=True, slots=True)
class Findings:
    """The ladder, with the platform's word on top, if a platform was asked."""

    ladder: Ladder
    addition: Addition | None = None

    @property
    def left_out(self) -> tuple[Mode, ...]:
        """What the cluster proves, and the platform leaves out."""
        if self.addition is None:
            return ()
        return tuple(mode for mode in self.ladder.modes if mode not in self.addition.detection.modes)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that are left, best first."""
        return tuple(mode for mode in self.ladder.modes if mode not in self.left_out)

    @property
    def sds(self) -> Answer:
        """Whether `sds` is possible, after what the platform says."""
        return Answer.NO if Mode.SDS in self.left_out else self.ladder.sds

    @property
    def standing(self) -> Standing:
        """What it comes to: what the cluster proves counts while the platform leaves something of it."""
        standing = self.ladder.standing
        if standing is Standing.PROVEN and not {Mode.POD_CERTIFICATE, Mode.SDS} & set(self.modes):
            return Standing.FILE_MOUNT_ONLY
        return standing

    @property
    def policies(self) -> tuple[str, ...]:
        """How a CA can authenticate this cluster's tokens, best first."""
        return self.ladder.policies if self.sds is Answer.YES else ()

    @property
    def lift(self) -> tuple[Step, ...]:
        """What to do first, find out, or do to get one rung up."""
        if self.addition is not None and self.left_out and self.ladder.standing is Standing.PROVEN:
            return (Step(self.left_out[0], f"see why {self.addition.platform} leaves it out"),)
        return self.ladder.lift
