"""The effects on real directories: made, seen again, refused where something foreign stands, taken back."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import MachineError, MeshpkiError
from meshpki.hooks import EffectState, Mode
from meshpki.identity import ServiceAccountRef
from meshpki_local import installation, issuer_key
from meshpki_local.effects import factories
from meshpki_local.effects.ca_config import CaConfig
from meshpki_local.effects.ca_material import CaMaterial
from meshpki_local.effects.supervisor import SupervisorProcess
from meshpki_local.effects.token_issuer import TokenIssuer
from meshpki_local.effects.workloads import Workloads
from meshpki_local.layout import Layout
from meshpki_local.ports import read_ports
from meshpki_local.settings import Settings
from support import killed_effects

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meshpki.hooks import Effect, Params

A, B, C = (ServiceAccountRef("default", name) for name in ("a", "b", "c.d"))
SETTINGS = Settings(workloads=(A, B))
NAMES = ("token_issuer", "ca_material", "ca_config", "workloads")
PLACES = {
    "token_issuer": ("tokens", "tokens/issuer-key.pem", "tokens/jwks.json"),
    "ca_material": ("ca",),
    "ca_config": ("ca.yaml", "audit"),
    "workloads": ("local.json", "workloads", "workloads/default.a"),
    "supervisor": ("run", "run/supervisor.lock", "logs"),
}
CASES = [(name, place) for name, places in PLACES.items() for place in places]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return Layout(state)


def silent(_: str) -> None:
    pass


def make(name: str, layout: Layout, settings: Settings = SETTINGS) -> Effect:
    match name:
        case "token_issuer":
            return TokenIssuer(layout)
        case "ca_material":
            return CaMaterial(layout, settings.trust_domain)
        case "ca_config":
            return CaConfig(layout, settings)
        case "workloads":
            return Workloads(layout, settings)
        case _:
            return SupervisorProcess(layout, settings)


def state_of(effect: Effect) -> EffectState:
    return effect.observe().state


def content(layout: Layout) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in layout.state.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_a_life(layout: Layout, name: str) -> None:
    effect = make(name, layout)
    assert state_of(effect) is EffectState.ABSENT
    record = effect.undo_record()
    effect.apply(silent)
    effect.gate(silent)
    assert state_of(effect) is EffectState.DONE
    first = content(layout)
    effect.apply(silent)
    assert content(layout) == first, "a second time changes no byte"
    for path in layout.state.rglob("*"):
        public = path.suffix in {".json", ".pem"} and "key" not in path.name and path.name != "local.json"
        allowed = 0o750 if path.name == "sds" else 0o700 if path.is_dir() else 0o644 if public else 0o600
        assert path.stat().st_mode & 0o777 == allowed, path
    for _ in range(2):
        effect.undo(record, silent)
        assert list(layout.state.iterdir()) == []
    assert state_of(effect) is EffectState.ABSENT


@pytest.mark.e2e
@pytest.mark.parametrize("name", NAMES)
def test_killed_before_any_touch_it_is_gone_on_with_or_taken_back(tmp_path: Path, name: str) -> None:
    command = [sys.executable, killed_effects.__file__, name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 3, "it was killed somewhere"


@pytest.mark.parametrize(("name", "place"), CASES)
@pytest.mark.parametrize("kind", ["link", "dangling link", "other kind", "others can write"])
def test_something_foreign_is_said_with_what_to_do_and_left_alone(
    layout: Layout, tmp_path: Path, name: str, place: str, kind: str
) -> None:
    effect = make(name, layout)
    with contextlib.suppress(MeshpkiError):
        effect.apply(silent)
    path, elsewhere = layout.state / place, tmp_path / "elsewhere"
    is_directory = "." not in path.name or path.name == "default.a"
    if path.exists() and kind != "others can write":
        path.rename(tmp_path / "aside")
    path.parent.mkdir(exist_ok=True, mode=0o700)
    match kind:
        case "link":
            elsewhere.mkdir(mode=0o700) if is_directory else elsewhere.write_text("precious")
            path.symlink_to(elsewhere)
        case "dangling link":
            path.symlink_to(elsewhere)
        case "other kind" if is_directory:
            path.write_text("precious")
        case "other kind":
            path.mkdir(mode=0o700)
        case _:
            if not path.exists():
                path.mkdir() if is_directory else path.write_text("")
            path.chmod(0o777 if is_directory else 0o666)
    seen = effect.observe()
    assert seen.state is EffectState.FOREIGN, seen
    assert str(path) in seen.detail
    assert "move it away" in seen.detail or "chmod" in seen.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(("name", "place"), CASES)
def test_what_belongs_to_another_user_is_foreign(layout: Layout, name: str, place: str) -> None:
    effect = make(name, layout)
    with contextlib.suppress(MeshpkiError):
        effect.apply(silent)
    path = layout.state / place
    path.parent.mkdir(exist_ok=True, mode=0o700)
    if not path.exists():
        path.mkdir(mode=0o700) if "." not in path.name else path.write_text("")
    os.chown(path, 12345, -1)
    seen = effect.observe()
    assert seen.state is EffectState.FOREIGN
    assert "user 12345" in seen.detail


@pytest.mark.parametrize("damage", [b"garbage", b""])
def test_a_key_that_is_none_is_never_replaced(layout: Layout, damage: bytes) -> None:
    effect = TokenIssuer(layout)
    effect.apply(silent)
    layout.token_key.write_bytes(damage)
    assert state_of(effect) is EffectState.FOREIGN
    with pytest.raises(MeshpkiError):
        effect.apply(silent)
    assert layout.token_key.read_bytes() == damage


def test_a_key_that_others_can_read_is_foreign(layout: Layout) -> None:
    effect = TokenIssuer(layout)
    effect.apply(silent)
    layout.token_key.chmod(0o640)
    assert "chmod 600" in effect.observe().detail
    assert state_of(effect) is EffectState.FOREIGN


@pytest.mark.parametrize("damage", ["missing", "of another key"])
def test_the_public_half_is_made_again_from_the_key(layout: Layout, tmp_path: Path, damage: str) -> None:
    effect = TokenIssuer(layout)
    effect.apply(silent)
    kid = issuer_key.load(layout.token_key).kid
    layout.jwks.unlink() if damage == "missing" else layout.jwks.write_text("{}")
    assert state_of(effect) is EffectState.DIFFERENT
    effect.apply(silent)
    assert state_of(effect) is EffectState.DONE
    assert issuer_key.load(layout.token_key).kid == kid


def test_a_key_that_was_there_before_is_kept(layout: Layout) -> None:
    TokenIssuer(layout).apply(silent)
    layout.jwks.unlink()
    effect = TokenIssuer(layout)
    record = effect.undo_record()
    effect.apply(silent)
    effect.undo(record, silent)
    assert layout.token_key.exists()


def test_an_authority_that_was_there_before_is_kept(layout: Layout) -> None:
    effect = CaMaterial(layout, "mesh.local")
    effect.apply(silent)
    effect.undo(effect.undo_record(), silent)
    assert state_of(effect) is EffectState.DONE


def test_another_trust_domain_is_another_installation(layout: Layout) -> None:
    CaMaterial(layout, "one.example").apply(silent)
    effect = CaMaterial(layout, "two.example")
    assert state_of(effect) is EffectState.FOREIGN
    assert "one.example" in effect.observe().detail
    with pytest.raises(MeshpkiError, match=r"one\.example"):
        effect.apply(silent)


def test_files_of_others_beside_ours_survive_the_undoing(layout: Layout) -> None:
    for name in NAMES:
        make(name, layout).apply(silent)
    strangers = [
        layout.tokens / "mine",
        layout.ca / "mine",
        layout.workloads / "mine",
        layout.workloads / "default.a/mine",
    ]
    for path in strangers:
        path.write_text("precious")
    said: list[str] = []
    for name in NAMES:
        record: Params = {"before": "", "existed": False, "key_existed": False}
        make(name, layout).undo(record, said.append)
    assert {path for path in layout.state.rglob("*") if path.is_file()} == set(strangers)
    assert len([line for line in said if "is kept" in line]) == len(strangers)


def test_ports_are_chosen_once(layout: Layout) -> None:
    effect = CaConfig(layout, SETTINGS)
    effect.apply(silent)
    first = read_ports(layout.ca_config.read_bytes())
    CaConfig(layout, Settings(certificate_ttl=60)).apply(silent)
    assert read_ports(layout.ca_config.read_bytes()) == first
    assert state_of(effect) is EffectState.DIFFERENT
    assert "3600s" in effect.observe().detail


def test_a_changed_configuration_comes_back_byte_for_byte(layout: Layout) -> None:
    CaConfig(layout, SETTINGS).apply(silent)
    first = layout.ca_config.read_bytes()
    second = CaConfig(layout, Settings(certificate_ttl=60))
    record = second.undo_record()
    second.apply(silent)
    assert layout.ca_config.read_bytes() != first
    second.undo(record, silent)
    assert layout.ca_config.read_bytes() == first
    assert layout.audit.is_dir()


def test_an_edited_configuration_is_shown_and_put_right(layout: Layout) -> None:
    effect = CaConfig(layout, SETTINGS)
    effect.apply(silent)
    edited = layout.ca_config.read_text().replace("max_ttl: 3600s", "max_ttl: 90d")
    layout.ca_config.write_text(edited)
    assert "-profile: {default_ttl: 3600s, max_ttl: 90d}" in effect.observe().detail
    assert state_of(effect) is EffectState.DIFFERENT
    effect.apply(silent)
    assert state_of(effect) is EffectState.DONE


def test_a_configuration_of_the_operators_is_foreign(layout: Layout) -> None:
    layout.ca_config.write_text("trust_domain: mine\n")
    assert state_of(CaConfig(layout, SETTINGS)) is EffectState.FOREIGN


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond a few bytes: what write(2) then says is what it says on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_an_error_and_leaves_no_half_file(layout: Layout, name: str) -> None:
    effect = make(name, layout)
    with pytest.raises(MachineError, match="could not"):
        effect.apply(silent)
    assert [path for path in layout.state.rglob("*") if path.is_file()] == []
    assert state_of(effect) is EffectState.ABSENT


def test_a_workload_more_and_one_less(layout: Layout) -> None:
    Workloads(layout, SETTINGS).apply(silent)
    kept = layout.workload(A).token
    kept.write_text("a token")
    layout.workload(B).certificates.mkdir()
    layout.workload(B).cache.mkdir()
    after = Settings(workloads=(A, C))
    effect = Workloads(layout, after)
    assert effect.observe().detail == "adds default/c.d; removes default/b"
    record = effect.undo_record()
    effect.apply(silent)
    assert state_of(effect) is EffectState.DONE
    assert {path.name for path in layout.workloads.iterdir()} == {"default.a", "default.c.d"}
    assert kept.read_text() == "a token"
    effect.undo(record, silent)
    assert installation.read(layout.installation) == SETTINGS
    assert state_of(Workloads(layout, SETTINGS)) is EffectState.DONE
    assert kept.read_text() == "a token"


def test_a_removal_that_was_broken_off_is_finished(layout: Layout) -> None:
    Workloads(layout, SETTINGS).apply(silent)
    layout.installation.write_bytes(installation.render(Settings(workloads=(A,))))
    effect = Workloads(layout, Settings(workloads=(A,)))
    assert "left over: ['default/b']" in effect.observe().detail
    effect.apply(silent)
    assert state_of(effect) is EffectState.DONE


def test_links_inside_a_workloads_directory_are_not_followed(layout: Layout, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    effect = Workloads(layout, SETTINGS)
    record = effect.undo_record()
    effect.apply(silent)
    layout.workload(A).certificates.symlink_to(precious)
    (layout.workload(B).sds / "link").symlink_to(precious)
    effect.undo(record, silent)
    assert (precious / "file").exists()
    assert list(layout.state.iterdir()) == []


def test_a_local_json_of_another_version_is_foreign(layout: Layout) -> None:
    layout.installation.write_text('{"version": 9}')
    assert state_of(Workloads(layout, SETTINGS)) is EffectState.FOREIGN


def test_a_changed_life_is_said(layout: Layout) -> None:
    Workloads(layout, SETTINGS).apply(silent)
    changed = Settings(workloads=(A, B), token_ttl=600, mode=Mode.FILE_MOUNT)
    assert Workloads(layout, changed).observe().detail == "mode sds -> file-mount; token_ttl 3600 -> 600"


@pytest.mark.parametrize("name", ["token_issuer", *NAMES[1:], "supervisor"])
def test_the_factories_touch_nothing_and_refuse_nonsense(tmp_path: Path, name: str) -> None:
    factory = getattr(factories, name)
    factory(tmp_path / "state", SETTINGS.params())
    assert list(tmp_path.iterdir()) == []
    if name != "token_issuer":
        with pytest.raises(MeshpkiError):
            factory(tmp_path, {**SETTINGS.params(), "trust_domain": "../etc"})
