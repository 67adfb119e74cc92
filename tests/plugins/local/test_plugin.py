"""The hooks: what they answer, that they import nothing heavy, and that nothing volatile is in it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from meshpki.agent.socket import path as socket_path
from meshpki.errors import MachineError
from meshpki.hooks import DetectRequest, Mode, PlanRequest
from meshpki.identity import ServiceAccountRef
from meshpki_local import detect as machine
from meshpki_local import planning, plugin, specs
from meshpki_local.layout import MAX_SOCKET_PATH, Layout, account_of, directory_name
from meshpki_local.ports import Ports
from meshpki_local.settings import DEFAULT_WORKLOADS, OPTIONS, Settings
from support.local_supervisor import prepare, short_directory

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.hooks import Change, Value

DEFAULTS: dict[str, Value] = {option.name: option.default for option in OPTIONS}
HEAVY = ("grpc", "cryptography", "urllib3", "prometheus_client", "yaml", "cattrs", "jwt", "sqlite3", "pluggy")


def test_naming_the_platform_imports_nothing_heavy() -> None:
    code = "import sys, json; from meshpki_local import plugin; plugin.platform(); print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    assert not {name.partition(".")[0] for name in json.loads(done.stdout)} & set(HEAVY)


def test_the_platform() -> None:
    answer = plugin.platform()
    assert answer.name == "local"
    assert set(answer.effects) == {kind.value for kind in planning.Kind}


def changes(state: Path, **options: Value) -> tuple[Change, ...]:
    given = {**DEFAULTS, **options}
    request = PlanRequest(state, given, plugin.detect(DetectRequest(state, given)), Mode.SDS)
    answers = (plugin.plan_token_projection(request), plugin.signer(request), plugin.propagate(request))
    return tuple(change for answer in answers for change in answer.changes)


def test_the_plan_is_the_same_each_time_and_every_effect_can_be_built(tmp_path: Path) -> None:
    state = tmp_path / "s"
    first = changes(state)
    assert first == changes(state)
    assert not state.exists(), "planning touches nothing"
    for change in first:
        plugin.platform().effects[change.kind](state, change.params)
        assert change.title
        assert change.why
        assert change.diff
        assert change.undo


def test_a_workload_more_changes_only_what_runs(tmp_path: Path) -> None:
    before, after = changes(tmp_path / "s"), changes(tmp_path / "s", workload=("a/b",))
    assert [one.id for one, other in zip(before, after, strict=True) if one != other] == ["workloads", "supervisor"]


@pytest.mark.parametrize(
    ("given", "title", "agents"),
    [
        (("a/b",), "Give 1 workload an identity", "+ 1 agent"),
        (("a/b", "a/c"), "Give 2 workloads an identity", "+ 2 agents"),
    ],
    ids=["one", "two"],
)
def test_one_is_not_told_as_many(tmp_path: Path, given: tuple[str, ...], title: str, agents: str) -> None:
    *_, workloads, supervisor = changes(tmp_path / "s", workload=given)
    assert workloads.title == title
    assert supervisor.diff[-1] == agents


def test_a_short_token_is_said_to_be_shorter_than_kubernetes_grants() -> None:
    assert "shorter than the 10m" in planning.workloads(Settings(token_ttl=60)).why
    assert "shorter" not in planning.workloads(Settings(token_ttl=600)).why


def test_detection_finds_the_same_before_and_after_an_installation() -> None:
    with short_directory() as state:
        before = machine.detect(DetectRequest(state, DEFAULTS))
        prepare(state, {}, DEFAULT_WORKLOADS)
        assert machine.detect(DetectRequest(state, DEFAULTS)) == before
        assert before.modes == (Mode.SDS, Mode.FILE_MOUNT)


def test_a_path_too_long_for_a_socket_leaves_files_and_says_why(tmp_path: Path) -> None:
    found = machine.detect(DetectRequest(tmp_path / ("x" * 100), DEFAULTS))
    assert found.modes == (Mode.FILE_MOUNT,)
    answer = next(item.answer for item in found.evidence if "sockets" in item.question)
    assert f"bytes of {MAX_SOCKET_PATH}" in answer
    assert "shorter state directory" in answer


@pytest.mark.parametrize(("length", "fits"), [(MAX_SOCKET_PATH, True), (MAX_SOCKET_PATH + 1, False)])
def test_the_limit_to_the_byte(tmp_path: Path, length: int, fits: bool) -> None:
    options = {**DEFAULTS, "workload": ("n/a",)}
    shortest = len("/".join(("", "workloads", "n.a", "sds", "sds.sock")))
    with short_directory() as place:
        state = place.parent / ("x" * (length - shortest - len(f"{place.parent}/")))
        modes = machine.detect(DetectRequest(state, options)).modes
        assert (Mode.SDS in modes) == fits
        socket = Layout(state).workload(ServiceAccountRef("n", "a")).socket
        assert len(str(socket)) == length
        with contextlib.nullcontext() if fits else pytest.raises(MachineError, match="socket path"):
            socket_path.prepare(socket)  # the agent's own word on it


def test_nothing_of_the_callers_environment_is_a_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that was made in a shell is applied by cron."""
    (tmp_path / "envoy").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    before = machine.detect(DetectRequest(tmp_path / "s", DEFAULTS))
    for name in os.environ:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir("/")
    assert machine.detect(DetectRequest(tmp_path / "s", DEFAULTS)) == before


@pytest.mark.parametrize("kind", ["file", "link", "open to others"])
def test_a_state_directory_that_is_none_of_ours_is_refused(tmp_path: Path, kind: str) -> None:
    state = tmp_path / "state"
    match kind:
        case "file":
            state.write_text("")
        case "link":
            state.symlink_to(tmp_path)
        case _:
            state.mkdir(mode=0o755)
    with pytest.raises(MachineError, match=str(state)):
        machine.detect(DetectRequest(state, DEFAULTS))


def test_a_kernel_without_pidfd_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("os.pidfd_open", missing)
    with pytest.raises(MachineError, match=r"Linux 5\.3"):
        machine.detect(DetectRequest(tmp_path / "s", DEFAULTS))


@pytest.mark.parametrize("account", [*DEFAULT_WORKLOADS, account_of("a.b.c")])
def test_directory_names_read_one_way(account: object) -> None:
    name = directory_name(account)  # type: ignore[arg-type]  # they are accounts
    assert account_of(name) == account
    assert "/" not in name


def test_no_secret_is_in_any_argument_and_file_mount_has_no_socket() -> None:
    with short_directory() as state:
        layout = prepare(state, {}, DEFAULT_WORKLOADS)
        both = {
            mode: specs.wanted_children(layout, Settings(mode=mode), Ports(1, 2))
            for mode in (Mode.SDS, Mode.FILE_MOUNT)
        }
        assert all("--sds-socket" in spec.argv for spec in both[Mode.SDS][1:])
        assert not any("--sds-socket" in spec.argv for spec in both[Mode.FILE_MOUNT])
        assert both[Mode.SDS][0] == both[Mode.FILE_MOUNT][0], "the CA is the same"
        assert "-P" in both[Mode.SDS][0].argv
        arguments = " ".join(argument for spec in both[Mode.SDS] for argument in spec.argv)
        assert "eyJ" not in arguments
        assert str(layout.token_key) not in arguments


def test_a_child_is_another_one_when_what_it_was_started_from_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_directory() as state:
        layout = prepare(state, {}, DEFAULT_WORKLOADS)

        def prints() -> list[str]:
            return [spec.fingerprint for spec in specs.wanted_children(layout, Settings(), Ports(1, 2))]

        first = prints()
        assert prints() == first
        layout.ca_config.write_bytes(layout.ca_config.read_bytes() + b"# touched\n")
        assert [one == other for one, other in zip(first, prints(), strict=True)] == [False, True, True]
        layout.root_certificate.write_text("another root")
        assert prints()[1] != first[1]
        second = prints()
        monkeypatch.setattr("meshpki.__version__", "9.9")
        assert not set(prints()) & set(second)


def test_the_layout_is_below_the_state_directory(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    properties = [name for name, value in vars(Layout).items() if isinstance(value, property)]
    assert all(getattr(layout, name).is_relative_to(tmp_path) for name in properties)
    assert replace(layout) == layout
