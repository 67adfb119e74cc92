from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshpki import plugins
from meshpki.plugins import PluginFailure, PluginSet, Stage
from meshpki.testing.platform import plugin_set
from support import command_line, plugin_distribution


def test_the_built_in_platform_is_listed() -> None:
    ran = command_line.invoke("plugins")
    assert (ran.code, ran.err) == (0, "")
    row = next(line for line in ran.out.splitlines() if line.startswith("local "))
    assert row.split()[1] == "ok"


def test_a_vendor_is_listed_with_its_distribution(tmp_path: Path) -> None:
    env = plugin_distribution.install(tmp_path, "directory", plugin_distribution.DIRECTORY)
    ran = command_line.spawn("plugins", "-o", "json", env=env)
    assert ran.code == 0
    found = {plugin["name"]: plugin for plugin in json.loads(ran.out)["plugins"]}
    assert found["directory"] == {
        "name": "directory",
        "state": "ok",
        "origin": "vendor 1.0",
        "summary": "a directory with files in it, for tests",
        "options": ["file", "directory"],
    }


def test_a_broken_plugin_is_one_line_and_an_exit_status(tmp_path: Path) -> None:
    env = plugin_distribution.install(tmp_path, "directory", "raise SystemExit('no\x1b[2J')")
    ran = command_line.spawn("plugins", env=env)
    assert (ran.code, ran.err) == (1, "")
    row = next(line for line in ran.out.splitlines() if line.startswith("directory "))
    assert row.split()[1] == "BROKEN"
    assert "import: SystemExit: no" in row
    assert "\x1b" not in ran.out
    assert command_line.spawn("version", env=env).code == 0


def test_a_disabled_plugin_is_no_fault(tmp_path: Path) -> None:
    env = plugin_distribution.install(tmp_path, "directory", "raise SystemExit('no')")
    ran = command_line.spawn("plugins", env={**env, "MESHPKI_DISABLED_PLUGINS": "directory"})
    assert ran.code == 0
    assert "disabled" in ran.out


def test_strict_plugins_refuses_beside_a_broken_one(tmp_path: Path) -> None:
    env = plugin_distribution.install(tmp_path, "directory", "raise SystemExit('no')")
    args = ["provision", "--platform", "local", "--state-dir", str(tmp_path / "state"), "--dry-run"]
    assert command_line.spawn(*args, env=env).code == 3
    ran = command_line.spawn(*args, "--strict-plugins", env=env)
    assert (ran.code, ran.out) == (1, "")
    assert "plugin 'directory' of vendor 1.0" in ran.err


@pytest.mark.parametrize(
    "args",
    [
        ("apply", "plan.json", "--yes"),
        ("status", "--state-dir", "s"),
        ("verify", "--state-dir", "s"),
        ("deprovision", "--state-dir", "s", "--yes"),
        ("run", "--platform", "directory", "--state-dir", "s"),
    ],
    ids=lambda args: args[0],
)
def test_so_it_does_in_every_command_that_asks_plugins(args: tuple[str, ...], tmp_path: Path) -> None:
    """Of an installation by a plugin in order, beside a broken one."""
    own = ("provision", "--platform", "directory", "--state-dir", "s")
    good = plugin_distribution.install(tmp_path, "directory", plugin_distribution.DIRECTORY)
    command_line.spawn(*own, "--yes", env=good, cwd=tmp_path)
    command_line.spawn(*own, "--file", "x=1", "--plan-out", "plan.json", env=good, cwd=tmp_path)
    (tmp_path / "broken").mkdir()
    bad = plugin_distribution.install(tmp_path / "broken", "acme", "raise SystemExit('no')", distribution="other")
    env = {"PYTHONPATH": f"{good['PYTHONPATH']}:{bad['PYTHONPATH']}"}
    strict = command_line.spawn(*args, "--strict-plugins", env=env, cwd=tmp_path)
    assert (strict.code, strict.out) == (1, "")
    assert "plugin 'acme' of other 1.0 cannot be used" in strict.err
    assert sorted(path.name for path in (tmp_path / "s" / "files").iterdir()) == ["a", "b"]
    assert "acme" not in command_line.spawn(*args, env=env, cwd=tmp_path).err


def test_nobody_takes_a_built_in_name(tmp_path: Path) -> None:
    env = plugin_distribution.install(tmp_path, "local", plugin_distribution.DIRECTORY)
    ran = command_line.spawn("plugins", env=env)
    assert ran.code == 1
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("local ")] == ["ok", "BROKEN"]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_list_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = command_line.on_terminal("plugins", columns=columns)
    assert command_line.widest(ran.out) <= columns


def test_no_plugin_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "load", lambda **_: PluginSet())
    ran = command_line.invoke("plugins")
    assert "No plugin was found" in ran.out


def test_a_platform_is_demanded_and_the_known_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "load", lambda **_: plugin_set())
    for args in ([], ["--yes"], ["--file", "x=y"], ["--platform"]):
        ran = command_line.invoke("provision", *args)
        assert (ran.code, ran.out) == (2, "")
        assert "one of: directory" in ran.err


def test_an_unknown_platform_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "load", lambda **_: plugin_set())
    for args in (["--platform", "nope"], ["--platform=nope", "--help"], ["--platform", "directory", "--platform=nope"]):
        ran = command_line.invoke("provision", *args)
        assert (ran.code, ran.out) == (2, "")
        assert "there is no platform 'nope'" in ran.err
        assert "directory" in ran.err


def test_a_broken_platform_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = PluginSet(failures=(PluginFailure("gone", "vendor 1.0", Stage.IMPORT, "No module named 'x'"),))
    monkeypatch.setattr(plugins, "load", lambda **_: broken)
    ran = command_line.invoke("provision", "--platform", "gone")
    assert (ran.code, ran.out) == (1, "")
    assert "No module named 'x'" in ran.err


def test_help_shows_the_options_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "load", lambda **_: plugin_set())
    without = command_line.invoke("provision", "--help")
    assert without.code == 0
    assert "--file" not in without.out
    for args in (["--platform", "directory"], ["--platform=directory"]):
        shown = command_line.invoke("provision", *args, "--help").out
        own = shown[shown.index("Options of the platform directory:") :]
        assert "--file NAME=CONTENT" in own
        assert "--directory" in own
        assert "--yes" not in own


def test_an_option_that_the_platform_lacks_is_a_usage_error_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins, "load", lambda **_: plugin_set())
    ran = command_line.invoke("provision", "--platform", "directory", "--directry", "x")
    assert (ran.code, ran.out) == (2, "")
    assert "--directory" in ran.err
