"""What an agent cannot be told."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from meshpki.agent.files.access import FileAccess
from meshpki.agent.files.notice import CommandNotice, SignalNotice
from meshpki.agent.node.config import NodeConfig
from meshpki.agent.process.config import AgentConfig, listen_address
from meshpki.errors import UsageError

GOOD = AgentConfig("ca.test:15012", Path("roots"), "ca.test", Path("token"), sds_socket=Path("sds"))


@pytest.mark.parametrize(
    "address",
    ["", "ca.test", "ca.test:", ":15012", "ca.test:0", "ca.test:65536", "ca.test:१", "a:b", "https://ca.test:15012"],
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


def test_a_shared_socket_directory_needs_a_socket() -> None:
    assert replace(GOOD, shared_socket_directory=True).sds_socket
    with pytest.raises(UsageError, match="without a socket"):
        replace(GOOD, sds_socket=None, files=Path("certs"), shared_socket_directory=True)


@pytest.mark.parametrize("address", ["15020", "127.0.0.1", ":15020", "h:65536"])
def test_a_node_s_agent_examines_where_it_listens_too(address: str) -> None:
    with pytest.raises(UsageError, match="to listen on"):
        NodeConfig("ca.test:15012", Path("roots"), "ca.test", Path("sds"), http=address)


WITH_FILES = replace(GOOD, files=Path("certs"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("files_mode", 0o644),
        ("files_owner", "no-such-user-here"),
        ("files_command", "reload"),
        ("files_signal", "KILL:/run/a.pid"),
    ],
)
def test_options_for_files_that_cannot_be_meant(option: str, value: object) -> None:
    with pytest.raises(UsageError):
        replace(WITH_FILES, **{option: value})  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("files_mode", 0o640),
        ("files_owner", "1:1"),
        ("files_command", "/bin/true"),
        ("files_signal", "HUP:/run/a.pid"),
    ],
)
def test_options_for_files_need_files(option: str, value: object) -> None:
    assert replace(WITH_FILES, **{option: value}).files  # type: ignore[arg-type]  # by name
    with pytest.raises(UsageError, match="no files"):
        replace(GOOD, **{option: value})  # type: ignore[arg-type]  # by name


def test_a_command_or_a_signal_and_not_both() -> None:
    with pytest.raises(UsageError, match="one of the two"):
        replace(WITH_FILES, files_command="/bin/true", files_signal="HUP:/run/a.pid")


def test_what_options_for_files_mean() -> None:
    config = replace(WITH_FILES, files_mode=0o440, files_owner="5:6", files_signal="USR1:/run/a.pid")
    assert config.files_access == FileAccess(0o440, 5, 6)
    assert config.files_notice == SignalNotice(signal.SIGUSR1, Path("/run/a.pid"))
    assert WITH_FILES.files_access == FileAccess()
    assert WITH_FILES.files_notice is None
    assert replace(WITH_FILES, files_command="/bin/a b").files_notice == CommandNotice(("/bin/a", "b"))
