"""A node's agent as a process or in a test's loop, tokens for its workloads, and clients that bring a token."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from meshpki.agent.node.token import ISTIO_HEADER
from meshpki.wire.methods import SECRET_TYPE_URL, STREAM_SECRETS
from meshpki.wire.sds_pb2 import DiscoveryRequest, DiscoveryResponse, Node, Secret
from support import ca_server
from support.agent_process import PATIENCE, wait_until, with_open_files
from support.kept_port import kept_port, number_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

_KEPT: list[socket.socket] = []
_SLEEPLESS = """
from meshpki.agent.node import sessions as node
from meshpki_cli.entry import main

node.LONGEST_SLEEP_SECONDS = {}
main()
"""


@dataclass
class NodeAgentProcess:
    """`meshpki agent run --node` as a user starts it, its log at debug level in a file."""

    directory: Path
    ca_address: str
    server_name: str = ca_server.SERVER_NAME
    ttl: str = "1h"
    options: tuple[str, ...] = ()
    log_level: str = "debug"
    open_files: tuple[int, int] | None = None
    """Soft and hard limit; None: as here."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of this process's."""
    longest_sleep: float | None = None
    """In place of thirty seconds: the same look at the clock, sooner."""
    at: Path | None = None
    """Where its socket is; None: in a directory of its own."""
    log_name: str = "node.log"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def socket(self) -> Path:
        return self.at or self.directory / "node" / "sds.sock"

    @property
    def roots(self) -> Path:
        return self.directory / "roots.pem"

    @property
    def status_file(self) -> Path:
        return self.directory / "node.json"

    @property
    def log(self) -> Path:
        return self.directory / self.log_name

    def status(self) -> dict[str, Any]:  # Any: JSON, looked at field by field in assertions
        try:
            return json.loads(self.status_file.read_bytes())  # type: ignore[no-any-return]  # our own file
        except FileNotFoundError:
            return {}

    def lines(self) -> list[dict[str, Any]]:  # Any: JSON, looked at in assertions
        """What it has logged, whole lines only."""
        found = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in found if line.startswith("{") and line.endswith("}")]

    def faults(self) -> list[dict[str, Any]]:  # Any: as above
        """The lines that say why there was no renewal."""
        return [line for line in self.lines() if line["message"].startswith("no renewal: ")]

    def failures(self) -> list[str]:
        """`kind/reason` of each of them, in order."""
        return [f"{line['fault']}/{line['reason']}" for line in self.faults()]

    def tracebacks(self) -> list[str]:
        return [str(line["error"]) for line in self.lines() if "error" in line]

    def identity(self, spiffe_id: str) -> dict[str, Any]:  # Any: as above
        """What the status file says of it; empty when it says nothing."""
        found = [one for one in self.status().get("identities", ()) if one["spiffe_id"] == spiffe_id]
        return found[-1] if found else {}

    def start(self) -> Self:
        """Start it and wait for its socket."""
        self.launch()
        wait_until(self.socket.is_socket, "the node's socket")
        return self

    def launch(self) -> Self:
        """Start it."""
        argv: list[str] = [sys.executable, "-c", _SLEEPLESS.format(self.longest_sleep)]
        if self.longest_sleep is None:
            argv = [sys.executable, "-m", "meshpki_cli"]
        argv += ["agent", "run", "--node"]
        argv += ["--ca-address", self.ca_address, "--ca-roots", str(self.roots)]
        argv += ["--ca-server-name", self.server_name, "--sds-socket", str(self.socket)]
        argv += [
            "--status-file",
            str(self.status_file),
            "--ttl",
            self.ttl,
            "--log-level",
            self.log_level,
            *self.options,
        ]
        if self.open_files is not None:
            argv = with_open_files(argv, *self.open_files)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **self.environment}
            )
        return self

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def links_of(pid: int) -> list[str]:
    """What the descriptors of a process lead to, such as `socket:[4711]`. One may be closed in the midst of it."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return found


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens, kept for this process: no other is given them before a server of a test comes."""
    _KEPT.extend(kept_port() for _ in range(count))
    return [number_of(kept) for kept in _KEPT[-count:]]


def listens(address: str) -> bool:
    """Whether somebody accepts connections on HOST:PORT."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def put_token(path: Path, token: bytes) -> None:
    """Put a token in place as a kubelet does, by rename."""
    passing = path.with_name(path.name + ".new")
    passing.write_bytes(token)
    passing.replace(path)


class Stream:
    """One SDS stream with these headers, as a client's own code would open it, over a connection of its own."""

    def __init__(self, socket: Path, headers: Mapping[str, str | bytes], *names: str, seconds: float = 60) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.use_local_subchannel_pool", 1)])
        self._requests: queue.SimpleQueue[DiscoveryRequest | None] = queue.SimpleQueue()
        self._requests.put(DiscoveryRequest(node=Node(id="test"), resource_names=names, type_url=SECRET_TYPE_URL))
        stream = self._channel.stream_stream(
            STREAM_SECRETS, DiscoveryRequest.SerializeToString, DiscoveryResponse.FromString
        )
        self._answers = stream(iter(self._requests.get, None), metadata=tuple(headers.items()), timeout=seconds)

    def secrets(self) -> dict[str, Secret]:
        """The next answer's secrets by name. Raises grpc.RpcError as the client sees it, StopIteration at its end."""
        answer = next(self._answers)
        found = [Secret.FromString(resource.value) for resource in answer.resources]
        return {secret.name: secret for secret in found}

    def code(self) -> grpc.StatusCode:
        """How the stream ended; waits for it."""
        return self._answers.code()

    def close(self) -> None:
        self._requests.put(None)
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def leaf_of(secret: Secret) -> x509.Certificate:
    """The certificate in a `default` secret, whose key has to be its own."""
    leaf = x509.load_pem_x509_certificates(secret.tls_certificate.certificate_chain.inline_bytes)[0]
    key = serialization.load_pem_private_key(secret.tls_certificate.private_key.inline_bytes, None)
    assert key.public_key() == leaf.public_key()
    return leaf


def spiffe_id_of(secret: Secret) -> str:
    names = leaf_of(secret).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (name,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return name


def with_token(token: bytes | str) -> dict[str, str | bytes]:
    """The header as Envoy sends it."""
    return {ISTIO_HEADER: token.encode() if isinstance(token, str) else token}
