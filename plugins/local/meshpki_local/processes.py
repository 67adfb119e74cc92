"""Processes of this machine: named so that a reused pid is never mistaken, found again, signalled and awaited."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MARK: Final = "MESHPKI_LOCAL_CHILD"
"""Environment variable that marks every process we start: `<name> <fingerprint> <state directory>`."""
DEBUG: Final = "MESHPKI_DEBUG"
"""Set to 1 when whoever started us wants to see details, in the logs of all that we start too."""
_PROC: Final = Path("/proc")
_PASSED_ON: Final = frozenset(
    [
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("PYTHONPATH", "VIRTUAL_ENV", "MESHPKI_DISABLED_PLUGINS"),
        DEBUG,
    ]
)
NOTIFY: Final = 3
"""The descriptor on which a process that was given one says that it has come up, by a byte; its closing says no."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_MAX_LOG: Final = 10 << 20


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """A pid, and the clock tick since boot at which its process began: the pair is never given twice."""

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Found:
    """A process of ours that runs, whoever started it."""

    ref: ProcessRef
    name: str
    fingerprint: str
    age: float = 0.0
    """Seconds since it began."""


def start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat; None when there is no such process, or only its remains (a zombie)."""
    try:
        # The second field is the program's name in brackets and may hold anything, brackets too.
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in {b"Z", b"X"} else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def age(ref: ProcessRef) -> float:
    """Seconds since the process began, by the clock that start ticks count on; suspended time counts."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ref.start_ticks / _TICKS)


def refer(pid: int) -> ProcessRef | None:
    """Name the process that has this pid now, if any."""
    ticks = start_ticks(pid)
    return None if ticks is None else ProcessRef(pid, ticks)


def is_alive(ref: ProcessRef) -> bool:
    """Whether exactly that process still runs."""
    return start_ticks(ref.pid) == ref.start_ticks


def open_pidfd(ref: ProcessRef) -> int | None:
    """A descriptor for exactly that process (pidfd_open(2)): readable once it has ended. None when it has."""
    try:
        descriptor = os.pidfd_open(ref.pid)
    except OSError:
        return None
    if is_alive(ref):
        return descriptor
    os.close(descriptor)
    return None


def send(ref: ProcessRef, number: signal.Signals) -> None:
    """Signal exactly that process; no error when it has ended."""
    if (descriptor := open_pidfd(ref)) is None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def wait_gone(refs: Sequence[ProcessRef], seconds: float) -> list[ProcessRef]:
    """Wait until all have ended, at most so long; return those that have not."""
    deadline = time.monotonic() + seconds
    left = list(refs)
    while left and time.monotonic() < deadline:
        descriptor = open_pidfd(left[0])
        if descriptor is not None:
            try:
                select.select([descriptor], [], [], min(0.2, max(0.0, deadline - time.monotonic())))
            finally:
                os.close(descriptor)
        left = [ref for ref in left if is_alive(ref)]
    return left


def stop(refs: Sequence[ProcessRef], seconds: float) -> None:
    """SIGTERM, wait, SIGKILL what is left, wait. Raises MachineError when even that does not end them."""
    for ref in refs:
        send(ref, signal.SIGTERM)
    stubborn = wait_gone(refs, seconds)
    for ref in stubborn:
        send(ref, signal.SIGKILL)
    if left := wait_gone(stubborn, 10):
        raise MachineError(
            f"process {left[0].pid} does not end, not by SIGKILL either",
            todo="look what it waits for with `ps -o pid,stat,wchan,args -p <pid>`",
        )


def mark(name: str, fingerprint: str, state: Path) -> str:
    """The value of `MARK` for a process of this installation."""
    return f"{name} {fingerprint} {state}"


def find(state: Path) -> list[Found]:
    """Every running process of ours for this installation, oldest first, found by its mark.

    By the mark and not by a file of pids: a supervisor may be killed after it started a child and before it wrote
    that down.
    """
    found = [entry for pid in _own_pids() if (entry := _examine(pid, state)) is not None]
    return sorted(found, key=lambda entry: (entry.ref.start_ticks, entry.ref.pid))


def _own_pids() -> Iterator[int]:
    user = os.geteuid()
    for entry in os.scandir(_PROC):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == user:
                    yield int(entry.name)


def _examine(pid: int, state: Path) -> Found | None:
    ref = refer(pid)
    if ref is None:
        return None
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    prefix = f"{MARK}=".encode()
    value = next((item[len(prefix) :] for item in environment.split(b"\0") if item.startswith(prefix)), b"")
    name, _, rest = os.fsdecode(value).partition(" ")
    fingerprint, _, directory = rest.partition(" ")
    return Found(ref, name, fingerprint, age(ref)) if directory == str(state) and is_alive(ref) else None


def clean_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What a child may know of our environment: a fixed list of harmless names.

    No credential that happens to be set is handed on, and no proxy: the agents' way to the CA is this machine.
    """
    return {name: value for name, value in inherited.items() if name in _PASSED_ON or name.startswith("LC_")}


def spawn(argv: Sequence[str], environment: Mapping[str, str], log: Path, *, notify: int | None = None) -> ProcessRef:
    """Start a process in a session of its own, output appended to `log`, input empty. Raises MachineError.

    It outlives us: no signal of our terminal and not our end reaches it. It gets none of our descriptors but `notify`,
    as `NOTIFY`.
    """
    rotate(log)
    _keep_descriptors()
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        pid = os.posix_spawn(
            argv[0],
            list(argv),
            dict(environment),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                *([(os.POSIX_SPAWN_DUP2, notify, NOTIFY)] if notify is not None else []),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
        )
    except OSError as error:
        raise MachineError(
            f"could not start {argv[0]} with its log {log}: {error.strerror}",
            todo="check that both exist, and that there is memory and disk",
        ) from error
    # Not reaped before we wait for it, so its pid is its own even if it has ended already.
    ticks = start_ticks(pid)
    return ProcessRef(pid, -1 if ticks is None else ticks)


def _keep_descriptors() -> None:
    """Hand on no descriptor that we were started with: a lock of the caller's would be held, a pipe never end."""
    for entry in tuple((_PROC / "self" / "fd").iterdir()):
        if int(entry.name) > 2:  # the standard streams
            with contextlib.suppress(OSError):  # that of the listing itself is closed by now
                os.set_inheritable(int(entry.name), False)


def rotate(log: Path) -> None:
    """Move a large log to `<log>.1` before its next writer starts, so that logs stay bounded."""
    with contextlib.suppress(OSError):
        if log.lstat().st_size > _MAX_LOG:
            log.replace(log.with_name(f"{log.name}.1"))


def forbid_core_dumps() -> None:
    """No memory of ours, and so no key, is written to disk when a process of ours crashes. Children inherit it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
