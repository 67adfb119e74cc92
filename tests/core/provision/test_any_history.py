"""Any sequence of runs, faults, interrupts and removals ends where a single clean run ends (hypothesis, stateful)."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshpki.errors import MeshpkiError
from meshpki.hooks import Mode
from meshpki.provision import journal
from meshpki.testing.killed import deprovision, provision
from meshpki.testing.platform import MARK, NAME, DirectoryPlatform, plugin_set

FILES = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["one", "two", "three"]), max_size=4)
STAGES = st.sampled_from(["apply", "gate", "undo", "crash", "interrupt"])
FAULTS = st.sets(st.tuples(STAGES, st.sampled_from("abcd")), max_size=2)


def options(files: dict[str, str]) -> dict[str, tuple[str, ...]]:
    return {"file": tuple(f"{name}={content}" for name, content in files.items())}


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.parent = Path(tempfile.mkdtemp())
        self.state_dir = self.parent / "state"
        self.platform = DirectoryPlatform()
        self.plugins = plugin_set(self.platform)
        (self.parent / "mine").write_text("mine")

    def teardown(self) -> None:
        shutil.rmtree(self.parent)

    def broken(self, place: int, action: str, files: dict[str, str]) -> None:
        """Run until the checkpoint of that number, then Ctrl-C; or into whatever fault is set."""
        left = place

        def stop(name: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        with contextlib.suppress(MeshpkiError, KeyboardInterrupt):
            if action == "provision":
                provision(self.plugins, NAME, self.state_dir, options(files), stop)
            else:
                deprovision(self.plugins, self.state_dir, stop)

    @rule(place=st.integers(1, 40), action=st.sampled_from(["provision", "deprovision"]), files=FILES)
    def interrupted(self, place: int, action: str, files: dict[str, str]) -> None:
        self.broken(place, action, files)

    @rule(faults=FAULTS, action=st.sampled_from(["provision", "deprovision"]), files=FILES)
    def failed(self, faults: set[tuple[str, str]], action: str, files: dict[str, str]) -> None:
        self.platform.faults = {f"{stage}:file.{name}" for stage, name in faults}
        self.broken(0, action, files)
        self.platform.faults = set()

    @rule(name=st.sampled_from("abcd"))
    def lost(self, name: str) -> None:
        """Somebody removes a file behind our back."""
        (self.state_dir / "files" / name).unlink(missing_ok=True)

    @rule(files=FILES)
    def clean(self, files: dict[str, str]) -> None:
        provision(self.plugins, NAME, self.state_dir, options(files), lambda name: None)
        found = {path.name: path.read_text() for path in (self.state_dir / "files").iterdir()}
        assert found == {name: MARK + content for name, content in files.items()}
        history = journal.read(self.state_dir)
        assert sorted(item.id for item in history.made) == sorted(["root", *(f"file.{name}" for name in files)])
        assert all(item.proven and len(item.undo) == 1 for item in history.made)
        assert history.installed is not None
        assert history.installed.mode is Mode.SDS
        again = provision(self.plugins, NAME, self.state_dir, options(files), lambda name: None)
        assert not again.changed

    @rule()
    def removed(self) -> None:
        deprovision(self.plugins, self.state_dir, lambda name: None)
        assert [path.name for path in self.parent.iterdir()] == ["mine"]

    @invariant()
    def what_is_not_ours_stays(self) -> None:
        assert (self.parent / "mine").read_text() == "mine"

    @invariant()
    def the_journal_knows_every_file(self) -> None:
        made = {item.id for item in journal.read(self.state_dir).made}
        for path in (self.state_dir / "files").glob("*"):
            assert f"file.{path.name}" in made


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=40, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
