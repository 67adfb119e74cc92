"""Files that somebody else replaces: a word within moments of a change, by inotify, or by a stat now and then.

A path is watched, not a file: every directory on the way in which a link or the file can be put in place is looked at,
so that a kubelet's swap of `..data`, a rename over the file and a directory that appears later are all noticed. What
changed is for the reader to find out; a word too many costs a read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import stat
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from meshpki.runtime.wakeup import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inotify_simple import INotify

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.5
"""How often a file is looked at that inotify does not cover: no instance or no watch left, or no right to watch."""
SAFETY_SECONDS: Final = 30.0
"""How often the others are: for network file systems, and for a directory further up that was renamed."""
_MAX_LINKS: Final = 40
_ROUNDS: Final = 8
# As <linux/inotify.h> has them: the library that makes the calls is loaded when there is the first to be made.
ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
UNMOUNT: Final = 0x2000
Q_OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000
ONLYDIR: Final = 0x0100_0000
_MASK: Final = CREATE | MOVED_TO | MOVED_FROM | DELETE | CLOSE_WRITE | ATTRIB | DELETE_SELF | MOVE_SELF | ONLYDIR
_GONE: Final = IGNORED | DELETE_SELF | MOVE_SELF | UNMOUNT

Step: TypeAlias = tuple[Path, str]
"""A directory, and the name in it that decides where a path leads."""
Print: TypeAlias = tuple[int, int, int, int, int]


def fingerprint(path: Path) -> Print | None:
    """Tell one content of a file from another without reading it; None while there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def steps(path: Path) -> Iterator[Step]:
    """Give what decides where an absolute path leads: each link on the way, then the file, or the first name missing.

    Plain directories on the way are left out: watching `/` and `/tmp` for a rename that never comes is not worth it.
    """
    names = deque(path.parts[1:])
    directory, links = Path(path.anchor), 0
    while names:
        name = names.popleft()
        if name == "..":
            directory = directory.parent
            continue
        entry = directory / name
        try:
            mode = entry.lstat().st_mode
        except OSError:
            yield directory, name
            return
        if stat.S_ISLNK(mode) and links < _MAX_LINKS:
            links += 1
            yield directory, name
            with contextlib.suppress(OSError):
                target = entry.readlink()
                names.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
                directory = Path(target.anchor) if target.is_absolute() else directory
        elif names and stat.S_ISDIR(mode):
            directory = entry
        else:
            yield directory, name
            return


class Watch:
    """One watched path, until `close`."""

    def __init__(self, path: Path, close: Callable[[Watch], None]) -> None:
        self.path = path
        self.covered = False
        """Whether inotify sees every change; else the file is polled."""
        self.seen = fingerprint(path)
        self._signal = Signal()
        self._close = close

    def changes(self) -> asyncio.Future[None]:
        """Get a future that is done when the file may have changed: see Signal.next. Take it before reading."""
        return self._signal.next()

    def tell(self) -> None:
        """Wake the readers."""
        self.seen = fingerprint(self.path)
        self._signal.wake()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._close(self)


def _new_inotify() -> INotify:
    from inotify_simple import INotify  # brings ctypes and more along

    return INotify()


class Watcher:
    """All watches of a process over one inotify instance, of which a user has few. Lives in one event loop."""

    def __init__(
        self,
        *,
        new_inotify: Callable[[], INotify] = _new_inotify,
        arm_seconds: float = 0.0,
        poll_seconds: float = POLL_SECONDS,
        safety_seconds: float = SAFETY_SECONDS,
    ) -> None:
        """`arm_seconds`: how long the first watch may do without inotify, for a start that has better things to do."""
        self._new_inotify = new_inotify
        self._arm_seconds = arm_seconds
        self._poll_seconds = poll_seconds
        self._safety_seconds = safety_seconds
        self._watches: set[Watch] = set()
        self._inotify: INotify | None = None
        self._watched: dict[Path, int] = {}
        self._readers: dict[int, set[tuple[str, Watch]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rearm_at = 0.0
        self._complained = False

    def watch(self, path: Path) -> Watch:
        """Begin to watch a path, whether there is anything yet or not. Needs a running event loop."""
        watch = Watch(Path(os.path.abspath(path)), self._drop)  # noqa: PTH100 - resolves no link
        self._watches.add(watch)
        if self._arm_seconds:
            self._set_timer(self._arm_seconds)
        else:
            self._arm()
            self._set_timer()
        return watch

    def close(self) -> None:
        """End everything. Nobody is woken."""
        for watch in list(self._watches):
            watch.close()

    def _drop(self, watch: Watch) -> None:
        if watch not in self._watches:
            return
        self._watches.discard(watch)
        if self._watches:
            self._arm()
            return
        self._disarm()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _disarm(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None
        self._watched.clear()
        self._readers.clear()

    def _arm(self) -> None:
        """Watch the directories of every step. Again until nothing new was found: what came before is seen by then."""
        self._rearm_at = asyncio.get_running_loop().time() + self._safety_seconds
        failed: set[Path] = set()
        for _ in range(_ROUNDS):
            wanted = {watch: list(steps(watch.path)) for watch in self._watches}
            missing = {directory for found in wanted.values() for directory, _ in found} - self._watched.keys() - failed
            if not missing:
                break
            failed |= {directory for directory in missing if not self._add(directory)}
        readers: dict[int, set[tuple[str, Watch]]] = {}
        for watch, found in wanted.items():
            watch.covered = all(directory in self._watched for directory, _ in found)
            for directory, name in found:
                if directory in self._watched:
                    readers.setdefault(self._watched[directory], set()).add((name, watch))
        for number in set(self._watched.values()) - readers.keys():
            self._forget(number)
        self._readers = readers

    def _add(self, directory: Path) -> bool:
        try:
            if self._inotify is None:
                self._inotify = self._new_inotify()
                asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._read)
            self._watched[directory] = self._inotify.add_watch(directory, _MASK)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR}:  # gone again: the next round looks further up
                self._complain(directory, error)
            return False
        return True

    def _complain(self, directory: Path, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning(
                "no inotify for a directory: what it holds is looked at twice a second",
                extra={"directory": str(directory), "seen": error.strerror},
            )

    def _forget(self, number: int) -> None:
        self._watched = {path: other for path, other in self._watched.items() if other != number}
        if self._inotify is not None:
            with contextlib.suppress(OSError):  # the kernel has dropped it already
                self._inotify.rm_watch(number)

    def _read(self) -> None:
        if self._inotify is None:
            return
        told: set[Watch] = set()
        for event in self._inotify.read(timeout=0):
            readers = self._readers.get(event.wd, set())
            if event.mask & Q_OVERFLOW:
                told |= self._watches
            elif event.mask & _GONE:
                self._forget(event.wd)
                told |= {watch for _, watch in readers}
            else:
                told |= {watch for name, watch in readers if event.name in {name, ""}}
        if told:
            self._arm()
            for watch in told:
                watch.tell()
            self._set_timer()

    def _set_timer(self, seconds: float | None = None) -> None:
        """Look again soon if inotify does not cover everything, else after a long while."""
        if self._timer is not None:
            self._timer.cancel()
        if seconds is None:
            covered = all(watch.covered for watch in self._watches)
            seconds = self._safety_seconds if covered else min(self._poll_seconds, self._safety_seconds)
        self._timer = asyncio.get_running_loop().call_later(seconds, self.look)

    def look(self) -> None:
        """Look at every file now. Needs no change that inotify has seen; does nothing while nothing is watched."""
        if not self._watches:
            return
        self._arm_seconds = 0.0
        changed = self._changed()
        if any(watch.covered for watch in changed):
            self._disarm()  # inotify missed it: its directories are not those of the path any more
        if changed or asyncio.get_running_loop().time() >= self._rearm_at:
            self._arm()
            changed = self._changed()  # what came until now inotify has not seen
        for watch in changed:
            watch.tell()
        self._set_timer()

    def _changed(self) -> list[Watch]:
        return [watch for watch in self._watches if fingerprint(watch.path) != watch.seen]
