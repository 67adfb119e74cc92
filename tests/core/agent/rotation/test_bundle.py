"""The served bundle as a history of files and answers: what is served, in which order, counted how."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from meshpki.agent.rotation.acceptance import AnswerError, accept_held
from meshpki.agent.rotation.bundle import MAX_ROOTS, Bundle, Roots, pem_of, read_roots
from meshpki.agent.sds.file_secret import roots_from
from meshpki.errors import InvalidValueError
from support.fake_ca import make_ca

A, B, C = (make_ca(f"root {name}").pem.encode() for name in "abc")


def roots(*names: str) -> Roots:
    """Stand-ins: the pure part never looks into a certificate."""
    return tuple(sorted((name.encode() for name in names), key=lambda der: hashlib.sha256(der).digest()))


def test_a_file_is_read_in_any_order_and_each_root_once() -> None:
    assert read_roots(A + B) == read_roots(B + A) == read_roots(b"# the roots\n" + A + B + A)
    (der,) = read_roots(A)
    assert x509.load_der_x509_certificate(der) == x509.load_pem_x509_certificate(A)
    assert pem_of((der,)) == A, "spelled as the library spells it"
    assert x509.load_pem_x509_certificates(pem_of(read_roots(A + B + C)))[2].public_bytes(Encoding.PEM) in (A, B, C)


@pytest.mark.parametrize("percent", range(1, 100, 7))
def test_a_file_cut_anywhere_is_refused_whole(percent: int) -> None:
    """A reader that meets a half-written file must not take the other half's roots away."""
    cut = len(B) * percent // 100
    try:
        found = read_roots(A + B[:cut])
    except InvalidValueError:
        return
    assert cut < len("-----BEGIN CERTIFICATE-----")
    assert found == read_roots(A)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"garbage", A.replace(b"M", b"*"), A * (MAX_ROOTS + 1)],
    ids=["empty", "blank", "garbage", "no base64", "too many"],
)
def test_what_is_no_file_of_roots(content: bytes) -> None:
    with pytest.raises(InvalidValueError, match="file of roots") as caught:
        read_roots(content)
    assert caught.value.wanted


def test_old_and_new_together_and_then_the_new_one_alone() -> None:
    bundle = Bundle().with_configured(roots("old")).with_answer(roots("old"))
    assert (bundle.roots, bundle.sequence) == (roots("old"), 1)
    bundle = bundle.with_configured(roots("old", "new"))
    assert (bundle.roots, bundle.sequence) == (roots("old", "new"), 2)
    bundle = bundle.with_configured(roots("new"))
    assert (bundle.roots, bundle.sequence) == (roots("new"), 3), "the old one goes, although the last answer had it"


def test_the_cas_new_root_is_served_beside_the_configured_one() -> None:
    bundle = Bundle().with_configured(roots("old")).with_answer(roots("old", "new"))
    assert bundle.roots == roots("old", "new")
    assert bundle.with_answer(roots("old")).roots == roots("old"), "and goes with the CA's next word"


def test_a_root_withdrawn_by_the_file_comes_again_with_a_later_answer() -> None:
    bundle = Bundle().with_configured(roots("a", "b")).with_answer(roots("a", "b")).with_configured(roots("a"))
    assert bundle.roots == roots("a")
    assert bundle.with_configured(roots("a", "c")).roots == roots("a", "c"), "not with a later content of the file"
    assert bundle.with_answer(roots("a", "b")).roots == roots("a", "b")


def test_what_is_not_in_the_file_before_is_not_withdrawn_by_it() -> None:
    bundle = Bundle().with_configured(roots("a")).with_answer(roots("a", "b"))
    assert bundle.with_configured(roots("a", "c")).roots == roots("a", "b", "c")


STEPS = st.lists(
    st.tuples(st.booleans(), st.sets(st.sampled_from("abcd"), min_size=1).map(lambda names: roots(*names))), max_size=12
)


@given(STEPS)
def test_any_history(history: list[tuple[bool, Roots]]) -> None:
    bundle = Bundle()
    for is_file, found in history:
        after = bundle.with_configured(found) if is_file else bundle.with_answer(found)
        assert set(after.roots) >= set(found), "what is said last is served"
        assert set(after.roots) <= set(bundle.roots) | set(found)
        assert after.sequence == bundle.sequence + (after.roots != bundle.roots)
        assert (after.digest == bundle.digest) == (after.roots == bundle.roots)
        assert list(after.roots) == list(roots(*(root.decode() for root in after.roots))), "one order for one set"
        bundle = after
    assert bundle.sequence <= len(history)


def test_a_certificate_of_no_known_version_is_no_good_like_any_other() -> None:
    """The library has an error of its own for it, which once ended the agent."""
    der = bytearray(base64.b64decode(b"".join(A.splitlines()[1:-1])))
    at = der.index(bytes.fromhex("a003020102"))  # version [0] EXPLICIT INTEGER 2
    der[at + 4] = 66
    pem = pem_of((bytes(der),))
    with pytest.raises(x509.InvalidVersion):
        x509.load_pem_x509_certificates(pem)
    with pytest.raises(InvalidValueError):
        read_roots(pem)
    with pytest.raises(InvalidValueError):
        roots_from("file-root:/x", pem)
    with pytest.raises(AnswerError, match="cannot be read"):
        accept_held(pem, b"", b"", roots_pem=A, now=0)
