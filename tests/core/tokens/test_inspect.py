"""The offline explanation: every line, and the verdict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import InvalidValueError
from meshpki.tokens.inspect import Finding, Inspection, Verdict, inspect
from meshpki.tokens.keys import KeySet
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from support.tokens import NOW, BrokenToken, TokenMaker, compact, verifier

MAKER = TokenMaker()
KEYS = KeySet.from_jwks(MAKER.jwks())
SUBJECTS = ["form", "algorithm", "issuer", "audience", "expiry", "account", "binding", "signature"]


def examine(
    token: bytes, *, now: float = NOW, issuer: str | None = MAKER.issuer, keys: KeySet | None = KEYS
) -> Inspection:
    return inspect(token, now=now, issuer=issuer, keys=keys)


def line(found: Inspection, subject: str) -> Finding:
    (finding,) = [finding for finding in found.findings if finding.subject == subject]
    return finding


def test_a_good_token_with_all_that_is_needed_is_trustworthy() -> None:
    found = examine(MAKER.token())
    assert [finding.subject for finding in found.findings] == SUBJECTS
    assert {finding.verdict for finding in found.findings} == {Verdict.OK}
    assert found.trustworthy
    assert line(found, "algorithm").text == "RS256, kid 'key-1'"
    assert line(found, "issuer").text == "'https://cluster.test'"
    assert line(found, "audience").text == "'istio-ca'"
    assert line(found, "expiry").text == (
        "until 2027-01-15T09:00:00Z, 3600 s from now (issued 2027-01-15T08:00:00Z for 3600 s)"
    )
    assert line(found, "account").text == "service account default/web, uid 5a4b3c2d-1e0f-4a9b-8c7d-6e5f4a3b2c1d"
    assert "pod web-7d4b9c6f5-x2x9k" in line(found, "binding").text
    assert "jti c2b1a0f9" in line(found, "binding").text


def test_without_keys_it_is_not_proven() -> None:
    found = examine(MAKER.token(), keys=None)
    assert line(found, "signature").verdict is Verdict.UNKNOWN
    assert "--jwks" in line(found, "signature").todo
    assert found.verdict is Verdict.UNKNOWN
    assert not found.trustworthy


def test_without_an_issuer_it_is_shown_and_not_compared() -> None:
    found = examine(MAKER.token(), issuer=None)
    assert line(found, "issuer") == Finding(
        "issuer",
        Verdict.UNKNOWN,
        "'https://cluster.test'; not compared with any",
        "give the issuer that the cluster should have (--issuer)",
    )
    assert not found.trustworthy


@pytest.mark.parametrize("broken", MAKER.broken(), ids=str)
def test_a_token_that_the_ca_refuses_has_a_line_with_that_reason(broken: BrokenToken) -> None:
    found = examine(broken.token)
    assert found.verdict is Verdict.PROBLEM
    assert not found.trustworthy
    assert broken.reason in {finding.reason for finding in found.findings}


def test_every_problem_is_shown_not_only_the_first() -> None:
    found = examine(MAKER.token(audience=["x"], lifetime=10, pod=None), now=NOW + 900)
    assert [finding.subject for finding in found.findings if finding.verdict is Verdict.PROBLEM] == [
        "audience",
        "expiry",
        "binding",
    ]
    assert line(found, "signature").verdict is Verdict.OK


def test_both_audiences_and_both_clocks_are_shown() -> None:
    found = examine(MAKER.token(audience=["api"]), now=NOW + 9000)
    assert line(found, "audience").text == "the token is meant for audience 'api'; wanted: audience 'istio-ca'"
    assert "expired at 2027-01-15T09:00:00Z; our clock says 2027-01-15T10:30:00Z" in line(found, "expiry").text


def test_other_audiences_are_pointed_out() -> None:
    assert "other audiences too" in line(examine(MAKER.token(audience=["istio-ca", "api"])), "audience").text


def test_the_algorithm_that_the_token_wants_is_shown() -> None:
    found = examine(MAKER.unsigned())
    assert line(found, "algorithm").text.startswith("alg 'none': ")
    assert line(found, "signature").verdict is Verdict.PROBLEM
    assert line(found, "expiry").verdict is Verdict.OK


def test_a_legacy_token_is_named() -> None:
    found = examine(MAKER.legacy_token())
    assert line(found, "issuer").reason == TokenReason.LEGACY
    assert line(found, "audience").reason == TokenReason.NO_AUDIENCE
    assert line(found, "expiry").reason == TokenReason.CLAIM_MISSING


def test_an_old_token_says_what_is_missing_and_is_good() -> None:
    found = examine(MAKER.old_token())
    assert found.trustworthy
    assert "no kid" in line(found, "algorithm").text
    assert "no node" in line(found, "binding").text
    assert "no jti" in line(found, "binding").text


def test_another_issuer_is_shown_beside_the_wanted_one() -> None:
    found = examine(MAKER.token(), issuer="https://other.test")
    assert line(found, "issuer").text == "'https://cluster.test'; wanted: 'https://other.test'"


def test_another_key() -> None:
    found = examine(TokenMaker(slot=1).token())
    assert line(found, "signature").reason == TokenReason.BAD_SIGNATURE
    assert line(found, "account").verdict is Verdict.OK


def test_without_a_pod_when_none_is_demanded() -> None:
    found = inspect(MAKER.token(pod=None), now=NOW, issuer=MAKER.issuer, keys=KEYS, require_pod=False)
    assert found.trustworthy
    assert "bound to no pod" in line(found, "binding").text


def test_an_extended_token_says_so() -> None:
    kube = MAKER.claims()["kubernetes.io"]
    assert isinstance(kube, dict)
    found = examine(MAKER.token(**{"kubernetes.io": {**kube, "warnafter": NOW + 60}}))
    assert "warns from 2027-01-15T08:01:00Z" in line(found, "expiry").text


def test_what_is_no_token_has_one_line() -> None:
    found = examine(b"hello")
    assert [finding.subject for finding in found.findings] == ["form"]
    assert found.verdict is Verdict.PROBLEM


def test_nothing_is_called_so() -> None:
    (finding,) = examine(b"").findings
    assert (finding.verdict, finding.reason) == (Verdict.PROBLEM, "token_malformed")
    assert "no token came" in finding.text


def test_an_empty_audience_to_compare_with_makes_no_sense() -> None:
    with pytest.raises(InvalidValueError):
        inspect(MAKER.token(), now=NOW, audience="")


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=12), st.lists(st.text(max_size=3), max_size=3)
)
NAMES = st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "kubernetes.io", "x"])


@given(st.dictionaries(NAMES, SCALARS, max_size=4), st.booleans())
def test_the_verdict_agrees_with_the_verifier(changes: dict[str, object], keyed: bool) -> None:
    token = MAKER.sign({**MAKER.claims(), **changes})
    found = examine(token, keys=KEYS if keyed else None)
    assert all(finding.text.isprintable() for finding in found.findings)
    try:
        verifier(MAKER).verify(token, NOW)
    except TokenRefusedError:
        assert found.verdict is Verdict.PROBLEM
    else:
        assert found.verdict is (Verdict.OK if keyed else Verdict.UNKNOWN)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_are_explained(header: bytes, payload: bytes) -> None:
    assert not examine(header).trustworthy
    assert not examine(MAKER.sign_raw(header, payload)).trustworthy
    assert not examine(MAKER.sign_raw(compact(MAKER.header()), payload)).trustworthy
