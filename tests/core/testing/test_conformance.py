"""The rules for changes: our example keeps them, and each broken one is named."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki.hooks import Detection, EffectState, Mode, Observation
from meshpki.testing import platform
from meshpki.testing.conformance import check_changes
from meshpki.testing.platform import NAME, DirectoryPlatform, plugin_set

if TYPE_CHECKING:
    from meshpki.hooks import Params, Progress


def test_the_example_conforms_and_leaves_nothing(tmp_path: Path) -> None:
    check_changes(plugin_set(), NAME, tmp_path, {"file": ("a=first", "b=second", "c=third")})
    assert list(tmp_path.iterdir()) == []


def volatile(monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count()

    def detect(self: object, request: object) -> Detection:
        return Detection(f"v{next(count)}", "test", (Mode.SDS,))

    detect.meshpki_impl = DirectoryPlatform.detect.meshpki_impl  # type: ignore[attr-defined]  # hookimpl's mark
    monkeypatch.setattr(DirectoryPlatform, "detect", detect)


def never_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform._File, "observe", lambda self: Observation(EffectState.ABSENT))


def undo_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def undo(self: object, record: Params, progress: Progress) -> None:
        pass

    monkeypatch.setattr(platform._File, "undo", undo)


def undo_twice_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def undo(self: platform._File, record: Params, progress: Progress) -> None:
        self.path.unlink()

    monkeypatch.setattr(platform._File, "undo", undo)


def record_is_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform._File, "undo_record", lambda self: {"path": self.path})


def apply_once_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(self: platform._File, progress: Progress) -> None:
        with self.path.open("a") as file:
            file.write(self.content)

    monkeypatch.setattr(platform._File, "apply", apply)


@pytest.mark.parametrize(
    ("break_it", "seen"),
    [
        (volatile, "the same request gave another plan: facts, version: v0 -> v1"),
        (never_done, r"file\.a: absent \(\) applied once, wanted done"),
        (undo_does_nothing, r"file\.a: done after undo, wanted absent"),
        (undo_twice_fails, "No such file"),
        (record_is_no_data, "undo record of change 'file.a'"),
        (apply_once_only, r"file\.a: different \(other content\) applied twice"),
    ],
)
def test_each_broken_rule_is_named(
    break_it: object, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(break_it)
    break_it(monkeypatch)
    with pytest.raises((AssertionError, OSError, ValueError), match=seen):
        check_changes(plugin_set(), NAME, tmp_path, {"file": ("a=first",)})


def test_what_stands_there_before_is_no_fair_start(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    with pytest.raises(AssertionError, match="root: done before it was applied"):
        check_changes(plugin_set(), NAME, tmp_path, {})
