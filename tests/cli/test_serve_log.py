"""`meshpki ca serve` as a process: every line of its log is JSON, whatever a stranger sends to its port."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from support import ca_server
from support.agent_process import wait_until
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_a_strangers_handshake_is_no_line_of_grpcs_own(tmp_path: Path) -> None:
    made = ca_server.make_config(tmp_path, TokenMaker())
    grpc_port, http_port = free_port(), free_port()
    config = tmp_path / "ca.yaml"
    cluster = made.clusters[0]
    config.write_text(
        yaml.safe_dump(
            {
                "trust_domain": str(made.trust_domain),
                "listen": f"127.0.0.1:{grpc_port}",
                "http": f"127.0.0.1:{http_port}",
                "server_names": ["localhost"],
                "issuer": {
                    "certificate": str(made.issuer.certificate),
                    "key": str(made.issuer.key),
                    "root": str(made.issuer.root),
                },
                "audit": str(tmp_path / "issuance.jsonl"),
                "clusters": [
                    {"name": cluster.name, "issuer": cluster.issuer, "jwks": {"file": str(tmp_path / "jwks-0.json")}},
                ],
            }
        )
    )
    argv = [sys.executable, "-m", "meshpki_cli", "ca", "serve", "--config", str(config)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            wait_until(lambda: reachable(grpc_port), "the CA")
            for stranger in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01garbage", b""):
                with socket.create_connection(("127.0.0.1", grpc_port), 5) as connection:
                    connection.sendall(stranger)
            time.sleep(0.3)  # for the lines of gRPC's own threads
        finally:
            process.terminate()
        out, err = process.communicate(timeout=20)
    assert out == b""
    assert process.returncode == 0, err
    assert [json.loads(line)["level"] for line in err.splitlines()]
