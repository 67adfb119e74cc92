"""A thousand workloads on one node's agent, all renewing within a minute, before the real CA as its own process."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from meshpki.wire.methods import SECRET_TYPE_URL, STREAM_SECRETS
from meshpki.wire.sds_pb2 import DiscoveryRequest, DiscoveryResponse, Node, Secret
from support.agent_process import wait_until
from support.authority import make_authority
from support.node_agent import NodeAgentProcess, free_ports, leaf_of, listens, spiffe_id_of, with_token
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cryptography import x509

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.xdist_group("thousand")]

WORKLOADS = 1000
CONNECTIONS = 100
TTL = 60
AT_ONCE = 16
CA_PLACES = 2 * AT_ONCE
"""The CA turns away whoever asks more at a time, and says so. A call has its place for a moment after its answer."""
MAKER = TokenMaker(algorithm="ES256", kid="es")


@dataclass
class Record:
    """Everything that any stream was ever sent: whose stream, what, and when (epoch seconds)."""

    seen: dict[tuple[int, str, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    """Which identities: by connection, whose stream it was, and which of his."""
    leaves: dict[str, list[tuple[float, str, x509.Certificate]]] = field(default_factory=lambda: defaultdict(list))
    endings: list[tuple[str, grpc.StatusCode]] = field(default_factory=list)

    def add(self, connection: int, name: str, stream: int, response: DiscoveryResponse) -> None:
        for resource in response.resources:
            secret = Secret.FromString(resource.value)
            self.seen[connection, name, stream].add(spiffe_id_of(secret))
            self.leaves[name].append((time.time(), spiffe_id_of(secret), leaf_of(secret)))

    def have(self, count: int) -> int:
        return sum(len(leaves) >= count for leaves in self.leaves.values())


def token(name: str, lifetime: int) -> bytes:
    return MAKER.token(now=time.time(), name=name, pod=f"{name}-0", lifetime=lifetime)


async def workload(name: str, connection: int, channel: grpc.aio.Channel, record: Record, lifetime: int) -> None:
    """Subscribe, and come back with a fresh token whenever the stream ends, as Envoy does."""
    method = channel.stream_stream(STREAM_SECRETS, DiscoveryRequest.SerializeToString, DiscoveryResponse.FromString)
    for number in itertools.count():
        metadata = tuple(with_token(token(name, lifetime)).items())
        stream = method(_asking(), metadata=metadata)
        async for response in stream:
            record.add(connection, name, number, response)
        record.endings.append((name, await stream.code()))
        lifetime = 3600


async def _asking() -> AsyncIterator[DiscoveryRequest]:
    yield DiscoveryRequest(node=Node(id="test"), resource_names=["default"], type_url=SECRET_TYPE_URL)
    await asyncio.get_running_loop().create_future()


async def crowd(agent: NodeAgentProcess, record: Record) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(f"unix:{agent.socket}", options=options) for _ in range(CONNECTIONS)]
    # Of every second one the token is over by the time of the renewal: it has to come back with a fresh one.
    tasks = [
        asyncio.create_task(
            workload(f"w{n}", n % CONNECTIONS, channels[n % CONNECTIONS], record, 3600 if n % 2 else TTL // 2)
        )
        for n in range(WORKLOADS)
    ]
    end = time.monotonic() + 200
    while record.have(2) < WORKLOADS:
        assert time.monotonic() < end, f"{record.have(1)} have one certificate, {record.have(2)} two"
        for task in tasks:
            if task.done():
                task.result()
        await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close()


@pytest.fixture
def agent(short_dir: Path, tmp_path: Path) -> Iterator[NodeAgentProcess]:
    grpc_port, http_port = free_ports(2)
    authority = make_authority()
    authority.write(tmp_path / "ca")
    (tmp_path / "jwks.json").write_bytes(MAKER.jwks())
    config = {
        "trust_domain": "mesh.local",
        "listen": f"127.0.0.1:{grpc_port}",
        "http": f"127.0.0.1:{http_port}",
        "server_names": ["localhost"],
        "issuer": {"certificate": "ca/issuer-cert.pem", "key": "ca/issuer-key.pem", "root": "ca/root-cert.pem"},
        "audit": "audit/issuance.jsonl",
        "limits": {"in_flight": CA_PLACES, "threads": 1},
        "clusters": [{"name": "c", "issuer": MAKER.issuer, "jwks": {"file": "jwks.json"}}],
    }
    path = tmp_path / "ca.yaml"
    path.write_text(json.dumps(config))
    made = NodeAgentProcess(short_dir, f"127.0.0.1:{grpc_port}", "localhost", f"{TTL}s", log_level="info")
    made.options = ("--max-in-flight", str(AT_ONCE))
    made.roots.write_bytes(authority.root_pem)
    argv = [sys.executable, "-m", "meshpki_cli", "ca", "serve", "--config", str(path)]
    with (tmp_path / "ca.log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as ca:
        try:
            wait_until(lambda: listens(made.ca_address), "the CA")
            with made:
                yield made
        finally:
            ca.send_signal(signal.SIGTERM)
            ca.wait(60)


def test_a_thousand_workloads_renew_within_a_minute_and_each_sees_itself_only(agent: NodeAgentProcess) -> None:
    record = Record()
    asyncio.run(crowd(agent, record))

    assert len(record.leaves) == WORKLOADS
    for name, leaves in record.leaves.items():
        assert {spiffe_id for _, spiffe_id, _ in leaves} == {f"spiffe://mesh.local/ns/default/sa/{name}"}
        for (_, _, old), (came, _, new) in itertools.pairwise(leaves):
            assert came < old.not_valid_after_utc.timestamp(), f"{name}: the renewal was missed"
            assert new.serial_number != old.serial_number
    for (_, name, _), identities in record.seen.items():
        assert identities == {f"spiffe://mesh.local/ns/default/sa/{name}"}, "a stream saw another's"
    for connection in range(CONNECTIONS):
        names = {name for of, name, _ in record.seen if of == connection}
        assert names == {f"w{n}" for n in range(connection, WORKLOADS, CONNECTIONS)}
    serials = [leaf.serial_number for leaves in record.leaves.values() for _, _, leaf in leaves]
    assert len(set(serials)) == len(serials), "two streams were sent one certificate"
    keys = [leaf.public_key().public_numbers() for leaves in record.leaves.values() for _, _, leaf in leaves]  # type: ignore[union-attr]  # EC
    assert len(set(keys)) == len(keys)

    assert set(record.endings) == {(f"w{n}", grpc.StatusCode.OK) for n in range(0, WORKLOADS, 2)}, "clean, once each"
    ages = [leaves[1][0] - leaves[0][0] for leaves in record.leaves.values()]
    assert max(ages) < TTL
    assert statistics.pstdev(ages) > TTL / 2 * 0.03, "renewals are spread"  # uniform over +-10 %: 5.8 %
    seconds = max(leaves[1][0] for leaves in record.leaves.values()) - min(
        leaves[1][0] for leaves in record.leaves.values()
    )
    assert seconds < 60
    assert "no renewal" not in agent.log.read_text(), "the CA was asked more at a time than it was to be"
