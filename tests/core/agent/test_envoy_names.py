"""One real Envoy that names secrets in every way there is, and says of itself only what it must: both methods."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshpki_demo.bootstrap import Address, ApiType, SdsSecrets, client_bootstrap
from meshpki_demo.envoy import Envoy
from support.agent_process import wait_until
from support.fake_ca import SPIFFE_ID, FakeAuthority, key_pem, make_ca, make_leaf, pem
from support.real_snapshots import real_snapshot
from support.served_sds import ServedSds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e
AUTHORITY = FakeAuthority()
NOBODY = Address("127.0.0.1", 9)
Tree = Any  # Any: a bootstrap, changed here and there


@pytest.fixture(params=["GRPC", "DELTA_GRPC"])
def api_type(request: pytest.FixtureRequest) -> ApiType:
    return request.param  # type: ignore[no-any-return]  # one of these


@pytest.fixture
def sds(short_dir: Path) -> Iterator[ServedSds]:
    (short_dir / "s").mkdir(mode=0o750)
    (short_dir / "files").mkdir()
    with ServedSds(short_dir / "s" / "sds.sock", real_snapshot(AUTHORITY), [short_dir / "files"]) as served:
        yield served


def bootstrap(sds: ServedSds, directory: Path, api_type: ApiType, *names: tuple[str, str], once: bool = True) -> Tree:
    """A cluster for each pair of names: of its own certificate, and of the roots for its peers."""
    clusters: list[Tree] = []
    for number, (certificate, roots) in enumerate(names):
        secrets = SdsSecrets(sds.socket, certificate, roots, api_type)
        admin = Envoy.admin_path(directory)
        made: Tree = client_bootstrap(node="test", admin=admin, secrets=secrets, peer="spiffe://x/y", upstream=NOBODY)
        made = copy.deepcopy(made)
        first, rest = made["static_resources"]["clusters"][0], made["static_resources"]["clusters"][1:]
        if number:
            first["name"] = f"{first['name']}-{number}"
        clusters.append(first)
    made["static_resources"]["clusters"] = [*clusters, *rest]
    return made if once else json.loads(json.dumps(made).replace(ONCE, ONCE.replace("true", "false")))


ONCE = '"set_node_on_first_message_only": true'


def active(envoy: Envoy) -> dict[str, Tree]:
    """The secrets that Envoy holds, by name, as it tells them itself."""
    dump: Tree = envoy.admin("/config_dump?resource=dynamic_active_secrets")
    return {entry["name"]: entry for entry in dump.get("configs", [])}


def put_pair(directory: Path) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = make_leaf(AUTHORITY.issuer, key.public_key(), uris=(SPIFFE_ID,))
    (directory / "tls.crt").write_text(pem(leaf) + AUTHORITY.issuer.pem)
    (directory / "tls.key").write_bytes(key_pem(key))
    return f"{leaf.serial_number:x}"


def roots_of(envoy: Envoy) -> set[str]:
    certificates: Tree = envoy.admin("/certs")["certificates"]
    return {roots["serial_number"].lstrip("0") for one in certificates for roots in one.get("ca_cert", [])}


def test_every_kind_of_name(sds: ServedSds, short_dir: Path, api_type: ApiType) -> None:
    files = short_dir / "files"
    in_files = put_pair(files)
    other = make_ca("other")
    (files / "roots.pem").write_text(other.pem)
    pair, roots = f"file-cert:{files}/tls.crt~{files}/tls.key", f"file-root:{files}/roots.pem"
    wanted = [("default", "ROOTCA"), (SPIFFE_ID, "spiffe://mesh.test"), (pair, roots), ("default", "ALL")]
    own = f"{sds.snapshot.serial:x}"
    with Envoy.start(short_dir / "e", bootstrap(sds, short_dir / "e", api_type, *wanted)) as envoy:
        assert set(active(envoy)) == {name for names in wanted for name in names}
        assert sorted(set(envoy.serials())) == sorted({own, in_files})
        assert f"{other.certificate.serial_number:x}" in roots_of(envoy)
        validators = {name for name, entry in active(envoy).items() if "cert_validator.spiffe" in json.dumps(entry)}
        assert validators == {"spiffe://mesh.test", "ALL"}
        sds.publish(real_snapshot(AUTHORITY))
        wait_until(lambda: set(envoy.serials()) == {f"{sds.snapshot.serial:x}", in_files}, "the next certificate")
        newer = put_pair(files)
        wait_until(lambda: set(envoy.serials()) == {f"{sds.snapshot.serial:x}", newer}, "the next pair of files")
        rejected = {name: count for name, count in envoy.stats().items() if "update_rejected" in name and count}
        assert not rejected


def test_a_node_that_is_said_once_for_each_stream(sds: ServedSds, short_dir: Path, api_type: ApiType) -> None:
    """Also after the agent has been away: each new stream begins with it."""
    made = bootstrap(sds, short_dir / "e", api_type, ("default", "ROOTCA"))
    made["node"]["metadata"] = {"spiffe_cert_validation": True}
    with Envoy.start(short_dir / "e", made) as envoy:
        rotate(sds, envoy)
        said = [request.HasField("node") for request in sds.requests]
        assert said.count(True) == 2, "two secrets, two streams"
        assert len(said) >= 5, "two subscriptions, their ACKs, and that of the rotation"
        assert "cert_validator.spiffe" in json.dumps(active(envoy)["ROOTCA"]), "what the node says holds to the end"
        sds.stop()
        sds.requests.clear()
        sds.start()
        wait_until(lambda: len([r for r in sds.requests if r.HasField("node")]) == 2, "both streams are back", 60)
        rotate(sds, envoy)
        assert [request.HasField("node") for request in sds.requests].count(True) == 2
        assert "cert_validator.spiffe" in json.dumps(active(envoy)["ROOTCA"])


def test_a_node_that_is_said_each_time_is_borne_too(sds: ServedSds, short_dir: Path, api_type: ApiType) -> None:
    made = bootstrap(sds, short_dir / "e", api_type, ("default", "ROOTCA"), once=False)
    with Envoy.start(short_dir / "e", made) as envoy:
        rotate(sds, envoy)
        assert all(request.HasField("node") for request in sds.requests)


def rotate(sds: ServedSds, envoy: Envoy) -> None:
    acknowledged = len(sds.requests)
    sds.publish(real_snapshot(AUTHORITY))
    wait_until(lambda: envoy.serials() == (f"{sds.snapshot.serial:x}",), "the next certificate")
    wait_until(lambda: len(sds.requests) > acknowledged, "its ACK")
