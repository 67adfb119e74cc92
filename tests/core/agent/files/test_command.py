"""The command after a change: real programs, that end, fail, hang, talk too much, or leave something behind."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
import time
from pathlib import Path

import pytest

from meshpki.agent.files import command as file_command
from meshpki.agent.files.notice import CommandNotice
from meshpki.agent.rotation.key_request import KeyType, new_key_request
from meshpki.errors import MachineError
from support.agent_process import fake_token, wait_until

KEY = new_key_request(KeyType.EC_P256).key_pem.decode()


def python(code: str, *arguments: str, seconds: float = 60) -> CommandNotice:
    return CommandNotice((sys.executable, "-I", "-c", code, *arguments), seconds)


def run(command: CommandNotice, directory: Path) -> None:
    asyncio.run(file_command.run(command, directory))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_gets_its_arguments_the_directory_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "1")
    code = "import os, sys; open(sys.argv[1], 'w').write(repr((dict(os.environ), os.getcwd(), sys.argv[2:])))"
    run(python(code, str(tmp_path / "seen"), "$HOME", "a b", "; true"), tmp_path)
    environment, cwd, arguments = eval((tmp_path / "seen").read_text())  # noqa: S307 - written two lines above
    assert arguments == ["$HOME", "a b", "; true"], "no shell has looked at them"
    assert cwd == "/"
    assert environment.pop("MESHPKI_FILES") == str(tmp_path)
    assert set(environment) <= {"PATH", "LANG", "LC_CTYPE"}


def test_it_has_no_terminal_no_input_and_no_file_of_ours(tmp_path: Path) -> None:
    """The agent's own descriptors (its socket, its log) stay with the agent, even one that was made inheritable."""
    code = """
import os, sys
assert sys.stdin.read() == ""
assert os.getsid(0) == os.getpid()
open_ones = {int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)}
assert open_ones == {0, 1, 2}, open_ones
"""
    (tmp_path / "input").write_text("what the agent was given")
    stdin = os.dup(0)
    try:
        with (tmp_path / "input").open() as given, (tmp_path / "held").open("w") as held:
            os.dup2(given.fileno(), 0)
            os.set_inheritable(held.fileno(), True)
            run(python(code), tmp_path)
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; print('it went wrong', file=sys.stderr); sys.exit(3)", ("exit status 3", "it went wrong")),
        ("import os; os.kill(os.getpid(), 9)", ("signal 9",)),
    ],
)
def test_a_failure_says_how_and_what_it_said(tmp_path: Path, code: str, words: tuple[str, ...]) -> None:
    with pytest.raises(MachineError) as caught:
        run(python(code), tmp_path)
    assert all(word in caught.value.seen for word in words)


@pytest.mark.parametrize("path", ["/no/such/program", "/etc/passwd", "/etc"])
def test_what_cannot_be_started_is_an_error_of_ours(tmp_path: Path, path: str) -> None:
    with pytest.raises(MachineError, match=path):
        run(CommandNotice((path,)), tmp_path)


def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time; print('began', flush=True)\n"
        "child = subprocess.Popen(['/bin/sleep', '600'])\n"
        "open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}')\n"
        "time.sleep(600)"
    )
    with pytest.raises(MachineError, match=r"within 8 s.*began"):  # time enough to begin, on any machine
        run(python(code, str(pids), seconds=8), tmp_path)
    for pid in pids.read_text().split():
        wait_until(lambda: not alive(int(pid)), "gone")  # noqa: B023 - called here


def test_a_cancelled_one_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid()) + ' '); time.sleep(600)"

    async def main() -> None:
        task = asyncio.create_task(file_command.run(python(code, str(pid_file)), tmp_path))
        while not (pid_file.exists() and pid_file.read_text().endswith(" ")):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(main(), 60))
    assert not alive(int(pid_file.read_text()))


def test_what_it_leaves_behind_goes_on_and_is_not_waited_for(tmp_path: Path) -> None:
    """A daemon that holds the output open, as `service x restart` leaves one."""
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign,assignment]  # all that a test needs of one
    file_command.log.addHandler(handler)
    file_command.log.setLevel(logging.INFO)
    began = time.monotonic()
    try:
        run(python(code), tmp_path)
    finally:
        file_command.log.removeHandler(handler)
        file_command.log.setLevel(logging.NOTSET)
    assert time.monotonic() - began < 60
    pid = int(vars(records[0])["said"])
    assert alive(pid)
    os.kill(pid, 9)


def test_much_output_neither_stops_it_nor_stays(tmp_path: Path) -> None:
    code = "import sys\nfor n in range(300_000): print('line', n)\nsys.exit(1)"
    with pytest.raises(MachineError) as caught:
        run(python(code), tmp_path)
    assert "exit status 1" in caught.value.seen, "it was not stopped by a full pipe"
    assert "line 0" in caught.value.seen
    assert len(caught.value.seen) < 2 * file_command.MAX_OUTPUT


def test_what_came_last_is_not_lost() -> None:
    """The end of a program is often seen before its last words are read."""

    async def main() -> str:
        with file_command._Output() as output:
            os.write(output.writer, b"last words")
            return output.text()

    assert asyncio.run(main()) == "last words"


TOKEN = fake_token(expires_at=1)


@pytest.mark.parametrize(
    "said",
    [KEY, "\n".join(KEY.splitlines()[1:]), KEY.splitlines()[2], "- " * 2000 + KEY, TOKEN, "Bearer " + TOKEN],
    ids=["key", "key without its head", "a line of it", "cut off", "token", "bearer"],
)
def test_no_key_and_no_token_in_what_is_told_of_it(tmp_path: Path, said: str) -> None:
    (tmp_path / "said").write_text(said)
    with pytest.raises(MachineError) as caught:
        run(
            python("import sys; print('hello', open(sys.argv[1]).read()); sys.exit(1)", str(tmp_path / "said")),
            tmp_path,
        )
    text = str(caught.value)
    assert "hello" in text
    assert "eyJ" not in text
    assert "canary" not in text
    for secret in (*KEY.splitlines()[1:-1], *TOKEN.split(".")[:2]):
        assert not any(secret[at : at + 40] in text for at in range(len(secret) - 39))


def test_without_a_file_left_for_its_output_it_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pipe(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pipe2", no_pipe)
    with pytest.raises(MachineError, match="could not run"):
        run(python(""), tmp_path)
