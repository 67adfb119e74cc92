"""The ports of the CA: kept in ca.yaml, chosen once, checked before they are taken."""

from __future__ import annotations

import contextlib
import random
import re
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Collection

HOST: Final = "127.0.0.1"
_RANGE: Final = range(15100, 32000)
"""Below the ports that Linux gives to outgoing connections (ip_local_port_range begins at 32768)."""
_ADDRESS: Final = rf"\"?{re.escape(HOST)}:([0-9]{{1,5}})\"?"
_LINE: Final = re.compile(rf"^(listen|http): {_ADDRESS}\s*$", re.MULTILINE)
_RENEWAL: Final = re.compile(rf"^renewal: {{listen: {_ADDRESS},", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the CA serves gRPC, where health and metrics, and where it renews by certificate: 0 for nowhere."""

    grpc: int
    http: int
    renewal: int = 0

    @property
    def grpc_address(self) -> str:
        """`host:port` of the CA."""
        return f"{HOST}:{self.grpc}"

    @property
    def http_address(self) -> str:
        """`host:port` of health and metrics."""
        return f"{HOST}:{self.http}"

    @property
    def renewal_address(self) -> str:
        """`host:port` where the CA renews by certificate; empty for nowhere."""
        return f"{HOST}:{self.renewal}" if self.renewal else ""


def read_ports(config: bytes) -> Ports | None:
    """The ports that a ca.yaml of our making names; None when it does not name the first two as we write them."""
    text = config.decode(errors="replace")
    found = {name: int(port) for name, port in _LINE.findall(text)}
    renewal = _RENEWAL.search(text)
    if set(found) != {"listen", "http"}:
        return None
    return Ports(found["listen"], found["http"], int(renewal[1]) if renewal else 0)


def choose(wanted: int, installed: Ports | None, *, renewal: bool) -> Ports:
    """Keep what is installed where it fits, else take free ports. Raises MachineError when `wanted` is taken.

    `renewal`: whether a port for it is wanted. One that an earlier version installed has none yet.
    """
    ports = _served(wanted, installed)
    kept = installed.renewal if installed is not None else 0
    if not renewal:
        return replace(ports, renewal=0)
    if not kept or kept in {ports.grpc, ports.http}:
        kept = free_port((ports.grpc, ports.http))
    return replace(ports, renewal=kept)


def _served(wanted: int, installed: Ports | None) -> Ports:
    if installed is not None and wanted in {0, installed.grpc}:
        return installed
    if wanted:
        check_free(wanted)
    grpc = wanted or free_port(())
    http = installed.http if installed is not None and installed.http != grpc else free_port((grpc,))
    return Ports(grpc, http)


def is_free(port: int) -> bool:
    """Whether this machine lets us listen there now."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
        # As gRPC does, so that connections of the past that linger on the port are no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(1)
        except OSError:
            return False
    return True


def check_free(port: int) -> None:
    """Raise MachineError when another program listens on the port, or when we may not."""
    if not is_free(port):
        raise MachineError(
            f"port {port} on {HOST} is taken or not ours to take",
            wanted="a port on which the CA can listen",
            todo=f"see who has it with `ss -ltnp sport = :{port}`, or give --ca-port 0 for a free one",
        )


def free_port(taken: Collection[int]) -> int:
    """A port that is free now, at random, so that two installations seldom choose the same. Raises MachineError."""
    for port in random.sample(_RANGE, 200):
        if port not in taken and is_free(port):
            return port
    raise MachineError(f"200 ports tried on {HOST}, none free", todo="name one with --ca-port")
