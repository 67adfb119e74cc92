"""The token file in every state that a kubelet, an editor or a full disk can leave it in."""

from __future__ import annotations

import os
import threading
import traceback
from pathlib import Path

import pytest

from meshpki.agent.renewal.token_file import TokenFileError, fingerprint, read_token
from meshpki.errors import MachineError, MeshpkiError
from meshpki.runtime.files import read_capped
from meshpki.tokens.reasons import TokenReason
from support.agent_process import CANARY, fake_token

NOW = 1_800_000_000.0
GOOD = fake_token(expires_at=NOW + 600)


@pytest.mark.parametrize("around", ["{}", "{}\n", "  {}\r\n\n", "\t{}"])
def test_white_space_around_it_is_no_part_of_it(tmp_path: Path, around: str) -> None:
    path = tmp_path / "token"
    path.write_text(around.format(GOOD))
    token = read_token(path, now=NOW)
    assert (token.value, token.expires_at) == (GOOD, int(NOW + 600))
    assert CANARY not in repr(token)
    assert GOOD not in repr(token)


def test_a_token_without_expiry_is_for_the_ca_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(fake_token())
    assert read_token(path, now=NOW).expires_at is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, TokenReason.MISSING),
        ("", TokenReason.MISSING),
        (" \n", TokenReason.MISSING),
        ("garbage", TokenReason.MALFORMED),
        ("a.b", TokenReason.MALFORMED),
        (GOOD[: GOOD.index(".") + 40], TokenReason.MALFORMED),
        (GOOD.split(".", maxsplit=1)[0] + "." + GOOD.split(".")[1][:31] + ".x", TokenReason.MALFORMED),
        (GOOD.replace(".", "\n.", 1), TokenReason.MALFORMED),
        (GOOD + "\nx-other: header", TokenReason.MALFORMED),
        ("e30.W10.x", TokenReason.MALFORMED),  # its payload is the JSON array []
        ("e30.bnVsbA.x", TokenReason.MALFORMED),  # null
        ("x" * 20_000, TokenReason.TOO_LARGE),
        (fake_token(expires_at=NOW), TokenReason.EXPIRED),
        (fake_token(expires_at=NOW - 86_400), TokenReason.EXPIRED),
    ],
)
def test_what_is_not_worth_sending_is_refused_by_name(tmp_path: Path, content: str | None, reason: TokenReason) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TokenFileError) as caught:
        read_token(path, now=NOW)
    assert caught.value.reason is reason
    assert CANARY not in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is not None or caught.value.__suppress_context__ or caught.value.__context__ is None


def test_an_expired_one_names_both_clocks(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(fake_token(expires_at=NOW - 90))
    with pytest.raises(TokenFileError, match=r"expired 90 s ago .*1799999910.*1800000000"):
        read_token(path, now=NOW)


def test_a_directory_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="directory"):
        read_token(tmp_path, now=NOW)


def kubelet_swap(directory: Path, number: int) -> None:
    """A projected volume's update: new directory, `..data` swung over, old directory removed."""
    fresh = directory / f"..{number}"
    fresh.mkdir()
    (fresh / "token").write_text(fake_token(expires_at=NOW + 600, mark=str(number)))
    old = directory / (directory / "..data").readlink() if (directory / "..data").is_symlink() else None
    passing = directory / "..data_tmp"
    passing.symlink_to(fresh.name)
    passing.replace(directory / "..data")
    if old is not None:
        (old / "token").unlink()
        old.rmdir()


def test_a_swap_while_reading_gives_the_old_token_or_the_new(tmp_path: Path) -> None:
    kubelet_swap(tmp_path, 0)
    path = tmp_path / "token"
    path.symlink_to("..data/token")
    done = threading.Event()

    def swap() -> None:
        for number in range(1, 400):
            kubelet_swap(tmp_path, number)
        done.set()

    thread = threading.Thread(target=swap)
    thread.start()
    reads = 0
    while not done.is_set() or reads == 0:
        assert read_token(path, now=NOW).expires_at == int(NOW + 600)
        reads += 1
    thread.join()


def test_a_directory_removed_under_the_reader_is_met_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text(GOOD)
    looks = []

    def overtaken(at: Path, *, limit: int) -> bytes:
        looks.append(at)
        return read_capped(tmp_path / "..gone" / "token" if len(looks) < 3 else at, limit=limit)

    monkeypatch.setattr("meshpki.agent.renewal.token_file.read_capped", overtaken)
    assert read_token(path, now=NOW).value == GOOD


def test_a_fingerprint_tells_contents_apart_through_symlinks(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert fingerprint(path) is None
    kubelet_swap(tmp_path, 0)
    path.symlink_to("..data/token")
    first = fingerprint(path)
    assert first == fingerprint(path)
    kubelet_swap(tmp_path, 1)
    assert fingerprint(path) not in {None, first}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_the_machines_fault(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(GOOD)
    path.chmod(0)
    with pytest.raises(MeshpkiError, match="Permission denied"):
        read_token(path, now=NOW)
