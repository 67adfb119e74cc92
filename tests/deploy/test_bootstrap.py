"""Bootstraps: what is asked of the other side, what is never asked, and no value that could break out of its place."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from meshpki_demo.bootstrap import Address, ApiType, FileSecrets, Json, SdsSecrets, client_bootstrap, server_bootstrap
from meshpki_demo.envoy import find_envoy

PEER = "spiffe://mesh.local/ns/default/sa/peer"
SDS = SdsSecrets(Path("/run/sds.sock"))
FILES = FileSecrets(Path("/c.pem"), Path("/k.pem"), Path("/r.pem"))
APP = Address("127.0.0.1", 8080)


def server(secrets: SdsSecrets | FileSecrets = SDS, peer: str = PEER) -> Json:
    return server_bootstrap(node="server", admin=Path("/run/admin.sock"), secrets=secrets, peer=peer, app=APP)


def client(secrets: SdsSecrets | FileSecrets = SDS, peer: str = PEER) -> Json:
    return client_bootstrap(node="client", admin=Path("/run/admin.sock"), secrets=secrets, peer=peer, upstream=APP)


def found(tree: Json, name: str) -> Iterator[Json]:
    """Every value that stands under `name`, at any depth."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key == name:
                yield value
            yield from found(value, name)
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for item in tree:
            yield from found(item, name)


@pytest.mark.parametrize("make", [server, client])
@pytest.mark.parametrize("secrets", [SDS, FILES])
def test_the_peers_spiffe_id_is_matched_exactly(make: type, secrets: SdsSecrets | FileSecrets) -> None:
    matchers = list(found(make(secrets), "match_typed_subject_alt_names"))
    assert matchers == [[{"san_type": "URI", "matcher": {"exact": PEER}}]]


def test_the_server_wants_a_certificate_and_trusts_no_header() -> None:
    assert list(found(server(), "require_client_certificate")) == [True]
    assert list(found(server(), "forward_client_cert_details")) == ["SANITIZE_SET"]


def test_secrets_come_from_the_agent_under_istios_names() -> None:
    names = [
        value["name"] for value in found(server(), "validation_context_sds_secret_config") if isinstance(value, dict)
    ]
    assert names == ["ROOTCA"]
    (certificates,) = found(server(), "tls_certificate_sds_secret_configs")
    assert isinstance(certificates, list)
    assert certificates[0]["name"] == "default"
    assert {"path": "/run/sds.sock"} in list(found(server(), "pipe"))


def test_files_need_no_agent() -> None:
    assert "sds" not in json.dumps(server(FILES))


def test_nothing_is_retried() -> None:
    assert list(found(client(), "retry_policy")) == []


@pytest.mark.parametrize("make", [server, client])
def test_no_port_is_fixed_and_nothing_listens_but_on_loopback(make: type) -> None:
    listeners = list(found(make(), "listeners"))
    assert list(found(listeners, "port_value")) == [0]
    assert set(map(str, found(make(), "address"))) >= {"127.0.0.1"}
    assert "0.0.0.0" not in json.dumps(make())  # noqa: S104 - this looks for it
    assert list(found(list(found(make(), "admin")), "socket_address")) == []


@pytest.mark.parametrize("strange", ['a"b', "a\nb: c", "a\\u0000", "%{}$[]"])
def test_a_strange_value_stays_one_value(strange: str) -> None:
    tree = json.loads(json.dumps(server(peer=strange)))
    assert list(found(tree, "exact")) == [strange]


@pytest.mark.e2e
@pytest.mark.parametrize("make", [server, client])
def test_envoy_reads_it(make: type, tmp_path: Path) -> None:
    """`--mode validate` knows every field and every enum of the real thing."""
    config = tmp_path / "bootstrap.json"
    config.write_text(json.dumps(make()))
    done = subprocess.run(
        [find_envoy(), "--mode", "validate", "-c", config, "--log-level", "warn"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
def test_secrets_come_by_the_method_that_was_asked_for(api_type: ApiType) -> None:
    secrets = SdsSecrets(Path("/run/sds.sock"), api_type=api_type)
    for made in (server(secrets), client(secrets)):
        assert set(found(made, "api_type")) == {api_type}


def test_a_node_says_what_it_is_told_to_say() -> None:
    told = client_bootstrap(
        node="n", admin=Path("/a"), secrets=SDS, peer=PEER, upstream=APP, metadata={"spiffe_cert_validation": True}
    )
    assert list(found(told, "metadata")) == [{"spiffe_cert_validation": True}]
    assert not list(found(client(), "metadata"))
