from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from meshpki_cli.app import app
from meshpki_cli.catalog import SECTIONS, Entry
from support import command_line

HEAVY = {
    "attr",
    "cattrs",
    "cryptography",
    "google",
    "grpc",
    "jwt",
    "meshpki_local",
    "pluggy",
    "prometheus_client",
    "pydantic",
    "rich",
    "sqlite3",
    "ssl",
    "urllib3",
    "yaml",
}


def paths(entries: tuple[Entry, ...], *before: str) -> Iterator[tuple[str, ...]]:
    for entry in entries:
        yield (*before, entry.name)
        yield from paths(entry.children, *before, entry.name)


COMMANDS = [(), *(path for section in SECTIONS for path in paths(section.entries))]


def imported_by(*args: str) -> set[str]:
    """Every module, by full name, that a command line imports."""
    run = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-m", "meshpki_cli", *args],
        capture_output=True,
        text=True,
        check=True,
        env=command_line.environment(),
    )
    return {line.rsplit("|", 1)[1].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    ("args", "allowed"),
    [
        (["--help"], set()),
        (["--version"], set()),
        # Typer checks the value of every option with pydantic, so whatever comes after a parsed option pays for it.
        (["ca", "--help"], {"pydantic"}),
        (["audit", "verify", "--help"], {"pydantic"}),
    ],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(args: list[str], allowed: set[str]) -> None:
    modules = imported_by(*args)
    assert "typer" in modules
    assert {name.partition(".")[0] for name in modules} & HEAVY <= allowed


def test_help_imports_no_command_and_little_of_core() -> None:
    ours = {name for name in imported_by("--help") if name.partition(".")[0].startswith("meshpki")}
    assert ours == {
        "meshpki",
        "meshpki.errors",
        "meshpki_cli",
        "meshpki_cli.app",
        "meshpki_cli.catalog",
        "meshpki_cli.early_signals",
        "meshpki_cli.entry",
        "meshpki_cli.failures",
        "meshpki_cli.lazy",
        "meshpki_cli.streams",
        "meshpki_cli.telling",
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_that_fits(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in (60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as left:
            app([*path, "--help"], prog_name="meshpki")
        shown = capsys.readouterr()
        assert (left.value.code, shown.err) == (0, "")
        assert shown.out.startswith(f"Usage: {' '.join(('meshpki', *path))} [OPTIONS]")
        assert len(shown.out.splitlines()) > 4
        assert command_line.widest(shown.out) <= columns, shown.out


def test_every_command_is_listed_with_its_help_line() -> None:
    shown = " ".join(command_line.invoke("--help", env={"COLUMNS": "80"}).out.split())
    for section in SECTIONS:
        assert f"{section.title}:" in shown
        for entry in section.entries:
            assert f"{entry.name} {entry.help}" in shown


def test_help_as_a_process() -> None:
    ran = command_line.spawn("--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Usage: meshpki [OPTIONS] COMMAND")
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("group", [[], ["ca"], ["token"], ["audit"], ["agent"]], ids=" ".join)
def test_a_group_alone_shows_its_help_on_stderr_and_is_a_usage_error(group: list[str]) -> None:
    ran = command_line.invoke(*group)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("Usage: ")


def test_version_agrees_with_itself() -> None:
    short = command_line.invoke("--version")
    assert (short.code, short.err) == (0, "")
    name, version = short.out.split()
    assert name == "meshpki"
    long = command_line.invoke("version", "--output", "json")
    assert f'"meshpki": "{version}"' in long.out
    assert command_line.invoke("version").out.split()[:2] == ["meshpki", version]


def test_completion_knows_commands_and_options() -> None:
    def complete(words: str) -> list[str]:
        env = command_line.environment(
            {"_MESHPKI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
        )
        script = "import sys; sys.argv[0] = 'meshpki'; from meshpki_cli.app import main; main()"
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)
        return run.stdout.split()

    assert complete("meshpki pro") == ["provision"]
    assert complete("meshpki audit ") == ["verify", "tail"]
    assert "--state-dir" in complete("meshpki status --st")
