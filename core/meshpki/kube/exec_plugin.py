"""Running a credential plugin: no shell, no terminal, a small environment, bounded in time and output."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final

from meshpki.kube.errors import KubeCredentialError
from meshpki.kube.exec_credential import exec_info, read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshpki.kube.access import Access
    from meshpki.kube.credentials import ExecPlugin
    from meshpki.kube.exec_credential import ExecCredential

TIMEOUT_SECONDS: Final = 30.0
MAX_OUTPUT_BYTES: Final = 1 << 20
_CHUNK: Final = 64 << 10
_PASSED_ON: Final = re.compile(
    r"HOME|PATH|USER|LOGNAME|LANG|LC_[A-Z]+|TZ|TMPDIR|XDG_[A-Z_]+|SSL_CERT_(?:FILE|DIR)"
    r"|(?:HTTPS?|NO|ALL)_PROXY|(?:https?|no|all)_proxy|(?:AWS|AZURE|AAD|CLOUDSDK|GOOGLE|OS)_[A-Z0-9_]+"
)
"""What plugins need of our environment: where home is, and their own clouds' variables. Nothing else is passed on."""
_SECRET_LIKE: Final = re.compile(r"[A-Za-z0-9_+/=.-]{32,}")


def run(plugin: ExecPlugin, access: Access, *, timeout_seconds: float = TIMEOUT_SECONDS) -> ExecCredential:
    """Run a plugin once. Raises KubeCredentialError: it cannot be started, fails, is too slow, prints what is none."""
    environment = plugin_environment(os.environ, plugin) | {"KUBERNETES_EXEC_INFO": exec_info(plugin, access)}
    try:
        process = subprocess.Popen(
            [plugin.command, *plugin.arguments],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a process group of its own, to end it with all that it started
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "its arguments cannot be passed on"
        raise KubeCredentialError(
            f"{plugin.command} could not be started: {why}", todo="check the path given with --allow-exec"
        ) from error
    with process:
        try:
            output, complaint = _output(process, plugin, time.monotonic() + timeout_seconds)
        except BaseException:  # Ctrl-C too: nothing waits for a credential any more
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # not reaped yet: the group is still its own
            raise
    if process.returncode != 0:
        raise KubeCredentialError(
            f"{plugin.command} failed with status {process.returncode}" + _words(complaint),
            wanted="a credential",
            todo=f"log in with that tool, then try again: run {plugin.command} by hand to see what it wants",
        )
    return read(output, plugin)


def plugin_environment(ours: Mapping[str, str], plugin: ExecPlugin) -> dict[str, str]:
    """The part of our environment that is passed on, and what the kubeconfig may add."""
    return {name: value for name, value in ours.items() if _PASSED_ON.fullmatch(name)} | dict(plugin.environment)


def _output(process: subprocess.Popen[bytes], plugin: ExecPlugin, deadline: float) -> tuple[bytes, bytes]:
    """All of standard output and standard error, once both are closed and the process has ended."""
    output, complaint = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, taken in ((process.stdout, output), (process.stderr, complaint)):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ, taken)
        while selector.get_map():
            ready = selector.select(max(deadline - time.monotonic(), 0))
            if not ready:
                raise _too_slow(plugin)
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                key.data.extend(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
                if len(key.data) > MAX_OUTPUT_BYTES:
                    raise KubeCredentialError(f"{plugin.command} prints without end", wanted="one ExecCredential")
    try:
        process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        raise _too_slow(plugin) from None
    return bytes(output), bytes(complaint)


def _too_slow(plugin: ExecPlugin) -> KubeCredentialError:
    return KubeCredentialError(
        f"{plugin.command} gave no answer in time, and was ended",
        todo="log in with that tool first: it may wait for a browser or a question that nobody sees",
    )


def _words(complaint: bytes) -> str:
    """The last line of standard error, without anything in it that is long enough to be a secret."""
    lines = complaint[-4096:].decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    clean = "".join(char if char.isprintable() else " " for char in _SECRET_LIKE.sub("...", last))
    return f": {clean[:200]}" if clean else ""
