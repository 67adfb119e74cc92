"""Tokens by an API server's word: which are shown to it at all, and what its word is worth beside the keys'."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from meshpki.errors import UnavailableError
from meshpki.tokens.caller import Caller
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenReason, TokenRefusedError, TokenUnjudgedError
from meshpki.tokens.reviewer import TokenReviewer
from meshpki.tokens.trusted_cluster import TrustedCluster
from meshpki.tokens.verify import TokenVerifier
from support.reviews import FakeApi, answer, caller_of, confirmed, confirming, refused
from support.tokens import NOW, BrokenToken, StaticKeys, TokenMaker

MAKER = TokenMaker()
FORGER = TokenMaker(slot=1)
POLICY = ClusterPolicy("c1", MAKER.issuer)
OF_THE_SIGNATURE = {TokenReason.BAD_SIGNATURE, TokenReason.UNKNOWN_KEY}
"""What only keys can tell. (An algorithm that is not the key's is one of them, too: see below.)"""
LEFT_TO_THE_SERVER = ("another algorithm than the key's",)


@dataclass
class Asked:
    """A reviewer that confirms everything, and keeps what it was asked."""

    callers: list[Caller] = field(default_factory=list)

    def review(self, token: bytes, caller: Caller, now: float) -> None:
        assert token
        assert now == NOW
        self.callers.append(caller)


def reviewed(api: FakeApi, *, keys: bool = False) -> TokenVerifier:
    source = StaticKeys.of(MAKER) if keys else None
    return TokenVerifier([TrustedCluster(POLICY, source, TokenReviewer(api, POLICY))])


def reason(check: TokenVerifier, token: bytes) -> str:
    with pytest.raises((TokenRefusedError, TokenUnjudgedError)) as caught:
        check.verify(token, NOW)
    assert isinstance(caught.value, TokenRefusedError | TokenUnjudgedError)
    return str(caught.value.reason)


@pytest.mark.parametrize("keys", [False, True], ids=["tokenreview", "hybrid"])
def test_a_good_token(keys: bool) -> None:
    api = FakeApi(confirming(POLICY))
    assert reviewed(api, keys=keys).verify(MAKER.token(), NOW) == caller_of(MAKER.token(), POLICY)
    assert len(api.asked) == 1


@pytest.mark.parametrize("broken", MAKER.broken(), ids=str)
def test_only_what_is_right_as_far_as_we_see_reaches_the_api_server(broken: BrokenToken) -> None:
    asked = Asked()
    check = TokenVerifier([TrustedCluster(POLICY, None, asked)])
    if broken.reason in OF_THE_SIGNATURE or broken.name in LEFT_TO_THE_SERVER:
        check.verify(broken.token, NOW)  # which the API server will refuse; see below
        assert len(asked.callers) == 1
        return
    assert reason(check, broken.token) == broken.reason
    assert asked.callers == []


@pytest.mark.parametrize("broken", MAKER.broken(), ids=str)
def test_with_keys_nothing_that_was_not_signed_reaches_it(broken: BrokenToken) -> None:
    asked = Asked()
    check = TokenVerifier([TrustedCluster(POLICY, StaticKeys.of(MAKER), asked)])
    assert reason(check, broken.token) == broken.reason
    assert asked.callers == []


def test_without_keys_the_api_servers_word_decides_on_a_forgery() -> None:
    api = FakeApi(
        lambda _: answer(refused("[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]"))
    )
    assert reason(reviewed(api), FORGER.token()) == "token_bad_signature"


def test_the_word_of_the_api_server_for_another_is_no_word_for_this_one() -> None:
    """A confused or lying server: it confirms the pod it knows, whoever asks."""
    other = caller_of(MAKER.token(name="api"), POLICY)
    for keys in (False, True):
        check = reviewed(FakeApi(lambda _: answer(confirmed(other))), keys=keys)
        assert reason(check, MAKER.token()) == "token_review_mismatch"


@pytest.mark.parametrize("keys", [False, True], ids=["tokenreview", "hybrid"])
@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_api_server_that_does_not_answer_refuses_nobody(keys: bool, status: int) -> None:
    check = reviewed(FakeApi(lambda _: answer(b"", status)), keys=keys)
    with pytest.raises(UnavailableError):
        check.verify(MAKER.token(), NOW)


def test_hybrid_refuses_what_was_deleted() -> None:
    gone = "[invalid bearer token, service account token has been invalidated]"
    assert reason(reviewed(FakeApi(lambda _: answer(refused(gone))), keys=True), MAKER.token()) == "token_pod_gone"


def test_a_token_without_a_pod_by_a_policy_that_takes_it() -> None:
    policy = replace(POLICY, require_pod=False)
    api = FakeApi(confirming(policy))
    check = TokenVerifier([TrustedCluster(policy, None, TokenReviewer(api, policy))])
    assert check.verify(MAKER.token(pod=None), NOW).pod is None


def test_a_jwks_cluster_beside_it_asks_nobody() -> None:
    api = FakeApi(confirming(POLICY))
    other = TokenMaker(issuer="https://other.test", slot=1)
    check = TokenVerifier(
        [
            TrustedCluster(POLICY, None, TokenReviewer(api, POLICY)),
            TrustedCluster(ClusterPolicy("c2", other.issuer), StaticKeys.of(other)),
        ]
    )
    assert check.verify(other.token(), NOW).cluster == "c2"
    assert api.asked == []
