"""Options: what may be chosen, what stays as installed, and the round through plan and local.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import MachineError, MeshpkiError, UsageError
from meshpki.hooks import Mode
from meshpki.identity import ServiceAccountRef
from meshpki_local import installation
from meshpki_local.settings import (
    DEFAULT_WORKLOADS,
    OPTIONS,
    Settings,
    parse_duration,
    settle,
    show_duration,
)
from support import command_line

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.hooks import Params

DEFAULTS: Params = {option.name: option.default for option in OPTIONS}
SETTINGS = st.builds(
    Settings,
    trust_domain=st.from_regex(r"[a-z0-9._-]{1,40}", fullmatch=True),
    mode=st.sampled_from([Mode.SDS, Mode.FILE_MOUNT]),
    ca_port=st.just(0),
    certificate_ttl=st.integers(10, 90 * 86400),
    token_ttl=st.integers(10, 86400),
    workloads=st.sets(st.sampled_from("abcd"), min_size=1).map(
        lambda names: tuple(ServiceAccountRef("ns", name) for name in sorted(names))
    ),
)


def test_the_defaults() -> None:
    assert settle(DEFAULTS, Mode.SDS, None) == Settings("mesh.local", Mode.SDS, 0, 3600, 3600, DEFAULT_WORKLOADS)


def test_what_is_not_said_stays_as_installed() -> None:
    installed = Settings("other.example", Mode.SDS, 0, 60, 700, (ServiceAccountRef("a", "b"),))
    assert settle(DEFAULTS, Mode.SDS, installed) == installed


def test_what_is_said_is_taken() -> None:
    options: Params = {
        "workload": ("b/two", "a/one", "b/two"),
        "trust-domain": "x.example",
        "ca-port": 15012,
        "certificate-ttl": "30m",
        "token-ttl": "10m",
    }
    wanted = (ServiceAccountRef("a", "one"), ServiceAccountRef("b", "two"))
    assert settle(options, Mode.FILE_MOUNT, Settings()) == Settings(
        "x.example", Mode.FILE_MOUNT, 15012, 1800, 600, wanted
    )


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("workload", ("web",), "NAMESPACE/NAME"),
        ("workload", ("a/../../etc",), "DNS"),
        ("workload", ("A/b",), "DNS"),
        ("workload", ("a/b\n",), "DNS"),
        ("trust-domain", "spiffe://x", "trust domain"),
        ("trust-domain", "Mesh.Local", "trust domain"),
        ("ca-port", 65536, "65535"),
        ("ca-port", -1, "65535"),
        ("certificate-ttl", "9s", "10s to 90d"),
        ("certificate-ttl", "91d", "10s to 90d"),
        ("token-ttl", "25h", "10s to 1d"),
        ("token-ttl", "1", "unit"),
        ("token-ttl", "١h", "unit"),
        ("token-ttl", "0h", "unit"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(
    name: str, value: str | int | tuple[str, ...], word: str
) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        settle({**DEFAULTS, name: value}, Mode.SDS, None)
    assert caught.value.seen.startswith(f"--{name} ")


@pytest.mark.parametrize(
    "given",
    [
        ("--workload", "Bad/x"),
        ("--trust-domain", "UPPER"),
        ("--ca-port", "99999"),
        ("--token-ttl", "soon"),
        ("--agent", "moon"),
    ],
    ids=" ".join,
)
def test_on_a_command_line_it_is_a_mistake_of_that(given: tuple[str, str], tmp_path: Path) -> None:
    ran = command_line.invoke(
        "provision", "--platform", "local", "--state-dir", str(tmp_path / "s"), "--dry-run", *given
    )
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {given[0]} ")
    assert given[1] in ran.err


@pytest.mark.parametrize(
    "params",
    [
        {"mode": "magic"},
        {"mode": 3},
        {"ca_port": True},
        {"ca_port": "1"},
        {"workloads": "a/b"},
        {"certificate_ttl": 1},
        {"trust_domain": ""},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(params: Params) -> None:
    with pytest.raises(MeshpkiError):
        Settings.from_params({**Settings().params(), **params})


@given(SETTINGS)
def test_there_and_back(settings: Settings) -> None:
    assert Settings.from_params(settings.params()) == settings
    assert installation.parse(installation.render(settings)) == settings
    assert parse_duration(show_duration(settings.token_ttl)) == settings.token_ttl


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        installation.render(Settings()).replace(b'"version": 1', b'"version": 2'),
        installation.render(Settings()).replace(b'"mode"', b'"mood"'),
        installation.render(Settings()).replace(b'"sds"', b'"magic"'),
        installation.render(Settings()).replace(b'"default/client"', b"7"),
    ],
)
def test_a_foreign_local_json_is_refused_with_what_to_do(content: bytes) -> None:
    with pytest.raises(MachineError, match="provision"):
        installation.parse(content)


def test_the_order_of_workloads_changes_no_byte() -> None:
    one = settle({**DEFAULTS, "workload": ("a/b", "c/d")}, Mode.SDS, None)
    other = settle({**DEFAULTS, "workload": ("c/d", "a/b")}, Mode.SDS, None)
    assert installation.render(one) == installation.render(other)
