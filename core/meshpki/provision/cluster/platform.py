"""Asks a platform's plugin what it has to add to a cluster's ladder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.errors import UnavailableError
from meshpki.hooks import ClusterSeen, DetectRequest
from meshpki.provision import facts
from meshpki.provision.cluster.findings import Addition, addition
from meshpki.provision.cluster.ladder import Ladder, detection

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.hooks import ClusterRef
    from meshpki.plugins import PluginSet
    from meshpki.provision.facts import Given


def ask(
    plugins: PluginSet, platform: str, given: Given, state_dir: Path, *, ladder: Ladder, ref: ClusterRef
) -> Addition:
    """Let the platform add evidence. `given` are the operator's options for it.

    Raises UnavailableError when the ladder leaves open what a platform would build on, UsageError, PluginError, and
    what the hook raises.
    """
    plugin = plugins.plugin(platform)
    options = facts.complete_options(plugins.platform(platform), given)
    try:
        seen = detection(ladder)
    except UnavailableError as error:
        raise UnavailableError(
            f"platform {platform!r} was not asked: {error.seen}", todo=error.todo, evidence=error.evidence
        ) from error
    answer = plugins.detect(platform, DetectRequest(state_dir, options, ClusterSeen(ref, seen)))
    return addition(platform, plugin.origin, seen, answer)
