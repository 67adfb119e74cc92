"""The one process of an installation: keeps tokens fresh, and runs the CA and an agent per workload."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import meshpki
from meshpki.errors import MeshpkiError, UsageError
from meshpki.runtime.files import PRIVATE_DIRECTORY, check_private_directory, private_directory, read_capped
from meshpki.runtime.hangup import Hangup, meaning
from meshpki_local import children as pure
from meshpki_local import installation, processes, readiness, run_file, single
from meshpki_local.children import ChildSpec, Phase, World
from meshpki_local.family import Family
from meshpki_local.ports import Ports, read_ports
from meshpki_local.run_file import ChildRecord, RunRecord
from meshpki_local.specs import CA, CA_RANK, wanted_children
from meshpki_local.token_keeper import TokenKeeper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meshpki_local.layout import Layout
    from meshpki_local.settings import Settings

_log = logging.getLogger(__name__)
_POLL: Final = 1.0
"""Seconds between looks at the files that say what to run; without a terminal SIGHUP makes it look at once."""
_POLL_HELD: Final = 0.1
_LIMIT: Final = 1 << 20


def supervise(layout: Layout, begun: Callable[[], None] = lambda: None) -> int:
    """Run the installation until SIGTERM, SIGINT or the end of its terminal; return the exit status.

    Raises MeshpkiError when it cannot begin. Calls `begun` once it is the one supervisor and has read what to run.
    Killed without a chance to stop its children, it leaves them at work, and the next one adopts them.
    """
    if installation.read(layout.installation) is None:
        raise UsageError(f"{layout.state} holds no local installation", todo=f"run {layout.command('provision')} first")
    check_private_directory(layout.state)
    for directory in (layout.run, layout.logs):
        private_directory(directory)
    processes.forbid_core_dumps()
    os.umask(0o777 & ~PRIVATE_DIRECTORY)
    hangup = meaning()
    # Whoever finds our name in the lock may send SIGHUP at once, and until the name is gone.
    with (
        selectors.DefaultSelector() as selector,
        _signals(selector, hangup) as asked,
        single.only_supervisor(layout.lock),
    ):
        _log.info("supervisor started", extra={"pid": os.getpid(), "state_dir": str(layout.state)})
        supervisor = Supervisor(layout, selector, asked, hangup)
        begun()
        supervisor.run()
    _log.info("supervisor stopped")
    return 0


class Supervisor:
    """The loop around the decisions of `children`: look, decide, act, say, wait."""

    def __init__(
        self, layout: Layout, selector: selectors.BaseSelector, asked: set[signal.Signals], hangup: Hangup
    ) -> None:
        self._layout = layout
        self._selector = selector
        self._asked = asked
        self._ending = {signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hangup is Hangup.STOP else [])}
        self._family = Family(layout, selector)
        self._tokens = TokenKeeper(layout)
        self._tokens_due = 0.0
        self._since = int(time.time())
        self._stamps: tuple[tuple[int, int, int], ...] = ()
        self._problem = ""
        self._said: tuple[str, ...] = ()
        self._mute = False
        self._wanted: tuple[ChildSpec, ...] = ()
        self._wanted_since = time.monotonic()
        self._settings: Settings
        self._ports: Ports
        self._load()

    def run(self) -> None:
        """Until asked to stop, and then until the last child has ended."""
        earlier = run_file.read(self._layout.run_file)
        known = {child.name: child.restarts for child in earlier.children} if earlier else {}
        self._family.adopt(self._wanted, known, time.monotonic())
        while not self._stopping:
            self._reload_if_changed()
            self._tokens_due = self._tokens.refresh(self._settings, time.time())
            self._turn()
        self._family.forget_waiting()
        while self._family.running:
            self._turn()
        self._layout.run_file.unlink(missing_ok=True)

    @property
    def _stopping(self) -> bool:
        return not self._asked.isdisjoint(self._ending)

    def _turn(self) -> None:
        world = self._world()
        for action in pure.decide(world):
            self._family.perform(action, time.monotonic())
        self._say()
        for key, _ in self._selector.select(self._patience(world)):
            if isinstance(key.data, str):
                self._family.has_ended(key.data, time.monotonic())
            elif isinstance(key.fileobj, socket.socket):
                key.fileobj.recv(64)

    def _world(self) -> World:
        now, stopping = time.monotonic(), self._stopping
        world = World(self._wanted, self._family.children, now, since=self._wanted_since, shutdown=stopping)
        missing = [spec for spec in self._wanted if spec.name not in world.children]
        if not stopping and any(pure.is_held(spec, world) for spec in missing) and self._ca_is_ready():
            return replace(world, ready=frozenset({CA_RANK}))
        return world

    def _ca_is_ready(self) -> bool:
        child = self._family.children.get(CA)
        wanted = next(spec.fingerprint for spec in self._wanted if spec.name == CA)
        fits = child is not None and child.phase is Phase.RUNNING and child.fingerprint == wanted
        return fits and readiness.is_ready(self._ports)

    def _patience(self, world: World) -> float:
        after = replace(world, children=self._family.children)
        held = not world.shutdown and any(spec.name not in after.children for spec in self._wanted)
        moments = [_POLL_HELD if held else _POLL]
        if not world.shutdown:
            moments.append(self._tokens_due - time.time())
        if (moment := pure.next_moment(after)) is not None:
            moments.append(moment - time.monotonic())
        return max(0.01, min(moments))

    def _load(self) -> None:
        """Read what to run. Raises MeshpkiError, and then what was wanted before stands."""
        stamps = self._look()
        settings = installation.read(self._layout.installation)
        ports = read_ports(read_capped(self._layout.ca_config, limit=_LIMIT))
        if settings is None or ports is None:
            missing = self._layout.installation if settings is None else self._layout.ca_config
            raise UsageError(f"{missing} is missing or not ours", todo=f"run {self._layout.command('provision')}")
        wanted = wanted_children(self._layout, settings, ports)
        self._stamps, self._settings, self._ports = stamps, settings, ports
        self._wanted, self._wanted_since = wanted, time.monotonic()
        self._tokens.reset()

    def _reload_if_changed(self) -> None:
        told = signal.SIGHUP in self._asked
        self._asked.discard(signal.SIGHUP)
        # With a problem it is tried again at each look: a file that comes back is the one whose stamp we know.
        if not told and not self._problem and self._look() == self._stamps:
            return
        try:
            self._load()
        except MeshpkiError as error:
            if not self._problem:
                _log.error("configuration not read, the old one stays", extra={"reason": str(error)})
            self._problem = str(error)
        else:
            self._problem = ""
            _log.info("configuration read", extra={"children": len(self._wanted)})

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        layout = self._layout
        files = (layout.installation, layout.ca_config, layout.issuer_certificate, layout.root_certificate)
        return tuple(_stamp(path) for path in (*files, layout.token_key, layout.lock))  # the lock: see single.nudge

    def _say(self) -> None:
        problems = (*((self._problem,) if self._problem else ()), *self._tokens.problems.values())
        if not self._family.changed and problems == self._said:
            return
        try:
            run_file.write(self._layout.run_file, self._record(problems))
        except MeshpkiError as error:  # As on a full disk: tried again at each turn, said once.
            if not self._mute:
                _log.error("run file not written", extra={"reason": str(error)})
            self._mute = True
            return
        self._family.changed, self._said, self._mute = False, problems, False

    def _record(self, problems: tuple[str, ...]) -> RunRecord:
        ticks = processes.start_ticks(os.getpid()) or 0
        offset = time.time() - time.monotonic()
        children = tuple(_child_record(child, offset) for _, child in sorted(self._family.children.items()))
        version = meshpki.__version__
        return RunRecord(os.getpid(), ticks, run_file.boot_id(), version, self._since, children, problems)


def _child_record(child: pure.Child, offset: float) -> ChildRecord:
    pid, ticks = (child.ref.pid, child.ref.start_ticks) if child.ref else (0, 0)
    since = int(child.since + offset)
    return ChildRecord(
        child.name,
        child.phase.value,
        pid,
        ticks,
        child.fingerprint,
        since,
        child.restarts,
        child.failures,
        child.reason,
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)


@contextlib.contextmanager
def _signals(selector: selectors.BaseSelector, hangup: Hangup) -> Iterator[set[signal.Signals]]:
    """Collect SIGTERM, SIGINT and SIGHUP in a set, and wake the selector for each; put all back afterwards."""
    asked: set[signal.Signals] = set()
    reader, writer = socket.socketpair()
    numbers = (signal.SIGTERM, signal.SIGINT, *(() if hangup is Hangup.NOTHING else (signal.SIGHUP,)))
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        selector.register(reader, selectors.EVENT_READ)
        earlier = {
            number: signal.signal(number, lambda number, _: asked.add(signal.Signals(number))) for number in numbers
        }
        earlier_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield asked
        finally:
            signal.set_wakeup_fd(earlier_wakeup)
            for number, handler in earlier.items():
                signal.signal(number, handler)
            selector.unregister(reader)
