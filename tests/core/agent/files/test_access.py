"""Modes and owners as an operator writes them: what is meant is taken, what would give a key away is refused."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from meshpki.agent.files.access import FileAccess, parse_mode, parse_owner
from meshpki.errors import UsageError

ME = pwd.getpwuid(os.geteuid())
MY_GROUP = grp.getgrgid(ME.pw_gid).gr_name


@pytest.mark.parametrize(("text", "mode"), [("0600", 0o600), ("600", 0o600), ("0440", 0o440), ("0640", 0o640)])
def test_modes(text: str, mode: int) -> None:
    assert FileAccess(parse_mode(text)).mode == mode


@pytest.mark.parametrize("text", ["0644", "0604", "0660", "0700", "0610", "0200", "0040", "0000", "0777", "0620"])
def test_modes_that_give_a_key_away_or_hide_it_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="private key"):
        FileAccess(parse_mode(text))


@pytest.mark.parametrize("text", ["", "0o600", "06000", "4600", "rw-------", "0800", "-600", " 0600", "0600\n", "٠600"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        FileAccess(parse_mode(text))


@pytest.mark.parametrize(
    ("access", "mode"),
    [
        (FileAccess(), 0o700),
        (FileAccess(0o400), 0o700),
        (FileAccess(0o640), 0o750),
        (FileAccess(0o600, 1000, 1000), 0o750),
        (FileAccess(0o600, None, 1000), 0o750),
    ],
)
def test_who_may_read_the_files_may_enter_the_directory(access: FileAccess, mode: int) -> None:
    assert access.directory_mode == mode


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("1000:2000", (1000, 2000)),
        (":2000", (None, 2000)),
        ("0:0", (0, 0)),
        (ME.pw_name, (ME.pw_uid, ME.pw_gid)),
        (str(ME.pw_uid), (ME.pw_uid, ME.pw_gid)),
        (f"{ME.pw_name}:{MY_GROUP}", (ME.pw_uid, ME.pw_gid)),
        (f":{MY_GROUP}", (None, ME.pw_gid)),
        ("4294967294:4294967294", (2**32 - 2, 2**32 - 2)),
    ],
)
def test_owners(text: str, owner: tuple[int | None, int | None]) -> None:
    assert parse_owner(text) == owner


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "1000:",
        f"{ME.pw_name}:",
        "no-such-user-here",
        "1:no-such-group-here",
        ":no-such-group-here",
        "4123456789",
        "4294967295:1",
        "1:4294967295",
        "99999999999999999999999:1",
        "-1:1",
        "1:-1",
        "1.5:1",
        "١:1",
        "1:١",
        "²:1",
        "1:2:3",
    ],
)
def test_what_is_no_owner_is_refused(text: str) -> None:
    """Above all -1, which chown takes as "leave it as it is"."""
    with pytest.raises(UsageError):
        parse_owner(text)
