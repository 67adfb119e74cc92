"""The CA's ports: read back, kept, chosen, refused; and the configuration that names them, by the CA's own reader."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from meshpki.ca import config
from meshpki.errors import MachineError
from meshpki.identity import TrustDomain
from meshpki_local import ca_config, ports
from meshpki_local.ports import Ports, choose, read_ports
from meshpki_local.settings import AUDIENCE, CLUSTER, ISSUER, Settings, parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOME = Ports(15312, 15314, 15313)
WRITTEN = ca_config.render(Settings(), SOME)


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("domain", ["mesh.local", "1.5", "null", "0x1f", "1_000", "on", "12"])
def test_the_ca_reads_what_is_written(tmp_path: Path, domain: str) -> None:
    settings = Settings(trust_domain=domain, certificate_ttl=90)
    found = config.parse(ca_config.render(settings, SOME), base=tmp_path)
    assert found.trust_domain == TrustDomain(domain)
    assert (str(found.listen), str(found.http)) == (SOME.grpc_address, SOME.http_address)
    profile = found.certificate_profile()
    assert (profile.default_ttl_seconds, profile.max_ttl_seconds) == (90, 90)
    policy = found.clusters[0].policy()
    assert (policy.cluster, policy.issuer, policy.audiences) == (CLUSTER, ISSUER, (AUDIENCE,))
    assert policy.require_pod
    assert found.issuer.key == tmp_path / "ca" / "issuer-key.pem"
    assert found.clusters[0].jwks is not None
    assert found.clusters[0].jwks.file == tmp_path / "tokens" / "jwks.json"


def test_the_longest_token_that_may_be_asked_for_is_accepted(tmp_path: Path) -> None:
    found = config.parse(WRITTEN, base=tmp_path)
    assert Settings.from_params({"token_ttl": 86400}).token_ttl <= found.clusters[0].policy().max_lifetime_seconds


def test_the_ports_are_read_back() -> None:
    assert read_ports(WRITTEN) == SOME
    earlier = b"".join(line for line in WRITTEN.splitlines(keepends=True) if not line.startswith(b"renewal"))
    assert read_ports(earlier) == Ports(SOME.grpc, SOME.http), "as an earlier version wrote it"


@pytest.mark.parametrize(
    ("life", "bound"),
    [("1h", "1d"), ("12h", "1d"), ("13h", "26h"), ("30d", "60d"), ("60d", "90d"), ("89d", "90d"), ("90d", "")],
)
def test_renewal_by_certificate_is_bounded_as_the_ca_wants_it(tmp_path: Path, life: str, bound: str) -> None:
    """More than one life, so that it is of any use; at most what the CA allows; else not at all."""
    settings = Settings(certificate_ttl=parse_duration(life))
    found = config.parse(ca_config.render(settings, SOME), base=tmp_path).renewal
    if not bound:
        assert found is None
        return
    assert found is not None
    assert str(found.listen) == SOME.renewal_address
    assert found.max_without_token == parse_duration(bound)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", WRITTEN.replace(b"http:", b"htpp:"), WRITTEN.replace(b"127.0.0.1", b"0.0.0.0")],
)
def test_other_files_name_no_ports(content: bytes) -> None:
    assert read_ports(content) is None


def test_installed_ports_are_kept_even_while_they_are_in_use(taken: int) -> None:
    installed = Ports(taken, taken + 1)
    assert choose(0, installed, renewal=False) == installed
    assert choose(taken, installed, renewal=False) == installed
    assert choose(0, SOME, renewal=True) == SOME


def test_a_port_in_use_is_refused_with_what_to_do(taken: int) -> None:
    with pytest.raises(MachineError, match=f"port {taken} .* taken.*--ca-port 0"):
        choose(taken, None, renewal=True)
    with pytest.raises(MachineError, match=f"port {taken} "):
        choose(taken, SOME, renewal=True)


def test_another_port_is_taken_over_and_the_health_port_kept() -> None:
    free = ports.free_port(())
    assert choose(free, SOME, renewal=True) == Ports(free, SOME.http, SOME.renewal)
    assert choose(free, Ports(1, free, 3), renewal=True).http != free
    assert choose(free, Ports(1, 2, free), renewal=True).renewal not in {0, free}


def test_an_installation_without_renewal_gets_a_port_for_it_and_keeps_the_others() -> None:
    before = Ports(SOME.grpc, SOME.http)
    after = choose(0, before, renewal=True)
    assert (after.grpc, after.http) == (before.grpc, before.http)
    assert ports.is_free(after.renewal)
    assert after.renewal not in {0, before.grpc, before.http}
    assert choose(0, SOME, renewal=False) == before


def test_free_ports_are_free_different_and_outside_of_the_ephemeral_range() -> None:
    found = choose(0, None, renewal=True)
    every = (found.grpc, found.http, found.renewal)
    assert len(set(every)) == 3
    assert all(ports.is_free(port) and 1024 < port < 32768 for port in every)


def test_no_free_port_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _: False)
    with pytest.raises(MachineError, match="none free"):
        choose(0, None, renewal=True)
