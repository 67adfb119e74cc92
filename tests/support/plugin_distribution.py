"""A distribution with plugins in it, as if it were installed, for a process of its own to find."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DIRECTORY = "from meshpki.testing.platform import DirectoryPlatform\nplugin = DirectoryPlatform()\n"
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
