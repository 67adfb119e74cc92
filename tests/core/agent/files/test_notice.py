"""Whom to tell, as an operator writes it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from meshpki.agent.files.notice import CommandNotice, SignalNotice, parse_command, parse_signal
from meshpki.errors import UsageError


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("/usr/sbin/nginx -s reload", ("/usr/sbin/nginx", "-s", "reload")),
        ("/bin/a 'b c' \"d\" e\\ f", ("/bin/a", "b c", "d", "e f")),
        ("/bin/echo $HOME `id` ; rm * | x > y", ("/bin/echo", "$HOME", "`id`", ";", "rm", "*", "|", "x", ">", "y")),
        ("/bin/a ''", ("/bin/a", "")),
    ],
)
def test_a_command_is_split_and_nothing_in_it_expanded(text: str, arguments: tuple[str, ...]) -> None:
    assert parse_command(text).arguments == arguments


@pytest.mark.parametrize(
    "text", ["", " ", "nginx -s reload", "./a", "~/a", "'/bin/a", "/bin/a \0", "/bin/a " + "b " * 64]
)
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_command(text)


def test_a_command_needs_time() -> None:
    with pytest.raises(UsageError):
        CommandNotice(("/bin/a",), seconds=0)


@pytest.mark.parametrize(
    ("text", "number"),
    [("HUP:/run/a.pid", signal.SIGHUP), ("USR1:/run/a.pid", signal.SIGUSR1), ("USR2:/run/a.pid", 12)],
)
def test_a_signal_and_a_pid_file(text: str, number: signal.Signals) -> None:
    assert parse_signal(text) == SignalNotice(number, Path("/run/a.pid"))


@pytest.mark.parametrize(
    "text", ["", "HUP", "HUP:", "HUP:a.pid", "hup:/a", "SIGHUP:/a", "1:/a", "KILL:/a", "TERM:/a", "STOP:/a", ":/a"]
)
def test_what_is_no_signal_for_a_pid_file_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_signal(text)


def test_a_signal_that_ends_programs_is_refused_however_it_comes() -> None:
    with pytest.raises(UsageError, match="SIGKILL"):
        SignalNotice(signal.SIGKILL, Path("/run/a.pid"))
