"""The agent as a process of its own, and as a task in a test's own event loop."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from meshpki.agent.process.config import AgentConfig
from meshpki.agent.renewal.roots_file import RootsFile
from meshpki.agent.rotation.key_request import KeyType
from meshpki.runtime.watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from support.fake_ca import FakeCa

CANARY = "canary-0f9d2b7c"
PATIENCE = 60.0
"""Seconds for what has to happen: says that it never does, and nothing of how busy this machine is."""
_MAIN = """
import json, sys
from pathlib import Path
from meshpki.agent.process.config import AgentConfig
from meshpki.agent.pod.run import run_agent
from meshpki.errors import MeshpkiError
from meshpki.runtime import logs
logs.configure("debug")
values = json.loads(sys.argv[1])
names = ("ca_roots", "token_file", "sds_socket", "files", "status_file", "cache")
paths = {name: Path(values.pop(name)) for name in names if name in values}
paths["secret_files"] = tuple(map(Path, values.pop("secret_files", ())))
try:
    sys.exit(run_agent(AgentConfig(**values, **paths)))
except MeshpkiError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def fake_token(*, expires_at: float | None = None, mark: str = "", account: str = "default:web") -> str:
    """A token that no CA would believe, of a JWT's shape; the canary stands in its claims and as its signature."""

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims: dict[str, object] = {"sub": f"system:serviceaccount:{account}", "mark": mark + CANARY}
    if expires_at is not None:
        claims["exp"] = int(expires_at)
    return f"{part({'alg': 'RS256'})}.{part(claims)}.{CANARY}"


def roots_in(path: Path) -> RootsFile:
    """What this file of roots holds now; for as long as nobody says `reload`."""
    roots = RootsFile(path, Watcher())
    roots.reload()
    return roots


@dataclass(frozen=True)
class AgentFiles:
    """The files around one agent, in a short directory."""

    directory: Path

    @property
    def roots(self) -> Path:
        return self.directory / "roots.pem"

    @property
    def token(self) -> Path:
        return self.directory / "token"

    @property
    def socket(self) -> Path:
        return self.directory / "sds" / "sds.sock"

    @property
    def certs(self) -> Path:
        return self.directory / "certs"

    @property
    def status(self) -> Path:
        return self.directory / "status.json"

    @property
    def log(self) -> Path:
        return self.directory / "agent.log"

    def write_token(self, *, expires_at: float, mark: str = "", tail: str = "", account: str = "default:web") -> str:
        """Put a token in place as a kubelet does, by rename."""
        token = fake_token(expires_at=expires_at, mark=mark, account=account)
        passing = self.directory / "token.new"
        passing.write_text(token + tail)
        passing.replace(self.token)
        return token

    def read_status(self) -> dict[str, Any]:  # Any: JSON, looked at field by field in assertions
        try:
            return json.loads(self.status.read_bytes())  # type: ignore[no-any-return]  # our own file
        except FileNotFoundError:
            return {}

    def config(self, ca: FakeCa, *, ttl_seconds: int = 3600, call_seconds: float = 10.0) -> AgentConfig:
        from support.fake_ca import SERVER_NAME

        return AgentConfig(
            ca_address=ca.address,
            ca_roots=self.roots,
            ca_server_name=SERVER_NAME,
            token_file=self.token,
            sds_socket=self.socket,
            files=self.certs,
            cluster="local",
            ttl_seconds=ttl_seconds,
            key_type=KeyType.EC_P256,
            status_file=self.status,
            call_seconds=call_seconds,
        )


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Poll a condition with a bound."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def with_open_files(argv: Sequence[str], soft: int, hard: int) -> list[str]:
    """The same command, as a process that may have so many files open, and raise that no further than to `hard`."""
    return ["/bin/sh", "-c", f'ulimit -S -n {soft} && ulimit -H -n {hard} && exec "$@"', "sh", *argv]


class AgentProcess:
    """`run_agent` in a process of its own, its log at debug level in a file."""

    def __init__(self, config: AgentConfig, log: Path, *, open_files: tuple[int, int] | None = None) -> None:
        self._config = config
        self._log = log
        self._open_files = open_files
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> Self:
        """Start it, as `start` does: nothing of it is waited for."""
        return self.start()

    def start(self) -> Self:
        config = self._config
        values = {
            name: str(value) if isinstance(value, os.PathLike) else value
            for name in AgentConfig.__dataclass_fields__
            if (value := getattr(config, name)) is not None
        }
        argv = [sys.executable, "-c", _MAIN, json.dumps(values, default=str)]
        if self._open_files is not None:
            argv = with_open_files(argv, *self._open_files)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        return self

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; gives its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def stop_if_running(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_if_running()
