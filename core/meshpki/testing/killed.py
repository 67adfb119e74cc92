"""Runs a provisioning in a process of its own that kills itself at a failpoint; for `assert` in a vendor's tests too.

    python -m meshpki.testing.killed provision|apply|deprovision MODULE:FUNCTION PLATFORM PLACE OPTIONS_JSON

MODULE:FUNCTION returns the PluginSet; PLACE is the state directory, for `apply` the file with the plan. The tests call
`killed_at`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.provision import engine, facts, saved
from meshpki.provision import journal as journals
from meshpki.provision import plan as plans
from meshpki.provision.base import Base
from meshpki.testing import failpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.plugins import PluginSet
    from meshpki.provision.facts import Given

DIRECTORY: Final = "meshpki.testing.platform:plugin_set"
BOUND_SECONDS: Final = 60


def provision(
    plugins: PluginSet, platform: str, state_dir: Path, given: Given, checkpoint: Callable[[str], None]
) -> engine.Report:
    """Go from nothing, or from wherever an earlier run was broken off, to a provisioned platform."""
    with journals.locked(state_dir, checkpoint=checkpoint) as journal:
        history = journal.history()
        plan = saved.unfinished(plugins, platform, given, history)
        if plan is None:
            found = facts.detect(plugins, platform, state_dir, given)
            plan = plans.make_plan(plugins, found, state_dir, history=history)
        base = Base.of(history)
        return engine.apply(plugins, plan, journal, base=base, progress=_silent, checkpoint=checkpoint)


def apply(plugins: PluginSet, file: Path, checkpoint: Callable[[str], None]) -> engine.Report:
    """Apply a saved plan, or go on with a run of it, as `meshpki apply` does."""
    reviewed = saved.load(file)
    history = journals.read(reviewed.plan.request.state_dir)
    saved.still_valid(plugins, reviewed, history)
    with journals.locked(reviewed.plan.request.state_dir, checkpoint=checkpoint) as journal:
        base = Base.of(history)
        return engine.apply(plugins, reviewed.plan, journal, base=base, progress=_silent, checkpoint=checkpoint)


def deprovision(plugins: PluginSet, state_dir: Path, checkpoint: Callable[[str], None]) -> engine.Report:
    """Take it all back."""
    return engine.deprovision(plugins, state_dir, progress=_silent, checkpoint=checkpoint)


def killed_at(
    failpoint: str, action: str, platform: str, place: Path, given: Given, *, plugins: str = DIRECTORY
) -> bool:
    """Run `action` in a process that is killed at `failpoint`; False when it came to its end without passing there."""
    arguments = [action, plugins, platform, str(place), json.dumps(dict(given))]
    done = subprocess.run(
        [sys.executable, "-m", __name__, *arguments],
        env={**os.environ, failpoints.VARIABLE: failpoint},
        check=False,
        capture_output=True,
        timeout=BOUND_SECONDS,
        text=True,
    )
    if done.returncode not in {0, -signal.SIGKILL}:
        raise AssertionError(f"{action} killed at {failpoint} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.returncode == -signal.SIGKILL


def _silent(line: str) -> None:
    pass


def main(arguments: Sequence[str]) -> None:
    """Run what the command line says."""
    action, spec, platform, place, options = arguments
    module, function = spec.split(":")
    plugins: PluginSet = getattr(importlib.import_module(module), function)()
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(options).items()}
    if action == "provision":
        provision(plugins, platform, Path(place), given, failpoints.kill_here)
    elif action == "apply":
        apply(plugins, Path(place), failpoints.kill_here)
    else:
        deprovision(plugins, Path(place), failpoints.kill_here)


if __name__ == "__main__":
    main(sys.argv[1:])
