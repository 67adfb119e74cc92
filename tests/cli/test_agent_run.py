from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import command_line

if TYPE_CHECKING:
    from meshpki.agent.config import AgentConfig
    from meshpki.agent.node_config import NodeConfig

CA = ("--ca-address", "127.0.0.1:1", "--ca-roots", "roots.pem", "--ca-server-name", "localhost")


def test_renewal_by_certificate_is_for_one_workload() -> None:
    ran = command_line.invoke(
        "agent", "run", *CA, "--node", "--sds-socket", "sds.sock", "--ca-renewal-address", "127.0.0.1:2"
    )
    assert ran.code == 2
    assert "--ca-renewal-address" in ran.err


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
    for mode in (("--node",), ("--token-file", "token")):
        ran = command_line.invoke("agent", "run", *CA, *mode, "--sds-socket", "sds.sock", *option)
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


@pytest.mark.parametrize("seconds", ["0", "0.05", "-1", "301", "inf", "nan", "soon"])
@pytest.mark.parametrize("mode", [("--node",), ("--token-file", "token")], ids=["node", "pod"])
def test_a_time_for_a_call_that_cannot_be_meant_is_told_with_its_option(mode: tuple[str, ...], seconds: str) -> None:
    ran = command_line.invoke("agent", "run", *CA, *mode, "--sds-socket", "sds.sock", "--ca-timeout", seconds)
    assert ran.code == 2
    assert "--ca-timeout" in ran.err


@pytest.mark.parametrize(
    ("mode", "where"),
    [(("--node",), "meshpki.agent.node_run.run_node"), (("--token-file", "token"), "meshpki.agent.run.run_agent")],
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
