from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshpki import plugins
from meshpki.errors import MachineError, MeshpkiError, OperatorNeededError, RefusedError, UsageError
from meshpki_cli import failures
from support import command_line, plugin_distribution

CANARY = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `meshpki plugins` raise something."""

    def arrange(error: BaseException) -> None:
        def load() -> None:
            raise error

        monkeypatch.setattr(plugins, "load", load)

    return arrange


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MachineError("the disk is full", wanted="some space", todo="free some"), 1),
        (RefusedError("no"), 1),
        (UsageError("nonsense"), 2),
        (OperatorNeededError("your word"), 3),
    ],
)
def test_each_error_leaves_with_its_own_status(
    failing: Callable[[BaseException], None], error: MeshpkiError, code: int
) -> None:
    failing(error)
    ran = command_line.invoke("plugins")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith(f"error: {error.seen}\n")
    assert "Traceback" not in ran.err


def test_an_error_says_what_was_seen_what_was_wanted_what_to_do_and_the_evidence(
    failing: Callable[[BaseException], None],
) -> None:
    failing(MachineError("the disk is full", wanted="some space", todo="free some", evidence=("df says 0", "so it is")))
    assert command_line.invoke("plugins").err.splitlines() == [
        "error: the disk is full",
        "wanted: some space",
        "to do: free some",
        "evidence: df says 0",
        "evidence: so it is",
    ]


READ: dict[str, Callable[[str], Any]] = {"json": json.loads, "yaml": yaml.safe_load}


@pytest.mark.parametrize("form", READ)
def test_with_json_or_yaml_output_an_error_is_one_such_document(
    failing: Callable[[BaseException], None], form: str
) -> None:
    failing(OperatorNeededError("things changed", wanted="the same", todo="look", evidence=("a -> b",)))
    ran = command_line.invoke("plugins", "--output", form)
    assert (ran.code, ran.out) == (3, "")
    assert READ[form](ran.err) == {
        "error": "OperatorNeededError",
        "seen": "things changed",
        "wanted": "the same",
        "todo": "look",
        "evidence": ["a -> b"],
        "exit_code": 3,
    }


@pytest.mark.parametrize(
    ("error", "name", "code"),
    [
        (KeyboardInterrupt(), "Interrupted", 130),
        (failures.InterruptedRun("at step 2", "go on"), "Interrupted", 130),
        (KeyError("boom"), "KeyError", 1),
        (MachineError("full"), "MachineError", 1),
    ],
    ids=["Ctrl-C", "Ctrl-C on the way", "a bug", "ours"],
)
@pytest.mark.parametrize("form", READ)
@pytest.mark.parametrize("debug", [False, True])
def test_so_is_everything_else_that_ends_a_command(
    failing: Callable[[BaseException], None], error: BaseException, name: str, code: int, form: str, debug: bool
) -> None:
    failing(error)
    ran = command_line.invoke(*["--debug"] * debug, "plugins", "-o", form)
    document = READ[form](ran.err)
    assert (ran.code, document["error"], document["exit_code"]) == (code, name, code)
    assert ("Traceback" in document.get("traceback", "")) == (debug and code == 1)


@pytest.mark.parametrize("form", READ)
def test_half_a_key_takes_nothing_with_it(failing: Callable[[BaseException], None], form: str) -> None:
    failing(MachineError("seen -----BEGIN PRIVATE KEY-----\nMIIE", todo="look", evidence=("a", "b")))
    ran = command_line.invoke("--debug", "plugins", "-o", form)
    document = READ[form](ran.err)
    assert (document["seen"], document["todo"], document["evidence"]) == ("seen [redacted]", "look", ["a", "b"])
    assert "Traceback" in document["traceback"]
    assert "MIIE" not in ran.err


@pytest.mark.parametrize(
    "args",
    [
        ("plugins", "--foo"),
        ("provision", "--platform", "moon"),
        ("provision",),
        ("audit", "verify"),
        ("plugins", "extra"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("wish", ["-o json", "-ojson", "--output json", "--output=json", "-o yaml", "-o table -o json"])
def test_so_is_a_command_line_that_cannot_be_meant(args: tuple[str, ...], wish: str) -> None:
    ran = command_line.invoke(*args, *wish.split())
    document = READ[wish[-4:]](ran.err)
    assert (ran.code, document["error"], document["exit_code"]) == (2, "UsageError", 2)
    assert document["seen"]
    assert document["todo"]


def test_a_server_tells_its_error_in_its_log(tmp_path: Path) -> None:
    """Where its stderr is the log: one line of it, not three of another shape that the next start mixes up."""
    command = ("ca", "serve", "--config", str(tmp_path / "nowhere.yaml"))
    ran = command_line.spawn(*command)
    assert (ran.code, ran.out) == (1, "")
    (line,) = (json.loads(line) for line in ran.err.splitlines())
    assert (line["level"], line["todo"]) == ("error", "check the path")
    assert "nowhere.yaml: No such file" in line["message"]
    assert "traceback" in json.loads(command_line.spawn("--debug", *command).err.splitlines()[-1])
    shown = command_line.plain(command_line.on_terminal(*command, columns=200).out)
    assert shown.startswith("error: could not read")
    assert "to do: check the path" in shown.splitlines()


def test_what_nobody_expected_is_told_shortly(failing: Callable[[BaseException], None]) -> None:
    failing(KeyError("boom"))
    ran = command_line.invoke("plugins")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: meshpki itself failed: KeyError: 'boom'\nto do: ")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("how", [("--debug", "plugins"), ("plugins",)])
def test_debug_shows_the_traceback(failing: Callable[[BaseException], None], how: tuple[str, ...]) -> None:
    failing(KeyError("boom"))
    ran = command_line.invoke(*how, env={"MESHPKI_DEBUG": "" if "--debug" in how else "1"})
    assert ran.code == 1
    assert "Traceback (most recent call last)" in ran.err


def test_debug_of_one_call_does_not_leak_into_the_next(failing: Callable[[BaseException], None]) -> None:
    failing(KeyError("boom"))
    command_line.invoke("--debug", "plugins")
    assert "Traceback" not in command_line.invoke("plugins").err


SERVERS = {
    "ca serve": ("ca", "serve", "--config", "nowhere.yaml"),
    "agent run": ("agent", "run", "--ca-address", "127.0.0.1:1", "--ca-roots", "nowhere.pem", "--ca-server-name", "x"),
    "run": ("run", "--platform", "local", "--state-dir", "nowhere"),
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    ("before", "after", "variable", "level"),
    [
        ((), (), "", logging.INFO),
        (("--debug",), (), "", logging.DEBUG),
        ((), (), "1", logging.DEBUG),
        (("--debug",), ("--log-level", "error"), "", logging.ERROR),
        ((), ("--log-level", "debug"), "", logging.DEBUG),
    ],
)
def test_servers_log_in_detail_where_that_is_asked_for(
    server: str, before: tuple[str, ...], after: tuple[str, ...], variable: str, level: int
) -> None:
    ran = command_line.invoke(*before, *SERVERS[server], *after, env={"MESHPKI_DEBUG": variable})
    assert ran.code in {1, 2}
    assert logging.getLogger().level == level


def test_what_we_start_hears_of_debug_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str | None] = []

    def load(**_: object) -> plugins.PluginSet:
        heard.append(os.environ.get("MESHPKI_DEBUG"))
        return plugins.PluginSet()

    monkeypatch.setattr(plugins, "load", load)
    for before in (["--debug"], []):
        command_line.invoke(*before, "plugins")
    assert heard == ["1", None]


@pytest.mark.parametrize("error", [KeyError(CANARY), RuntimeError(f"Bearer {CANARY}"), MachineError(f"seen {CANARY}")])
def test_a_token_in_an_error_is_cut_out(failing: Callable[[BaseException], None], error: BaseException) -> None:
    failing(error)
    for args in (["plugins"], ["--debug", "plugins"], ["plugins", "--output", "json"]):
        ran = command_line.invoke(*args)
        assert "eyJ" not in ran.err + ran.out
        assert "[redacted]" in ran.err


def test_an_escape_sequence_in_an_error_does_not_reach_the_terminal(failing: Callable[[BaseException], None]) -> None:
    failing(MachineError("\x1b[2Jgone\x07"))
    assert command_line.invoke("plugins").err == "error: \\x1b[2Jgone\\x07\n"


def test_ctrl_c_says_how_things_stand(failing: Callable[[BaseException], None]) -> None:
    failing(KeyboardInterrupt())
    ran = command_line.invoke("plugins")
    assert (ran.code, ran.out, ran.err) == (130, "", "interrupted: nothing was changed\n")
    failing(failures.InterruptedRun("at step 2 of 3: the CA", "the same again"))
    ran = command_line.invoke("plugins")
    assert (ran.code, ran.err) == (130, "interrupted: at step 2 of 3: the CA\nto do: the same again\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["verson"], "Did you mean 'version'?"),
        (["version", "--outptu", "json"], "--output"),
        (["version", "--output", "xml"], "xml"),
        (["audit", "verify"], "FILE"),
        (["audit", "tail", "x", "-n", "many"], "--lines"),
        (["audit", "tail", "x", "-n", "0"], "--lines"),
        (["run"], "--platform"),
        (["ca", "serve", "--config", "x", "extra"], "extra"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_meant(args: list[str], said: str) -> None:
    ran = command_line.invoke(*args)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert said in ran.err
    assert "to do: meshpki" in ran.err


def test_a_token_among_the_arguments_is_never_echoed() -> None:
    for args in ([CANARY], ["version", CANARY], [f"--{CANARY}"], ["audit", "tail", "x", "-n", CANARY], ["ca", CANARY]):
        ran = command_line.invoke(*args)
        assert ran.code == 2
        assert "eyJ" not in ran.err + ran.out


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for args in (["plugins"], ["plugins", "-o", "json"], ["version"]):
        ran = subprocess.run(
            [*command_line.COMMAND, *args],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=command_line.environment(),
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (failures.OUTPUT_CLOSED, b"")
    os.close(writing)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("ca", "init", "", "--trust-domain", "mesh.local"), "'DIRECTORY'"),
        (("audit", "verify", ""), "'FILE'"),
        (("ca", "serve", "--config="), "'--config'"),
        (("agent", "run", "--sds-socket", ""), "'--sds-socket'"),
        (("agent", "run", "--secret-files", ""), "'--secret-files'"),
    ],
)
def test_an_empty_path_is_not_where_we_stand(args: tuple[str, ...], named: str) -> None:
    ran = command_line.invoke(*args)
    assert (ran.code, ran.out) == (2, "")
    assert f"{named}: it is empty; wanted: a path" in ran.err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("args", [("--help",), ("token", "inspect", "-")])
def test_a_stream_that_is_closed_is_no_error_of_ours(args: tuple[str, ...], closed: str) -> None:
    def ran(redirected: str) -> subprocess.CompletedProcess[bytes]:
        line = f"exec {shlex.join([*command_line.COMMAND, *args])} {redirected}"
        env = command_line.environment()
        return subprocess.run(["sh", "-c", line], input=b"", capture_output=True, env=env, check=False)

    whole, without = ran(""), ran(closed)
    assert without.returncode == whole.returncode
    assert without.stdout == (b"" if " >" in f" {closed}" else whole.stdout)
    assert without.stderr == (b"" if "2>" in closed else whole.stderr)


def test_a_plugin_that_prints_does_not_spoil_the_document(tmp_path: Path) -> None:
    code = (
        "from meshpki.testing.platform import DirectoryPlatform\n"
        "from meshpki.plugins import hookimpl\n"
        "class Chatty(DirectoryPlatform):\n"
        "  @hookimpl\n  def detect(self, request):\n    print('hello')\n    return super().detect(request)\n"
        "plugin = Chatty()\n"
    )
    env = plugin_distribution.install(tmp_path, "directory", code)
    args = ("provision", "--platform", "directory", "--state-dir", str(tmp_path / "s"), "--dry-run", "-o", "json")
    ran = command_line.spawn(*args, env=env)
    assert json.loads(ran.out)["pending"] is True
    assert ran.err == "hello\n"


def test_a_full_disk_under_stdout_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        for args in (["plugins"], ["version", "-o", "yaml"], ["--help"]):
            ran = subprocess.run(
                [*command_line.COMMAND, *args],
                stdout=full,
                stderr=subprocess.PIPE,
                env=command_line.environment(),
                check=False,
            )
            assert ran.returncode == 1
            assert b"could not write the output: No space left" in ran.stderr


@pytest.mark.parametrize("there", [True, False], ids=["on stdout", "on stderr"])
def test_an_encoding_that_lacks_a_character_is_no_error(tmp_path: Path, there: bool) -> None:
    log = tmp_path / "audit-☃"
    if there:
        log.write_bytes(b'{"seq":0,')  # a record's beginning, without a head
    ran = command_line.spawn("audit", "verify", str(log), env={"PYTHONIOENCODING": "ascii"})
    assert ran.code == 1
    assert "audit-" in (ran.out if there else ran.err)
    assert "itself failed" not in ran.err


def test_sigint_as_a_signal(tmp_path: Path) -> None:
    """A command that waits on stdin gets a real SIGINT."""
    process = subprocess.Popen(
        [*command_line.COMMAND, "token", "inspect", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=command_line.environment(),
    )
    wait_until_it_reads(process.pid)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=command_line.BOUND_SECONDS)
    assert (process.returncode, out, err) == (130, b"", b"interrupted: nothing was changed\n")


def wait_until_it_reads(pid: int) -> None:
    """Wait until the process sleeps in a read of a pipe."""
    import time

    deadline = time.monotonic() + command_line.BOUND_SECONDS
    while time.monotonic() < deadline:
        if "pipe_read" in Path(f"/proc/{pid}/wchan").read_text() or _reads_stdin(pid):
            return
        time.sleep(0.02)
    raise AssertionError("it never came to read its stdin")


def _reads_stdin(pid: int) -> bool:
    try:
        call = Path(f"/proc/{pid}/syscall").read_text().split()
    except OSError:
        return False
    return call[:2] == ["0", "0x0"]  # read(0, ...)
