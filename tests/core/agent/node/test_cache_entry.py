"""One entry of a node's cache: for one token only, whole or not at all; and what has to go where there are too many."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.agent.node.actions import TokenKey
from meshpki.agent.node.cache_entry import (
    LATEST_END,
    MAX_BYTES,
    Bounds,
    Found,
    ends_of,
    examine,
    is_ours,
    is_worth_keeping,
    name_of,
    render,
    surplus,
)
from meshpki.agent.renewal import cache
from meshpki.agent.renewal.cache import CacheError
from meshpki.agent.renewal.keeper import Held
from meshpki.agent.rotation.acceptance import AnswerError, accept
from meshpki.agent.rotation.bundle import read_roots
from meshpki.agent.rotation.key_request import KeyType, new_key_request
from support.fake_ca import FakeAuthority

NOW = time.time()
AUTHORITY = FakeAuthority(now=NOW)
ROOTS = read_roots(AUTHORITY.roots_pem)
KEY, OTHER = (TokenKey(hashlib.sha256(name).digest()) for name in (b"one", b"other"))
ENDS = int(NOW) + 1000


def make_held() -> Held:
    request = new_key_request(KeyType.EC_P256)
    snapshot = accept(AUTHORITY.answer(request.csr_pem), request, roots_pem=AUTHORITY.roots_pem, now=NOW)
    return Held(snapshot, NOW + 500)


HELD = make_held()
CONTENT = render(KEY, ENDS, HELD)
HEAD, _, BODY = CONTENT.partition(b"\n")


def test_what_was_kept_for_a_token_is_found_with_it() -> None:
    assert examine(CONTENT, KEY, ENDS, ROOTS, NOW) == HELD
    assert name_of(KEY) == hashlib.sha256(b"one").hexdigest() + ".json"
    assert cache.render(HELD) == BODY


@pytest.mark.parametrize(
    ("content", "key", "ends", "at", "word"),
    [
        (CONTENT, OTHER, ENDS, 0, "another token's"),
        (CONTENT, KEY, ENDS + 1, 0, "digest"),
        (CONTENT, KEY, ENDS, 1000, "its token has expired"),
        (CONTENT, KEY, ENDS, 5000, "its token has expired"),
        (CONTENT.replace(KEY.hex().encode(), OTHER.hex().encode()), OTHER, ENDS, 0, "digest"),
        (CONTENT.replace(b" %d " % ENDS, b" %d " % (ENDS + 9000)), KEY, ENDS + 9000, 1000, "digest"),
        (HEAD + b"\n" + cache.render(make_held()), KEY, ENDS, 0, "digest"),
        (CONTENT.replace(b"cache 1 ", b"cache 2 "), KEY, ENDS, 0, "version"),
        (BODY, KEY, ENDS, 0, "version"),
        (HEAD, KEY, ENDS, 0, "digest"),
        (b"", KEY, ENDS, 0, "version"),
        (b"\xff" * 1000, KEY, ENDS, 0, "version"),
        (render(KEY, ENDS, replace(HELD, renew_at=float("nan"))), KEY, ENDS, 0, "missing"),
    ],
    ids=map(str, range(13)),
)
def test_what_is_not_whole_or_not_this_tokens_is_not_believed(
    content: bytes, key: TokenKey, ends: int, at: float, word: str
) -> None:
    with pytest.raises(CacheError, match=word) as caught:
        examine(content, key, ends, ROOTS, int(NOW) + at)
    assert "PRIVATE" not in str(caught.value)


def test_the_certificate_is_examined_as_every_other() -> None:
    lasting = int(NOW) + 100_000
    content = render(KEY, lasting, HELD)
    with pytest.raises(AnswerError, match="is over"):
        examine(content, KEY, lasting, ROOTS, HELD.snapshot.not_after)
    with pytest.raises(AnswerError):
        examine(content, KEY, lasting, read_roots(FakeAuthority().roots_pem), NOW)


@given(at=st.integers(0, len(CONTENT) - 1), bit=st.integers(0, 7))
def test_no_bit_may_be_another(at: int, bit: int) -> None:
    garbled = bytearray(CONTENT)
    garbled[at] ^= 1 << bit
    with pytest.raises(CacheError):
        examine(bytes(garbled), KEY, ENDS, ROOTS, NOW)


@given(length=st.integers(0, len(CONTENT) - 1))
def test_no_part_is_believed(length: int) -> None:
    with pytest.raises(CacheError):
        examine(CONTENT[:length], KEY, ENDS, ROOTS, NOW)


@pytest.mark.parametrize(
    ("ends", "worth"),
    [(None, False), (-1, False), (0, False), (int(NOW), False), (ENDS, True), (LATEST_END, False), (10**40, False)],
)
def test_only_a_token_with_an_end_is_worth_an_entry(ends: int | None, worth: bool) -> None:
    assert is_worth_keeping(ends, NOW) is worth


def test_an_entry_is_over_with_the_first_of_token_and_certificate() -> None:
    assert ends_of(ENDS, HELD) == ENDS
    assert ends_of(ENDS + 90_000, HELD) == HELD.snapshot.not_after


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (name_of(KEY), True),
        (f".{name_of(KEY)}.123.0a1b2c3d.new", True),
        ("identity.json", False),
        (".identity.json.123.0a1b2c3d.new", False),
        (name_of(KEY).upper(), False),
        ("x" + name_of(KEY), False),
        (name_of(KEY) + "\n", False),
    ],
)
def test_files_of_others_are_not_ours(name: str, ours: bool) -> None:
    assert is_ours(name) is ours


def found(*ends: float, size: int = 1000) -> list[Found]:
    return [Found(str(number), end, size) for number, end in enumerate(ends)]


ROOMY = Bounds(1000, 1 << 30)


@pytest.mark.parametrize(
    ("there", "bounds", "gone"),
    [
        ([], ROOMY, []),
        (found(9, 10, 11, 12), ROOMY, [9, 10]),
        (found(11, 12, 13), Bounds(4, 1 << 30), []),
        (found(14, 11, 13, 12), Bounds(4, 1 << 30), [11]),
        (found(9, 14, 11, 13, 12), Bounds(4, 1 << 30), [9, 11]),
        (found(9, 9, 9, 12), Bounds(4, 1 << 30), [9, 9, 9]),
        (found(*range(11, 31)), Bounds(8, 1 << 30), list(range(11, 25))),
        (found(11), Bounds(1, 1 << 30), [11]),
        (found(11, 12, 13, size=MAX_BYTES), Bounds(99, 4 * MAX_BYTES), []),
        (found(11, 12, 13, 14, size=MAX_BYTES), Bounds(99, 4 * MAX_BYTES), [11]),
    ],
)
def test_what_is_over_goes_and_what_is_too_much_soonest_first(
    there: list[Found], bounds: Bounds, gone: list[float]
) -> None:
    assert [one.ends for one in surplus(there, bounds, 10)] == gone


@given(ends=st.lists(st.integers(0, 20)), most=st.integers(1, 10), size=st.integers(1, MAX_BYTES))
def test_there_is_room_for_one_more_afterwards(ends: list[int], most: int, size: int) -> None:
    there, bounds = found(*ends, size=size), Bounds(most, 8 * MAX_BYTES)
    gone = {one.name for one in surplus(there, bounds, 10)}
    left = [one for one in there if one.name not in gone]
    assert len(left) < most
    assert sum(one.size for one in left) + MAX_BYTES <= bounds.size
    assert all(one.ends > 10 for one in left)
