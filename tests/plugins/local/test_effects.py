"""The effects on real directories: made, seen again, refused where something foreign stands, taken back."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from dataclasses import replace
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
from meshpki_local.settings import Agents, Settings
from support import killed_effects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meshpki.hooks import Effect, Params

A, B, C = (ServiceAccountRef("default", name) for name in ("a", "b", "c.d"))
SETTINGS = Settings(workloads=(A, B))
NAMES = ("token_issuer", "ca_material", "ca_config", "workloads")
PLACES = {
    "token_issuer": ("tokens", "tokens/issuer-key.pem", "tokens/jwks.json"),
    "ca_material": ("ca",),
    "ca_config": ("ca.yaml", "audit"),
    "workloads": (
        *("local.json", "workloads", "workloads/default.a", "workloads/default.a/sds"),
        *("workloads/default.b/certs", "workloads/default.b/cache"),
    ),
    "supervisor": ("run", "run/supervisor.lock", "logs"),
}
FILES = (".json", ".lock", ".yaml", ".pem")
DIRECTORIES = {
    place for places in PLACES.values() for place in places if not place.endswith((".json", ".lock", "ml", "m"))
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
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)
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
    is_directory = place in DIRECTORIES
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


@pytest.mark.parametrize("agent", Agents)
@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "directory"])
def test_what_is_no_socket_where_one_should_be_is_foreign(
    layout: Layout, tmp_path: Path, agent: Agents, kind: str
) -> None:
    effect = Workloads(layout, replace(SETTINGS, agent=agent))
    effect.apply(silent)
    path = layout.node_socket if agent is Agents.NODE else layout.workload(B).socket
    path.parent.mkdir(mode=0o750, exist_ok=True)
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to(tmp_path if kind == "link" else tmp_path / "nowhere")
    seen = effect.observe()
    assert seen.state is EffectState.FOREIGN
    assert str(path) in seen.detail
    assert "move it away" in seen.detail


def test_a_socket_of_an_agent_is_ours_and_a_file_in_place_of_its_link_is_not(layout: Layout) -> None:
    effect = Workloads(layout, SETTINGS)
    effect.apply(silent)
    with bound(layout.workload(A).socket):
        assert state_of(effect) is EffectState.DONE
        layout.workload(A).certificates.mkdir(mode=0o700)
        (layout.workload(A).certificates / "key.pem").write_text("precious")
        assert "key.pem is no symbolic link; move it away" in effect.observe().detail


@contextlib.contextmanager
def bound(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        directory = os.open(path.parent, os.O_RDONLY)  # whose path may be too long for a socket
        server.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)
        yield


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(("name", "place"), CASES)
def test_what_belongs_to_another_user_is_foreign(layout: Layout, name: str, place: str) -> None:
    effect = make(name, layout)
    with contextlib.suppress(MeshpkiError):
        effect.apply(silent)
    path = layout.state / place
    path.parent.mkdir(exist_ok=True, mode=0o700)
    if not path.exists():
        path.mkdir(mode=0o700) if place in DIRECTORIES else path.write_text("")
    os.chown(path, 12345, -1)
    seen = effect.observe()
    assert seen.state is EffectState.FOREIGN
    assert "user 12345" in seen.detail


@pytest.mark.parametrize("damage", [b"garbage", b""])
def test_a_key_that_is_none_is_never_replaced(layout: Layout, damage: bytes) -> None:
    effect = TokenIssuer(layout)
    effect.apply(silent)
    layout.token_key.write_bytes(damage)
    assert state_of(effect) is EffectState.DAMAGED
    with pytest.raises(MeshpkiError):
        effect.apply(silent)
    assert layout.token_key.read_bytes() == damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda ca: (ca / "root-cert.pem").unlink(), "lacks root-cert.pem"),
        (lambda ca: (ca / "issuer-key.pem").chmod(0o644), "chmod 600"),
        (lambda ca: (ca / "issuer-cert.pem").write_text("no certificate"), "issuer-cert.pem"),
    ],
    ids=["a file is gone", "others can read the key", "garbage"],
)
def test_an_authority_that_is_damaged_is_told_as_ours_with_what_to_do(
    layout: Layout, damage: Callable[[Path], object], said: str
) -> None:
    effect = CaMaterial(layout, "mesh.local")
    record = effect.undo_record()
    effect.apply(silent)
    damage(layout.ca)
    seen = effect.observe()
    assert seen.state is EffectState.DAMAGED
    assert said in seen.detail
    effect.undo(record, silent)
    assert list(layout.state.iterdir()) == []


def test_a_key_that_others_can_read_is_damaged(layout: Layout) -> None:
    effect = TokenIssuer(layout)
    effect.apply(silent)
    layout.token_key.chmod(0o640)
    assert "chmod 600" in effect.observe().detail
    assert state_of(effect) is EffectState.DAMAGED


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


OURS = (
    *("run/supervisor.lock", "run/supervisor.json", "run/.supervisor.json.17.beef.new"),
    *("logs/ca.log", "logs/ca.log.1", "logs/supervisor.log", "logs/agent-node.log", "logs/agent-default.gone.log"),
    *("audit/issuance.jsonl", "audit/issuance.jsonl.head"),
    *("workloads/default.a/token", "workloads/default.a/.token.17.beef.new", "workloads/default.a/status.json"),
    *("workloads/default.b/cache/identity.json", "workloads/default.b/cache/.identity.json.17.beef.new"),
    *("workloads/default.b/certs/..set-0/key.pem", "workloads/default.b/certs/..set-0/root-cert.pem"),
)
"""What the processes of an installation write, besides links and sockets."""
OTHERS = (
    *("tokens/mine", "ca/mine", "logs/mine", "logs/mine.log", "logs/agent-x.log.2", "audit/mine", "run/mine"),
    *("workloads/mine", "workloads/default.a/mine", "workloads/default.a/certs/mine", "workloads/default.a/sds/mine"),
    *("workloads/default.a/cache/mine", "workloads/default.b/certs/..set-0/mine", "workloads/default.b/certs/key.pem"),
    *("node/mine", "audit/issuance.jsonl.mine", "run/.supervisor.json.mine"),
)


def lived_in(layout: Layout) -> None:
    """An installation as it is after its processes have run."""
    for name in NAMES:
        make(name, layout).apply(silent)
    for place in OURS:
        write(layout.state / place)
    certificates = layout.workload(B).certificates
    (certificates / "..data").symlink_to("..set-0")
    (certificates / "cert-chain.pem").symlink_to("..data/cert-chain.pem")
    for path in (layout.workload(A).socket, layout.workload(A).sds / ".sds-17", layout.node_socket):
        path.parent.mkdir(mode=0o750, exist_ok=True)
        with bound(path):
            pass


def write(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True, parents=True)
    path.write_text("something")


def undo_all(layout: Layout) -> list[str]:
    said: list[str] = []
    for name in (*NAMES, "supervisor"):
        record: Params = {"before": "", "existed": False, "key_existed": False}
        make(name, layout).undo(record, said.append)
    return said


def test_all_that_processes_left_is_taken_away(layout: Layout) -> None:
    lived_in(layout)
    undo_all(layout)
    assert [str(path) for path in layout.state.rglob("*")] == []


@pytest.mark.parametrize("place", OTHERS)
def test_one_file_of_another_beside_ours_survives_the_undoing(layout: Layout, place: str) -> None:
    lived_in(layout)
    write(layout.state / place)
    said = undo_all(layout)
    assert [path for path in layout.state.rglob("*") if not path.is_dir()] == [layout.state / place]
    assert any("is kept: it holds files that are not ours" in line for line in said)
    assert undo_all(layout), "and it can be undone again"
    assert (layout.state / place).read_text() == "something"


@pytest.mark.parametrize(
    "place",
    [
        *("workloads/default.a/sds/sds.sock", "workloads/default.a/sds/link", "workloads/default.a/token"),
        *(
            "workloads/default.b/certs/..set-1",
            "workloads/default.a/certs",
            "workloads/default.a/cache",
            "node/sds.sock",
            "logs/ca.log",
            "audit",
            "run",
        ),
        *("ca", "tokens", "tokens/jwks.json", "workloads/default.a"),
    ],
)
def test_a_link_of_anothers_stays_and_is_not_followed(layout: Layout, tmp_path: Path, place: str) -> None:
    lived_in(layout)
    link, precious = layout.state / place, tmp_path / "precious"
    if link.exists():
        link.rename(precious)  # with all that is in it: names as ours, and somebody else's now
    else:
        write(precious / "file")
        write(precious / "key.pem")
    link.parent.mkdir(mode=0o700, exist_ok=True)
    before = list(precious.rglob("*"))
    link.symlink_to(precious)
    undo_all(layout)
    assert [path for path in layout.state.rglob("*") if not path.is_dir() or path.is_symlink()] == [link]
    assert list(precious.rglob("*")) == before


def test_a_workload_that_goes_leaves_the_files_of_others_and_nothing_more_to_do(layout: Layout) -> None:
    lived_in(layout)
    mine = layout.workload(B).certificates / "mine"
    write(mine)
    effect = Workloads(layout, Settings(workloads=(A,)))
    effect.apply(silent)
    assert [path for path in layout.workload(B).directory.rglob("*") if path.is_file()] == [mine]
    assert state_of(effect) is EffectState.DONE


@pytest.mark.parametrize("agent", Agents)
def test_agents_that_move_leave_the_files_of_others_and_nothing_more_to_do(layout: Layout, agent: Agents) -> None:
    lived_in(layout)
    other = next(one for one in Agents if one is not agent)
    Workloads(layout, replace(SETTINGS, agent=other)).apply(silent)
    mine = layout.node / "mine" if agent is Agents.WORKLOAD else layout.workload(A).sds / "mine"
    write(mine)
    effect = Workloads(layout, replace(SETTINGS, agent=agent))
    effect.apply(silent)
    assert mine.exists()
    assert state_of(effect) is EffectState.DONE


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


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond a few bytes: what write(2) then says is what it says on a full disk.

    Around what is tried alone: what pytest itself writes meanwhile may be to a file, too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_an_error_and_leaves_no_half_file(layout: Layout, name: str) -> None:
    effect = make(name, layout)
    with full_disk(), pytest.raises(MachineError, match="could not"):
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


def test_a_local_json_of_another_version_is_left_alone(layout: Layout) -> None:
    layout.installation.write_text('{"version": 9}')
    assert state_of(Workloads(layout, SETTINGS)) is EffectState.DAMAGED


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
