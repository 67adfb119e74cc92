"""A real supervisor of the local platform over stand-in children: same processes, signals and files, no CA.

Run as `python local_supervisor.py <state directory>`; what each child does is in `<state>/children.json`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from meshpki.identity import ServiceAccountRef
from meshpki_local import ca_config, control, installation, issuer_key, processes, readiness, specs, supervisor
from meshpki_local.children import ChildSpec
from meshpki_local.layout import Layout
from meshpki_local.ports import Ports
from meshpki_local.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshpki_local.run_file import RunRecord

WEB = ServiceAccountRef("default", "web")
SLEEPER = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
DIES = "raise SystemExit(7)"
BOUND = 60.0


def until(condition: Callable[[], object], what: str, seconds: float = BOUND) -> None:
    """Wait for a condition, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose path leaves room for a unix socket's name; whatever runs in it is ended with it."""
    with tempfile.TemporaryDirectory(prefix="mp", dir="/tmp") as name:
        state = Path(name) / "s"
        try:
            yield state
        finally:
            for found in processes.find(state):
                processes.stop([found.ref], 0.2)


def prepare(state: Path, children: dict[str, str], workloads: tuple[ServiceAccountRef, ...] = (WEB,)) -> Layout:
    """Write what a provisioned state directory holds, as far as a supervisor looks at it."""
    layout = Layout(state)
    state.mkdir(mode=0o700)
    for directory in (layout.ca, layout.workloads, *(layout.workload(account).directory for account in workloads)):
        directory.mkdir(mode=0o700)
    issuer_key.create(layout)
    for file in (layout.root_certificate, layout.issuer_certificate):
        file.write_text("stand-in")
    settings = Settings(workloads=workloads, token_ttl=600)
    layout.ca_config.write_bytes(ca_config.render(settings, Ports(1, 1)))
    layout.installation.write_bytes(installation.render(settings))
    wish(layout, children)
    return layout


def wish(layout: Layout, children: dict[str, str]) -> None:
    """Say which stand-in children there shall be (Python source by name), and have local.json looked at again."""
    beside = layout.state / "children.json.new"
    beside.write_text(json.dumps(children))
    beside.rename(layout.state / "children.json")
    os.utime(layout.installation)


def start(layout: Layout) -> subprocess.Popen[bytes]:
    """Start the supervisor as our child; its log goes where a real one's goes."""
    layout.logs.mkdir(mode=0o700, exist_ok=True)
    with layout.log("supervisor").open("ab") as log:
        return subprocess.Popen([sys.executable, __file__, str(layout.state)], stderr=log, stdout=log)


@contextmanager
def running(layout: Layout) -> Iterator[subprocess.Popen[bytes]]:
    """A started supervisor, killed at the end if it has not ended."""
    process = start(layout)
    try:
        until(lambda: control.record(layout) is not None, "the supervisor has spoken")
        yield process
    finally:
        process.kill()
        process.wait(BOUND)


def record(layout: Layout) -> RunRecord:
    """What the supervisor says now."""
    said = control.record(layout)
    assert said is not None
    return said


def pids(layout: Layout) -> dict[str, int]:
    """The children that run, by what the process table says."""
    return {found.name: found.ref.pid for found in processes.find(layout.state)}


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def _stand_ins(layout: Layout, settings: Settings, ports: Ports) -> tuple[ChildSpec, ...]:
    children = json.loads((layout.state / "children.json").read_text())
    return tuple(
        ChildSpec(name, argv := (sys.executable, "-c", source), specs.fingerprint(argv, []), int(name != "ca"))
        for name, source in children.items()
    )


if __name__ == "__main__":
    from meshpki.runtime import logs

    logs.configure("debug")
    # The two things that are not real.
    vars(supervisor).update(wanted_children=_stand_ins)
    vars(readiness).update(is_ready=lambda _: True)
    sys.exit(supervisor.supervise(Layout(Path(sys.argv[1]))))
