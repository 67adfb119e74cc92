"""`meshpki agent run`: what it cannot be told, and what it says of it."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from meshpki_cli import agent_modes
from support import command_line

if TYPE_CHECKING:
    from meshpki.agent.node.config import NodeConfig
    from meshpki.agent.process.config import AgentConfig

CA = ("--ca-address", "127.0.0.1:1", "--ca-roots", "roots.pem", "--ca-server-name", "localhost")


POD = ("--token-file", "token")
NODE = ("--node",)
POD_OPTIONS = [
    ("--token-file", "token"),
    ("--ca-renewal-address", "127.0.0.1:2"),
    ("--shared-socket-directory",),
    ("--secret-files", "/etc/certs"),
    ("--files", "certs"),
    ("--files-mode", "0600"),
    ("--files-owner", "1:1"),
    ("--files-command", "/bin/true"),
    ("--files-signal", "HUP:/run/a.pid"),
]
NODE_OPTIONS = [
    ("--token-header", "istio_sds_credentials_header-bin"),
    ("--max-identities", "2048"),
    ("--max-in-flight", "16"),
]
SHARED = {
    *("--ca-address", "--ca-roots", "--ca-server-name", "--cluster", "--ttl", "--key-type", "--sds-socket"),
    *("--cache", "--status-file", "--http", "--node", "--log-level", "--ca-timeout"),
}


@pytest.mark.parametrize(
    ("mode", "option", "belongs"),
    [
        *((NODE, option, "belongs to pod mode") for option in POD_OPTIONS),
        *((POD, option, "belongs to node mode (--node)") for option in NODE_OPTIONS),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_an_option_of_the_other_mode_is_refused_and_not_ignored(
    mode: tuple[str, ...], option: tuple[str, ...], belongs: str
) -> None:
    """Also with the value that it has anyway: who writes it means something by it."""
    ran = command_line.invoke("agent", "run", *CA, *mode, "--sds-socket", "sds.sock", *option)
    assert ran.code == 2
    assert f"{option[0]} {belongs}" in ran.err


def test_all_options_of_the_other_mode_are_named_at_once() -> None:
    ran = command_line.invoke("agent", "run", *CA, *NODE, "--sds-socket", "s", "--files-mode", "0640", "--files", "f")
    assert ran.code == 2
    assert "--files and --files-mode belong to pod mode" in ran.err
    assert "leave them out, or leave out --node" in ran.err


def test_every_option_has_its_mode() -> None:
    """A new one belongs into one of the three."""
    options = set(re.findall(r"^  (--[\w-]+)", command_line.invoke("agent", "run", "--help").out, re.MULTILINE))
    of_one_mode = {*agent_modes.POD_ONLY, *agent_modes.NODE_ONLY}
    assert options - of_one_mode - {"--help"} == SHARED
    assert of_one_mode == {option for option, *_ in (*POD_OPTIONS, *NODE_OPTIONS)}


def test_node_mode_needs_a_socket_and_pod_mode_a_token() -> None:
    ran = command_line.invoke("agent", "run", *CA, *NODE)
    assert (ran.code, "--sds-socket" in ran.err) == (2, True)
    ran = command_line.invoke("agent", "run", *CA, "--sds-socket", "sds.sock")
    assert (ran.code, "--token-file" in ran.err) == (2, True)


@pytest.mark.parametrize("mode", [POD, NODE], ids=["pod", "node"])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--http", "15020"), "HOST:PORT"),
        (("--ca-address", "https://ca.test:15012"), "--ca-address=HOST:PORT"),
        (("--ca-server-name", ""), "a DNS name"),
        (("--ttl", "91d"), "90 days"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_both_modes_check_what_both_are_told(mode: tuple[str, ...], option: tuple[str, str], said: str) -> None:
    ran = command_line.invoke("agent", "run", *CA, *mode, "--sds-socket", "sds.sock", *option)
    assert ran.code == 2
    assert said in ran.err


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:0"])
def test_an_address_that_is_none_is_told_before_anything_starts(address: str) -> None:
    ran = command_line.invoke(
        "agent", "run", *CA, "--token-file", "token", "--files", "certs", "--ca-renewal-address", address
    )
    assert ran.code == 2
    assert "HOST:PORT" in ran.err


@pytest.mark.parametrize(
    "option",
    [
        ("--files-mode", "0640"),
        ("--files-owner", "1:1"),
        ("--files-command", "/bin/true"),
        ("--files-signal", "HUP:/run/a.pid"),
    ],
)
def test_options_for_files_need_files(option: tuple[str, str]) -> None:
    ran = command_line.invoke("agent", "run", *CA, *POD, "--sds-socket", "sds.sock", *option)
    assert ran.code == 2
    assert "an option for files" in ran.err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--files-mode", "0644"), "0640"),
        (("--files-mode", "rw"), "octal"),
        (("--files-owner", "no-such-user-here"), "no-such-user-here"),
        (("--files-command", "reload"), "absolute path"),
        (("--files-signal", "KILL:/run/a.pid"), "USR1"),
    ],
)
def test_options_for_files_that_cannot_be_meant_are_told_before_anything_starts(
    option: tuple[str, str], said: str
) -> None:
    ran = command_line.invoke("agent", "run", *CA, "--token-file", "token", "--files", "certs", *option)
    assert ran.code == 2
    assert said in ran.err


@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_says_which_faces_are_served_where(columns: str) -> None:
    shown = command_line.invoke("agent", "run", "--help", env={"COLUMNS": columns}).out
    assert "SPIFFE_ENDPOINT_SOCKET=unix://SOCKET" in shown
    words = " ".join(shown.split())
    assert "On --sds-socket both modes serve Envoy's SDS and the SPIFFE Workload API" in words
    assert "--sds- socket" not in words


def test_help_says_of_each_option_of_one_mode_which() -> None:
    words = " ".join(command_line.invoke("agent", "run", "--help", env={"COLUMNS": "80"}).out.split())
    for option in agent_modes.POD_ONLY:
        assert re.search(rf"{option} \S+ (Pod mode|With --files): |{option} Pod mode: ", words), option
    for option in agent_modes.NODE_ONLY:
        assert re.search(rf"{option} \S+ Node mode: ", words), option


_LOADED = """
import sys
import meshpki.agent.pod.run
from meshpki_cli.app import app
meshpki.agent.pod.run.run_agent = lambda config: print(*sorted(sys.modules), file=sys.__stdout__)
app(sys.argv[1:])
"""


def test_a_sidecar_without_files_pages_and_cache_loads_nothing_of_them() -> None:
    """A start is mostly imports."""
    arguments = ["agent", "run", *CA, *POD, "--sds-socket", "sds.sock"]

    def loaded(*more: str) -> set[str]:
        argv = [sys.executable, "-P", "-c", _LOADED, *arguments, *more]
        ran = subprocess.run(argv, capture_output=True, text=True, check=True, env=command_line.environment())
        return set(ran.stdout.split())

    of_files = {"meshpki.agent.files.access", "meshpki.agent.files.notice"}
    others = {
        "meshpki.agent.renewal.cache",
        "meshpki.agent.node.sessions",
        "meshpki.agent.process.observe",
        "prometheus_client",
        "pydantic",
    }
    assert not loaded() & (of_files | others)
    assert loaded("--files", "certs", "--files-signal", "HUP:/run/a.pid") >= of_files


@pytest.mark.parametrize("seconds", ["0", "0.05", "-1", "301", "inf", "nan", "soon"])
@pytest.mark.parametrize("mode", [("--node",), ("--token-file", "token")], ids=["node", "pod"])
def test_a_time_for_a_call_that_cannot_be_meant_is_told_with_its_option(mode: tuple[str, ...], seconds: str) -> None:
    ran = command_line.invoke("agent", "run", *CA, *mode, "--sds-socket", "sds.sock", "--ca-timeout", seconds)
    assert ran.code == 2
    assert "--ca-timeout" in ran.err


@pytest.mark.parametrize(
    ("mode", "where"),
    [(("--node",), "meshpki.agent.node.run.run_node"), (("--token-file", "token"), "meshpki.agent.pod.run.run_agent")],
    ids=["node", "pod"],
)
@pytest.mark.parametrize(("given", "seconds"), [((), 10.0), (("--ca-timeout", "0.5"), 0.5)], ids=["default", "given"])
def test_the_time_for_a_call_reaches_either_mode(
    monkeypatch: pytest.MonkeyPatch, mode: tuple[str, ...], where: str, given: tuple[str, ...], seconds: float
) -> None:
    configs: list[AgentConfig | NodeConfig] = []
    monkeypatch.setattr(where, configs.append)
    ran = command_line.invoke("agent", "run", *CA, *mode, "--sds-socket", "sds.sock", *given)
    assert (ran.code, [config.call_seconds for config in configs]) == (0, [seconds])
