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
