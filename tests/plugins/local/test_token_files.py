"""When a token file is due, by table; and the file itself, on a real directory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import MachineError
from meshpki.identity import ServiceAccountRef
from meshpki_local.issuer import IssuerKey, TokenRequest, mint
from meshpki_local.settings import AUDIENCE, ISSUER
from meshpki_local.token_files import TokenSeen, due_at, read_seen, refresh
from meshpki_local.token_keeper import node_name
from support.tokens import rsa_key

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000
WEB = ServiceAccountRef("default", "web")
KEY = IssuerKey.of(rsa_key())
SEEN = TokenSeen(KEY.kid, ISSUER, WEB.subject, (AUDIENCE,), NOW, NOW + 3600)
DAY = 86400


@pytest.mark.parametrize(
    ("seen", "due"),
    [
        (SEEN, NOW + 2880),
        (replace(SEEN, expires_at=NOW + 600), NOW + 480),
        (replace(SEEN, expires_at=NOW + 30 * 3600), NOW + DAY),
        (replace(SEEN, expires_at=NOW + 365 * DAY), NOW + DAY),
        (None, 0),
        (replace(SEEN, issued_at=NOW + 1), 0),
        (replace(SEEN, expires_at=NOW), 0),
        (replace(SEEN, kid="another"), 0),
        (replace(SEEN, issuer="https://another"), 0),
        (replace(SEEN, subject="system:serviceaccount:default:api"), 0),
        (replace(SEEN, audiences=()), 0),
        (replace(SEEN, audiences=("x", AUDIENCE)), 0),
    ],
)
def test_when_it_is_due(seen: TokenSeen | None, due: float) -> None:
    assert due_at(seen, WEB, KEY.kid, NOW) == due


@given(st.integers(10, 400 * DAY))
def test_it_is_always_due_before_it_expires(life: int) -> None:
    seen = replace(SEEN, expires_at=NOW + life)
    assert NOW < due_at(seen, WEB, KEY.kid, NOW) < seen.expires_at


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda part: b"eyJ9." + part + b".x"))
def test_any_bytes_give_a_verdict(content: bytes) -> None:
    read_seen(content)


def test_what_is_minted_is_read_back() -> None:
    token = mint(KEY, TokenRequest(WEB, AUDIENCE, 3600), node="n", now=NOW)
    assert read_seen(token.encode()) == SEEN


def put(path: Path, *, lifetime: int = 3600, now: float = NOW, account: ServiceAccountRef = WEB) -> float:
    return refresh(path, account, KEY, lifetime=lifetime, node="n", now=now)


def test_a_life_of_a_token_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert put(path) == NOW + 2880
    first = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert put(path, now=NOW + 2879) == NOW + 2880
    assert path.read_bytes() == first, "not before it is due"
    assert put(path, now=NOW + 2880) == NOW + 2 * 2880
    assert path.read_bytes() != first


@pytest.mark.parametrize("content", [b"", b"garbage", b"a.b.c", b"\xff" * 100, b"x" * 100_000])
def test_what_is_no_token_is_written_over(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    put(path)
    assert read_seen(path.read_bytes()) == SEEN


def test_a_token_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "token"
    put(path)
    first = path.read_bytes()
    path.chmod(0o644)
    put(path, now=NOW + 1)
    assert path.read_bytes() != first
    assert path.stat().st_mode & 0o777 == 0o600


def test_another_life_applies_at_once(tmp_path: Path) -> None:
    path = tmp_path / "token"
    put(path)
    assert put(path, lifetime=600, now=NOW + 10) == NOW + 10 + 480


def test_a_clock_that_was_ahead_does_not_keep_a_token_of_the_future(tmp_path: Path) -> None:
    path = tmp_path / "token"
    put(path, now=NOW + 5000)
    put(path, now=NOW)
    assert read_seen(path.read_bytes()) == SEEN


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "token", tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    path.symlink_to(elsewhere)
    put(path)
    assert not path.is_symlink()
    assert elsewhere.read_text() == "precious"


def test_no_directory_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="could not write"):
        put(tmp_path / "gone" / "token")


def test_the_nodes_name_is_one() -> None:
    name = node_name()
    assert name == name.lower()
    assert 0 < len(name) <= 63
