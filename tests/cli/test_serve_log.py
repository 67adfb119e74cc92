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


def test_a_strangers_handshake_is_no_line_of_grpcs_own(tmp_path: Path) -> None:
    made = ca_server.make_config(tmp_path, TokenMaker())
    config = tmp_path / "ca.yaml"
    cluster = made.clusters[0]
    config.write_text(
        yaml.safe_dump(
            {
                "trust_domain": str(made.trust_domain),
                "listen": "127.0.0.1:0",
                "http": "127.0.0.1:0",
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
    log = tmp_path / "log"
    with log.open("wb") as file, subprocess.Popen(argv, stderr=file, stdout=subprocess.PIPE) as process:
        try:
            wait_until(lambda: bool(ca_server.where(log)), "the CA", 90)
            host, _, port = ca_server.where(log)["grpc"].rpartition(":")
            for stranger in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01garbage", b""):
                with socket.create_connection((host, int(port)), 60) as connection:
                    connection.sendall(stranger)
            time.sleep(0.3)  # for the lines of gRPC's own threads
        finally:
            process.terminate()
        out, _ = process.communicate(timeout=60)
    assert out == b""
    assert process.returncode == 0, log.read_text()
    assert [json.loads(line)["level"] for line in log.read_text().splitlines()]
