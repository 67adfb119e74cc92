"""A machine clock that is wrong, for one process: libfaketime, as its wheel on PyPI ships it.

The library is preloaded into the process under test only; the Python module around it is never imported.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIBRARY = "vendor/libfaketime/src/libfaketime.so.1"


@cache
def why_not() -> str:
    """Why clocks cannot be set wrong here; empty if they can. The wheel holds a library for x86-64 alone."""
    library = _library()
    if library is None:
        return "libfaketime is not installed: pip install -e '.[dev]'"
    environment = {"LD_PRELOAD": str(library), "FAKETIME": "1999-12-31 00:00:00"}
    asked = subprocess.run(
        [sys.executable, "-c", "import time; print(time.gmtime().tm_year)"],
        env=environment,
        capture_output=True,
        check=False,
        timeout=30,
    )
    return "" if asked.stdout.strip() in {b"1999", b"1998"} else f"{library} does not work on this machine"


def _library() -> Path | None:
    spec = importlib.util.find_spec("libfaketime")
    places = spec.submodule_search_locations if spec is not None else None
    return Path(places[0]) / _LIBRARY if places else None


class FalseClock:
    """The clock of a process, so many seconds wrong; `step` changes it while the process runs.

    The monotonic clock is left alone, as it is when somebody sets a machine's time, or when it wakes from suspend.
    """

    def __init__(self, file: Path, seconds: float = 0.0) -> None:
        self._file = file
        self.step(seconds)

    def step(self, seconds: float) -> None:
        """Be so many seconds ahead of the true time from now on; negative: behind it."""
        passing = self._file.with_suffix(".new")
        passing.write_text(f"{seconds:+.0f}\n")
        passing.replace(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        """What the process is started with."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DISABLE_SHM": "1",
        }
