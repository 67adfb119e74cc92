"""The whole way from bytes to a Caller, against every broken token."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.errors import UnavailableError, UsageError, WouldWaitError
from meshpki.identity import ServiceAccountRef
from meshpki.tokens.caller import BoundObject, Caller
from meshpki.tokens.keys import KeySet, VerificationKey
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from meshpki.tokens.trusted_cluster import KeySource, TrustedCluster
from meshpki.tokens.verify import TokenVerifier
from support.tokens import ABSENT, NOW, BrokenToken, StaticKeys, TokenMaker, compact, verifier

RSA = TokenMaker()
EC = TokenMaker(algorithm="ES256")
OTHER = TokenMaker(issuer="https://other.test", slot=1)
OF_REVIEWS = (
    TokenReason.NOT_AUTHENTICATED,
    TokenReason.POD_GONE,
    TokenReason.NODE_GONE,
    TokenReason.ACCOUNT_GONE,
    TokenReason.ACCOUNT_RECREATED,
    TokenReason.AUDIENCE_NOT_CONFIRMED,
    TokenReason.REVIEW_MISMATCH,
)


def refusal(check: TokenVerifier, token: bytes, now: float = NOW) -> TokenRefusedError:
    with pytest.raises(TokenRefusedError) as caught:
        check.verify(token, now)
    return caught.value


def test_a_good_token() -> None:
    assert verifier(RSA).verify(RSA.token(), NOW) == Caller(
        cluster="c1",
        issuer="https://cluster.test",
        service_account=ServiceAccountRef("default", "web"),
        service_account_uid="5a4b3c2d-1e0f-4a9b-8c7d-6e5f4a3b2c1d",
        pod=BoundObject("web-7d4b9c6f5-x2x9k", "0b0e4f3a-8f1e-4a57-9b6e-3d2c1b0a9f8e"),
        node=BoundObject("node-a", "7d6ffb4f-1f0c-4c9b-9f7a-0f5f1d1a2b3c"),
        token_id="c2b1a0f9-e8d7-4c6b-a5f4-e3d2c1b0a9f8",
        issued_at=NOW,
        expires_at=NOW + 3600,
    )


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"])
def test_every_asymmetric_algorithm_of_jwt_svid(algorithm: str) -> None:
    maker = TokenMaker(algorithm=algorithm)
    verifier(maker).verify(maker.token(), NOW)


GOOD = {
    "text audience": RSA.token(audience="istio-ca"),
    "several audiences": RSA.token(audience=["api", "istio-ca"]),
    "typ JWT": RSA.token(RSA.header(typ="JWT")),
    "Kubernetes 1.13": RSA.old_token(),
    "no kid": RSA.sign(RSA.claims(), {"alg": "RS256"}),
    "no nbf": RSA.token(nbf=ABSENT),
    "a claim we do not know": RSA.token(foo={"bar": [1.5, None]}),
    "JSON with spaces and escapes": RSA.sign_raw(
        b' { "alg" : "RS256" , "kid" : "key\\u002d1" } ', json.dumps(RSA.claims(), indent=2).encode()
    ),
    "within the leeway of exp": RSA.token(now=NOW - 3629),
    "within the leeway of iat": RSA.token(now=NOW + 30),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_in_other_ways(name: str) -> None:
    assert verifier(RSA).verify(GOOD[name], NOW).cluster == "c1"


@pytest.mark.parametrize("broken", RSA.broken(), ids=str)
def test_every_broken_token_has_exactly_its_reason(broken: BrokenToken) -> None:
    assert refusal(verifier(RSA), broken.token).reason is broken.reason


@pytest.mark.parametrize("broken", EC.broken(), ids=str)
def test_and_with_an_elliptic_key(broken: BrokenToken) -> None:
    assert refusal(verifier(EC), broken.token).reason is broken.reason


def test_the_catalogue_knows_every_reason_but_those_of_headers_of_the_call() -> None:
    told_elsewhere = {TokenReason.MISSING, TokenReason.SEVERAL, TokenReason.SEVERAL_CLUSTERS, *OF_REVIEWS}
    assert {broken.reason for broken in RSA.broken()} == set(TokenReason) - told_elsewhere


def test_the_reason_is_the_same_at_any_time() -> None:
    later = NOW + 1_000_000_000
    for broken in RSA.broken(later):
        assert refusal(verifier(RSA), broken.token, later).reason is broken.reason, broken


def test_a_legacy_token_is_named_by_its_issuer_and_by_its_flat_claims() -> None:
    for claims in ({"iss": "kubernetes/serviceaccount"}, {"kubernetes.io/serviceaccount/secret.name": "x"}):
        assert refusal(verifier(RSA), RSA.sign({**RSA.claims(), **claims})).reason is TokenReason.LEGACY


# --- clusters ------------------------------------------------------------------------------------------------------


def test_the_issuer_chooses_the_cluster_and_its_key() -> None:
    both = verifier(RSA, OTHER)
    assert both.verify(RSA.token(), NOW).cluster == "c1"
    assert both.verify(OTHER.token(), NOW).cluster == "c2"


def test_a_token_for_one_cluster_signed_by_the_other_is_refused() -> None:
    """The same kid, a key that we trust, but for another cluster."""
    forged = TokenMaker(issuer=RSA.issuer, slot=OTHER.slot).token()
    error = refusal(verifier(RSA, OTHER), forged)
    assert error.reason is TokenReason.BAD_SIGNATURE
    assert error.cluster == "c1"


def test_the_cluster_is_told_as_far_as_it_is_settled() -> None:
    check = verifier(RSA)
    assert refusal(check, RSA.token(audience=["x"])).cluster == "c1"
    assert refusal(check, RSA.token(RSA.header(kid="x"))).cluster == "c1"
    assert refusal(check, OTHER.token()).cluster == ""
    assert refusal(check, b"x").cluster == ""


def test_the_same_name_twice_and_no_cluster_do_not_start() -> None:
    one = TrustedCluster(ClusterPolicy("c1", RSA.issuer), StaticKeys.of(RSA))
    two = TrustedCluster(ClusterPolicy("c1", OTHER.issuer), StaticKeys.of(OTHER))
    for clusters in ([one, two], []):
        with pytest.raises(UsageError):
            TokenVerifier(clusters)


# --- keys ----------------------------------------------------------------------------------------------------------


def of_keys(*makers: TokenMaker) -> TokenVerifier:
    return TokenVerifier([TrustedCluster(ClusterPolicy("c1", RSA.issuer), StaticKeys.of(*makers))])


def test_an_empty_kid_is_believed_only_when_one_key_is_left() -> None:
    second = TokenMaker(kid="key-2", slot=1)
    of_keys(RSA).verify(RSA.old_token(), NOW)
    of_keys(RSA, TokenMaker(kid="ec", algorithm="ES256")).verify(RSA.old_token(), NOW)
    for token in (RSA.old_token(), RSA.sign(RSA.claims(), {"alg": "RS256"})):
        error = refusal(of_keys(RSA, second), token)
        assert error.reason is TokenReason.UNKNOWN_KEY
        assert "2 keys" in error.seen
    of_keys(RSA, second).verify(RSA.token(), NOW)


def test_a_key_without_kid_is_not_found_by_one() -> None:
    nameless = TokenMaker(kid="")
    of_keys(nameless).verify(nameless.old_token(), NOW)
    assert refusal(of_keys(nameless), RSA.token()).reason is TokenReason.UNKNOWN_KEY


def test_no_keys_at_all_refuse_everything() -> None:
    empty = TokenVerifier([TrustedCluster(ClusterPolicy("c1", RSA.issuer), StaticKeys(KeySet(())))])
    for token in (RSA.token(), RSA.old_token()):
        assert refusal(empty, token).reason is TokenReason.UNKNOWN_KEY


@pytest.mark.parametrize(
    "changes", [{"use": "enc"}, {"key_ops": ["sign"]}, {"n": str(RSA.jwk()["n"]) + "=="}], ids=["use", "key_ops", "pad"]
)
def test_a_key_for_another_purpose_verifies_nothing(changes: dict[str, object]) -> None:
    keys = StaticKeys(KeySet.from_jwks(compact({"keys": [RSA.jwk(**changes)]})))
    check = TokenVerifier([TrustedCluster(ClusterPolicy("c1", RSA.issuer), keys)])
    assert refusal(check, RSA.token()).reason is TokenReason.UNKNOWN_KEY


def test_the_algorithm_of_the_key_counts_not_that_of_the_header() -> None:
    pss = TokenMaker(algorithm="PS256")
    error = refusal(verifier(RSA), pss.token())
    assert error.reason is TokenReason.ALGORITHM_NOT_ALLOWED
    assert error.wanted == "RS256"


class Away:
    def keys(self, kid: str | None, now: float) -> tuple[VerificationKey, ...]:
        raise UnavailableError("away")

    def at_once(self, kid: str | None, now: float) -> bool:
        return False

    def known(self) -> None:
        return None

    def may_be_behind(self, issued_at: float, now: float) -> bool:
        return False


def test_keys_that_cannot_be_had_are_no_refusal() -> None:
    check = TokenVerifier([TrustedCluster(ClusterPolicy("c1", RSA.issuer), Away())])
    with pytest.raises(UnavailableError):
        check.verify(RSA.token(), NOW)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("name", ["alg none", "alg HS256 with the public key", "jku", "jwk", "legacy", "other issuer"])
def test_what_the_form_tells_is_refused_before_any_key_is_asked_for(name: str, at_once: bool) -> None:
    check = TokenVerifier([TrustedCluster(ClusterPolicy("c1", RSA.issuer), Away())])
    broken = next(broken for broken in RSA.broken() if broken.name == name)
    with pytest.raises(TokenRefusedError) as caught:
        check.verify(broken.token, NOW, at_once=at_once)
    assert caught.value.reason is broken.reason


class Asked:
    """An API server that confirms everything, and counts."""

    def __init__(self) -> None:
        self.tokens: list[bytes] = []

    def review(self, token: bytes, caller: Caller, now: float) -> None:
        self.tokens.append(token)


def test_a_verdict_that_waits_for_nobody_is_given_at_once() -> None:
    assert verifier(RSA).verify(RSA.token(), NOW, at_once=True) == verifier(RSA).verify(RSA.token(), NOW)


@pytest.mark.parametrize("keys", [None, StaticKeys.of(RSA), Away()], ids=["review", "hybrid", "keys to be fetched"])
def test_what_takes_another_machine_is_not_asked_for_at_once(keys: KeySource | None) -> None:
    reviewer = None if isinstance(keys, Away) else Asked()
    check = TokenVerifier([TrustedCluster(ClusterPolicy("c1", RSA.issuer), keys, reviewer)])
    with pytest.raises(WouldWaitError):
        check.verify(RSA.token(), NOW, at_once=True)
    if reviewer is not None:
        assert not reviewer.tokens
        check.verify(RSA.token(), NOW)
        assert len(reviewer.tokens) == 1


# --- properties ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", [RSA, EC], ids=["RS256", "ES256"])
def test_any_other_byte_anywhere_is_refused(maker: TokenMaker) -> None:
    token, check = maker.token(), verifier(maker)
    for place in range(len(token)):
        changed = bytearray(token)
        changed[place] ^= 1
        refusal(check, bytes(changed))


@given(st.data())
@settings(max_examples=400)
def test_any_change_of_one_byte_is_refused(data: st.DataObject) -> None:
    token = RSA.token()
    place = data.draw(st.integers(0, len(token) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != token[place]))
    refusal(verifier(RSA), token[:place] + bytes([byte]) + token[place + 1 :])


@given(st.data())
def test_a_token_cut_or_grown_is_refused(data: st.DataObject) -> None:
    token = RSA.token()
    cut = data.draw(st.integers(0, len(token) - 1))
    extra = data.draw(st.binary(min_size=1, max_size=4))
    for changed in (token[:cut], token[:cut] + extra + token[cut:], token[:cut] + token[cut + 1 :]):
        refusal(verifier(RSA), changed)


@given(
    st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(b"eyJhbGciOiJSUzI1NiJ9.-_="), max_size=200).map(bytes))
)
def test_any_bytes_are_refused_and_nothing_else(token: bytes) -> None:
    refusal(verifier(RSA), token)


def test_four_megabytes_cost_nothing() -> None:
    for token in (b"A" * 4_000_000, b"." * 4_000_000, RSA.token(x="y" * 4_000_000)):
        assert refusal(verifier(RSA), token).reason is TokenReason.TOO_LARGE
