"""What an agent cannot be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from meshpki.agent.config import AgentConfig, listen_address
from meshpki.errors import UsageError

GOOD = AgentConfig("ca.test:15012", Path("roots"), "ca.test", Path("token"), sds_socket=Path("sds"))


@pytest.mark.parametrize(
    "address", ["", "ca.test", "ca.test:", ":15012", "ca.test:0", "ca.test:65536", "ca.test:१", "a:b"]
)
def test_an_address_needs_host_and_port(address: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        replace(GOOD, ca_address=address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:15012", "istiod.istio-system.svc:65535"])
def test_addresses_that_are_fine(address: str) -> None:
    assert replace(GOOD, ca_address=address).ca_address == address


def test_at_least_one_face() -> None:
    with pytest.raises(UsageError, match="no face"):
        replace(GOOD, sds_socket=None)
    assert replace(GOOD, sds_socket=None, files=Path("certs")).sds_socket is None


@pytest.mark.parametrize("seconds", [0, -1, 90 * 86400 + 1])
def test_a_life_within_reason(seconds: int) -> None:
    with pytest.raises(UsageError, match="1 s to 90 days"):
        replace(GOOD, ttl_seconds=seconds)


def test_a_name_for_the_ca() -> None:
    with pytest.raises(UsageError, match="DNS name"):
        replace(GOOD, ca_server_name="")


@pytest.mark.parametrize("address", ["15020", "127.0.0.1", "127.0.0.1:", ":15020", "h:65536", "h:-1", "h:x", "h:१"])
def test_no_address_to_listen_on(address: str) -> None:
    with pytest.raises(UsageError, match="to listen on"):
        replace(GOOD, http=address)


def test_addresses_to_listen_on() -> None:
    assert listen_address("127.0.0.1:0") == ("127.0.0.1", 0)
    assert listen_address("[::1]:15020") == ("::1", 15020)
    assert replace(GOOD, http="0.0.0.0:15020").http


def test_directories_for_secrets_need_a_socket() -> None:
    assert replace(GOOD, secret_files=(Path("/etc/certs"),)).secret_files
    with pytest.raises(UsageError, match="without a socket"):
        replace(GOOD, sds_socket=None, files=Path("certs"), secret_files=(Path("/etc/certs"),))
