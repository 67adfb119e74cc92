"""A distribution with plugins in it, as if it were installed, for a process of its own to find."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DIRECTORY = "from meshpki.testing.platform import DirectoryPlatform\nplugin = DirectoryPlatform()\n"
CLUSTER = """
from dataclasses import replace
from meshpki.errors import UnavailableError
from meshpki.hooks import API_VERSION, Detection, Evidence, Mode, Option, OptionKind, Platform
from meshpki.plugins import hookimpl

OPTIONS = (
    Option("region", OptionKind.TEXT, "Where the cluster is.", "moon-1", "NAME"),
    Option("context", OptionKind.TEXT, "Which cluster.", ""),
    Option("says", OptionKind.TEXT, "What it does with what was found.", "adds"),
)

@hookimpl
def platform():
    return Platform("acme", "Acme's clusters", API_VERSION, OPTIONS)

@hookimpl
def detect(request):
    found = request.cluster.found
    own = (
        Evidence("where is it?", str(request.options["region"]), "--region"),
        Evidence("which context?", str(request.options["context"]), "--context"),
    )
    if request.options["says"] == "nothing of clusters":
        return Detection("1", "acme", (Mode.FILE_MOUNT,), own)
    if request.options["says"] == "away":
        raise UnavailableError("Acme's API is away", todo="try again later")
    modes = {
        "adds": found.modes,
        "no sds": tuple(mode for mode in found.modes if mode is not Mode.SDS),
        "nothing": (),
        "only file-mount": (Mode.FILE_MOUNT,),
        "promises": tuple(Mode),
    }[request.options["says"]]
    answer = replace(found, distribution="acme", modes=modes, evidence=(*found.evidence, *own))
    return replace(answer, node_versions=nodes(request.cluster.ref))

def nodes(ref):
    from meshpki.kube import kubeconfig
    from meshpki.kube.client import KubeClient

    with KubeClient(kubeconfig.load(ref.kubeconfig, ref.context, allow_exec=ref.allow_exec)) as client:
        items = client.list("/api/v1/nodes").items
    versions = {node["status"]["nodeInfo"]["kubeletVersion"] for node in items}
    return tuple(sorted(versions - {""}))  # no kubelet ever spoke for some

import sys
plugin = sys.modules[__name__]
"""
SLOW = '''
import time
from pathlib import Path
from meshpki.testing import platform
from meshpki.testing.platform import DirectoryPlatform

class Slow(platform._File):
    """Says that it is at work, and stays there until somebody interrupts it."""

    def apply(self, progress):
        self.path.with_name("at-work").touch()
        time.sleep(60)

platform._File = Slow
plugin = DirectoryPlatform()
'''


def install(place: Path, name: str, code: str, *, distribution: str = "vendor") -> Mapping[str, str]:
    """Write it below `place`; returns the environment in which it is found."""
    module = f"{distribution}_plugin"
    (place / f"{module}.py").write_text(code)
    metadata = place / f"{distribution}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[meshpki.plugins]\n{name} = {module}:plugin\n")
    return {"PYTHONPATH": str(place)}
