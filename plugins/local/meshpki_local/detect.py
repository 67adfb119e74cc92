"""What this machine is, and whether a local installation can stand on it. Nothing volatile: it enters the digest."""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING, Final

import meshpki
from meshpki.errors import MachineError
from meshpki.hooks import Detection, Evidence, Mode
from meshpki.runtime.files import check_private_directory
from meshpki_local.layout import MAX_SOCKET_PATH, Layout
from meshpki_local.planning import settings_for
from meshpki_local.settings import Agents

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.hooks import DetectRequest

_PIDFD: Final = "processes can be held by descriptor (pidfd_open)"


def detect(request: DetectRequest) -> Detection:
    """Look at kernel, interpreter, state directory and socket paths; change nothing.

    Raises MachineError when the state directory is somebody else's, or the kernel lacks what supervision rests on.
    An installation of ours in the directory is no fact: provision makes it, and must find the same facts after.
    """
    _check_kernel()
    if os.path.lexists(request.state_dir):
        check_private_directory(request.state_dir)
    longest = _longest_socket(request)
    fits = len(os.fsencode(longest)) <= MAX_SOCKET_PATH
    return Detection(
        version=platform.release(),
        distribution=_distribution(),
        modes=(Mode.SDS, Mode.FILE_MOUNT) if fits else (Mode.FILE_MOUNT,),
        evidence=(
            Evidence("Can this kernel supervise?", _PIDFD, "pidfd_open(2) on ourselves"),
            Evidence("Is the state directory usable?", "absent, or ours with mode 0700", str(request.state_dir)),
            _socket_evidence(longest, fits),
        ),
        facts={
            "architecture": platform.machine(),
            "meshpki": meshpki.__version__,
            "python": platform.python_version(),
            "interpreter": sys.executable,
            "user": os.geteuid(),
        },
    )


def _check_kernel() -> None:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        raise MachineError(
            f"{platform.system()} {platform.release()} does not give descriptors for processes: {error}",
            wanted="Linux 5.3 or later, and no sandbox that forbids pidfd_open(2)",
            todo="run it on another machine, or outside the sandbox",
        ) from error


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _longest_socket(request: DetectRequest) -> Path:
    layout = Layout(request.state_dir.absolute())
    settings = settings_for(request, Mode.SDS)
    if settings.agent is Agents.NODE:
        return layout.node_socket
    sockets = [layout.workload(account).socket for account in settings.workloads]
    return max(sockets, key=lambda path: len(os.fsencode(path)))


def _socket_evidence(longest: Path, fits: bool) -> Evidence:
    length = len(os.fsencode(longest))
    answer = f"yes: the longest path has {length} bytes of {MAX_SOCKET_PATH}"
    if not fits:
        answer = f"no: {longest} has {length} bytes of {MAX_SOCKET_PATH}; name a shorter state directory"
    return Evidence("Can agents serve SDS on unix sockets?", answer, "unix(7)")
