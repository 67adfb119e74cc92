from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from support import command_line
from support.tokens import TokenMaker

MAKER = TokenMaker()
SPENT = MAKER.token()
"""A token of long ago, where it is not to be believed: whatever is made as this file is read is old when it is run."""


def good() -> bytes:
    return MAKER.token(now=time.time())


@pytest.fixture
def jwks(tmp_path: Path) -> str:
    path = tmp_path / "jwks.json"
    path.write_bytes(MAKER.jwks())
    return str(path)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_bytes(good() + b"\n")
    return path


def signature_of(token: bytes) -> str:
    return token.decode().rsplit(".", 1)[1]


def test_a_good_token_is_trustworthy(token: Path, jwks: str) -> None:
    ran = command_line.invoke("token", "inspect", str(token), "--issuer", MAKER.issuer, "--jwks", jwks)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.rstrip().endswith("Trustworthy.")
    for subject in ("form", "algorithm", "issuer", "audience", "expiry", "account", "binding", "signature"):
        assert subject in ran.out


def test_stdin_is_as_good_as_a_file(jwks: str) -> None:
    ran = command_line.invoke("token", "inspect", "-", "--issuer", MAKER.issuer, "--jwks", jwks, given=good())
    assert ran.code == 0


def test_without_keys_nothing_is_proven(token: Path) -> None:
    ran = command_line.invoke("token", "inspect", str(token))
    assert (ran.code, ran.err) == (1, "")
    assert "Not proven" in ran.out
    assert "to do: give the cluster's public keys (--jwks)" in ran.out


@pytest.mark.parametrize(
    ("options", "subject"),
    [(["--audience", "vault"], "audience"), (["--issuer", "https://other.test"], "issuer")],
)
def test_a_problem_is_named_with_what_to_do(token: Path, options: list[str], subject: str) -> None:
    ran = command_line.invoke("token", "inspect", str(token), *options)
    assert ran.code == 1
    assert any(line.split()[:2] == ["PROBLEM", subject] for line in ran.out.splitlines())
    assert "Not trustworthy" in ran.out


def test_another_key_is_a_problem(token: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(TokenMaker(slot=1).jwks())
    ran = command_line.invoke("token", "inspect", str(token), "--jwks", str(other))
    assert ran.code == 1
    assert "PROBLEM" in ran.out


def test_an_unbound_token_is_accepted_only_by_word(tmp_path: Path, jwks: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(MAKER.token(now=time.time(), pod=None))
    options = [str(path), "--issuer", MAKER.issuer, "--jwks", jwks]
    assert command_line.invoke("token", "inspect", *options).code == 1
    assert command_line.invoke("token", "inspect", *options, "--no-require-pod").code == 0


def test_json_is_one_document_with_stable_keys(token: Path, jwks: str) -> None:
    ran = command_line.invoke("token", "inspect", str(token), "--issuer", MAKER.issuer, "--jwks", jwks, "-o", "json")
    document = json.loads(ran.out)
    assert list(document) == ["verdict", "findings"]
    assert document["verdict"] == "ok"
    assert {tuple(finding) for finding in document["findings"]} == {("subject", "verdict", "text", "todo", "reason")}


@pytest.mark.parametrize("name", [broken.name for broken in MAKER.broken()])
def test_no_broken_token_is_trusted_or_shown(name: str, tmp_path: Path, jwks: str) -> None:
    (content,) = (broken.token for broken in MAKER.broken(time.time()) if broken.name == name)
    path = tmp_path / "token"
    path.write_bytes(content)
    ran = command_line.invoke("token", "inspect", str(path), "--issuer", MAKER.issuer, "--jwks", jwks)
    if content.strip() != content:
        return  # white space around a token in a file is not the token's fault
    assert ran.code == 1
    assert ran.err == ""
    parts = [part for part in content.decode(errors="replace").split(".") if len(part) > 40]
    assert not [part for part in parts if part in ran.out]


@pytest.mark.parametrize("prefix", ["", "Bearer "])
@pytest.mark.parametrize(
    "given",
    [SPENT.decode(), SPENT.decode()[:40], "ewogICJhbGciOiJ9.c2Vjb25kLXBhcnQ.x"],
    ids=["whole", "cut", "made-up"],
)
def test_a_token_as_an_argument_is_refused_and_not_echoed(given: str, prefix: str) -> None:
    ran = command_line.invoke("token", "inspect", prefix + given)
    assert (ran.code, ran.out) == (2, "")
    assert "given as an argument" in ran.err
    assert "to do: " in ran.err
    assert given[:12] not in ran.err


def test_a_token_as_an_argument_is_not_echoed_by_debug_or_json() -> None:
    for args in (["--debug", "token", "inspect", SPENT.decode()], ["token", "inspect", SPENT.decode(), "-o", "json"]):
        ran = command_line.invoke(*args)
        assert ran.code == 2
        assert "eyJ" not in ran.out + ran.err
        assert signature_of(SPENT) not in ran.out + ran.err


def test_output_and_debug_log_hold_no_part_of_the_token(token: Path, jwks: str) -> None:
    for form in ("table", "json", "yaml"):
        ran = command_line.spawn("--debug", "token", "inspect", str(token), "--jwks", jwks, "-o", form)
        for part in token.read_text().strip().split("."):
            assert part not in ran.out + ran.err


def test_a_claim_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(MAKER.token(now=time.time(), iss="https://x\x1b]0;pwned\x07\r\n"))
    for form in ("table", "json", "yaml"):
        ran = command_line.invoke("token", "inspect", str(path), "-o", form)
        assert "\x1b" not in ran.out
        assert "\x07" not in ran.out
        assert "\r" not in ran.out


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    ran = command_line.invoke("token", "inspect", str(tmp_path / "nothing"))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"error: could not read {tmp_path / 'nothing'}: No such file")


def test_a_huge_file_is_read_in_part(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with path.open("wb") as file:
        file.truncate(1 << 32)
    ran = command_line.invoke("token", "inspect", str(path))
    assert ran.code == 1
    assert "PROBLEM" in ran.out


def test_a_keys_file_that_is_none_is_an_error(token: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("[]")
    ran = command_line.invoke("token", "inspect", str(token), "--jwks", str(keys))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ")


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_it_fits_the_terminal(token: Path, columns: int) -> None:
    ran = command_line.on_terminal("token", "inspect", str(token), columns=columns)
    assert ran.code == 1
    longest_word = max(len(word) for word in command_line.plain(ran.out).split())
    assert command_line.widest(ran.out) <= max(columns, longest_word + 9)
