"""Workloads of one node's agent: each has a token and a stream, comes back as Envoy does, and keeps what it was given.

The CA that they meet believes every token, and treats each workload by its name: orders for one touch no other.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Self

import grpc

from support.agent_process import CANARY, fake_token
from support.crowd import Look, ScriptedCa
from support.fake_ca import SERVER_NAME, FakeCa
from support.node_agent import NodeAgentProcess, Stream, leaf_of, with_token

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from cryptography import x509

AGAIN_SECONDS = 0.1


def spiffe_id(name: str) -> str:
    return f"spiffe://mesh.test/ns/default/sa/{name}"


class NodeCa(ScriptedCa):
    """Tells workloads apart by the mark in their tokens; each gets its own identity."""

    def name_of(self, cluster: str, token: str) -> str:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return str(claims["mark"]).removesuffix(CANARY)

    def uri_of(self, name: str) -> str:
        return spiffe_id(name)


def agent_of(ca: FakeCa, directory: Path, *options: str) -> NodeAgentProcess:
    """An agent before that CA, not started. It says each failure, not one a minute."""
    directory.mkdir(exist_ok=True)
    made = NodeAgentProcess(directory, ca.address, SERVER_NAME, options=options, log_level="debug")
    made.roots.write_bytes(ca.authority.roots_pem)
    return made


class Workload:
    """One workload's Envoy: a stream with its token, opened anew whenever it ends."""

    def __init__(self, agent: NodeAgentProcess, name: str, *, token_seconds: float = 3600) -> None:
        self.name = name
        self._agent = agent
        self._token = fake_token(expires_at=time.time() + token_seconds, mark=name)
        self.leaves: list[tuple[float, x509.Certificate]] = []
        """What was pushed, and when (epoch seconds)."""
        self.endings: list[grpc.StatusCode] = []
        self._over = threading.Event()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._run, name=f"workload {name}")

    def rotate(self) -> None:
        """Put a fresh token in place: it is brought with the next stream."""
        self._token = fake_token(expires_at=time.time() + 7200, mark=self.name)

    @property
    def serials(self) -> list[int]:
        """Different ones, in the order in which they came."""
        return list(dict.fromkeys(leaf.serial_number for _, leaf in self.leaves))

    @property
    def gaps(self) -> list[Look]:
        """Moments from which on it had no valid certificate, until another came."""
        kept = list(self.leaves)
        ends = [leaf.not_valid_after_utc.timestamp() for _, leaf in kept]
        came = [*(when for when, _ in kept[1:]), time.time()]
        return [
            Look(end, leaf.serial_number, end)
            for (_, leaf), end, new in zip(kept, ends, came, strict=True)
            if end < new
        ]

    def look(self) -> Look:
        """Ask once more with the same token, by a stream of its own."""
        try:
            with self._open(seconds=60) as stream:
                leaf = leaf_of(stream.secrets()["default"])
        except grpc.RpcError as error:
            return Look(time.time(), error=error.code().name)
        return Look(time.time(), leaf.serial_number, leaf.not_valid_after_utc.timestamp())

    def _open(self, seconds: float = 600) -> Stream:
        return Stream(self._agent.socket, with_token(self._token), "default", seconds=seconds)

    def _run(self) -> None:
        while not self._over.is_set():
            self._stream = self._open()
            if self._over.is_set():
                self._stream.close()
            with contextlib.suppress(grpc.RpcError, StopIteration, ValueError):  # ValueError: closed by us
                while True:
                    leaf = leaf_of(self._stream.secrets()["default"])
                    self.leaves.append((time.time(), leaf))
            if not self._over.is_set():
                self.endings.append(self._stream.code())
                self._stream.close()
            self._over.wait(AGAIN_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._stream is not None:
            self._stream.close()
        self._thread.join()
