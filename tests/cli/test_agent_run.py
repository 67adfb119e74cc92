from __future__ import annotations

import pytest

from support import command_line

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
