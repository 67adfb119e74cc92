"""Values as the type checker and the interpreter see them: nobody may assign, equal fields make equal values."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from mypy import api

from meshpki.ca.csr import CsrKey
from meshpki.ca.keys import KeyKind
from meshpki.tokens.caller import BoundObject
from meshpki.tokens.parse import parse
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from pathlib import Path

ASSIGNING = """
from meshpki.tokens.caller import BoundObject
pod = BoundObject("web-0", "1")
pod.name = "db-0"
BoundObject("web-0", 1)
"""


def test_the_type_checker_lets_nobody_assign(tmp_path: Path) -> None:
    (tmp_path / "assigning.py").write_text(ASSIGNING)
    told, _, status = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "assigning.py")])
    assert status == 1
    for line, said in ((4, "is read-only"), (5, "incompatible type")):
        assert any(f"assigning.py:{line}: " in each and said in each for each in told.splitlines()), (line, told)


def test_equal_fields_make_equal_values_of_one_kind() -> None:
    one, same = BoundObject("web-0", "1"), BoundObject(name="web-0", uid="1")
    assert one == same
    assert len({one, same, BoundObject("web-0", "2")}) == 2
    assert dataclasses.replace(one, uid="2") == BoundObject("web-0", "2")
    assert repr(one) == "BoundObject(name='web-0', uid='1')"


def test_they_have_slots_and_no_room_for_more() -> None:
    key = CsrKey(b"", KeyKind.EC_P256)
    with pytest.raises(AttributeError):
        key.other = 1  # type: ignore[attr-defined]


def test_what_a_token_says_is_not_in_its_repr() -> None:
    token = TokenMaker().token()
    parsed = parse(token)
    assert repr(parsed) == "ParsedToken()"
