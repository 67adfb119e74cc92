"""Clusters that share an issuer: neither gets in as the other, whatever the caller says of itself."""

from __future__ import annotations

import gc
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import UnavailableError, UsageError, WouldWaitError
from meshpki.tokens.keys import KeySet, VerificationKey
from meshpki.tokens.namesakes import overlaps
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenRefusedError, TokenUnjudgedError
from meshpki.tokens.reviewer import TokenReviewer
from meshpki.tokens.trusted_cluster import TrustedCluster
from meshpki.tokens.verify import TokenVerifier
from support.reviews import FakeApi, confirming
from support.tokens import ISSUER, NOW, StaticKeys, TokenMaker

if TYPE_CHECKING:
    from collections.abc import Sequence

EAST, WEST = TokenMaker(kid="east"), TokenMaker(kid="west", slot=1)
SAME_KID = TokenMaker(kid="east", slot=1)
"""Another key under the other's name."""
SAME_KEY = TokenMaker(kid="west")
"""East's key under another name."""
STRANGER = TokenMaker(kid="stranger", slot=2)
HINTS = ("", "east", "west", "Kubernetes", "x" * 4000)


@dataclass
class Source:
    """A key source that fetches when it is told to."""

    fetched: KeySet | None = None
    there: KeySet | None = None
    """What a fetch would bring; None: away."""
    behind: bool = False
    asked: list[str | None] = field(default_factory=list)

    @classmethod
    def of(cls, *makers: TokenMaker) -> Source:
        keys = KeySet.from_jwks(makers[0].jwks(*makers[1:]))
        return cls(keys, keys)

    def keys(self, kid: str | None, now: float) -> Sequence[VerificationKey]:
        self.asked.append(kid)
        known = self.fetched.candidates(kid) if self.fetched else ()
        if not known:
            if self.there is None:
                raise UnavailableError("away")
            self.fetched = self.there
        assert self.fetched is not None
        return self.fetched.candidates(kid)

    def at_once(self, kid: str | None, now: float) -> bool:
        return self.fetched is not None and (kid is None or bool(self.fetched.candidates(kid)))

    def known(self) -> Sequence[VerificationKey] | None:
        return None if self.fetched is None else self.fetched.keys

    def may_be_behind(self, issued_at: float, now: float) -> bool:
        return self.behind


def trusted(name: str, keys: Source | StaticKeys, issuer: str = ISSUER) -> TrustedCluster:
    return TrustedCluster(ClusterPolicy(name, issuer), keys)


def both(east: Source, west: Source) -> TokenVerifier:
    return TokenVerifier([trusted("east", east), trusted("west", west)])


def outcome(check: TokenVerifier, token: bytes, hint: str = "") -> str:
    """The cluster that it is of, or the reason why of none."""
    try:
        return check.verify(token, NOW, hint).cluster
    except (TokenRefusedError, TokenUnjudgedError) as error:
        return error.reason
    except UnavailableError:
        return "unavailable"


def outcomes(check: TokenVerifier, token: bytes) -> set[str]:
    return {outcome(check, token, hint) for hint in HINTS}


def test_the_key_tells_them_apart() -> None:
    check = both(Source.of(EAST), Source.of(WEST))
    assert check.takes_hints
    assert outcomes(check, EAST.token()) == {"east"}
    assert outcomes(check, WEST.token()) == {"west"}


def test_and_so_it_does_under_one_kid_and_under_none() -> None:
    """Kubernetes below 1.16 writes an empty kid."""
    check = both(Source.of(EAST), Source.of(SAME_KID))
    assert outcomes(check, EAST.token()) == {"east"}
    assert outcomes(check, SAME_KID.token()) == {"west"}
    assert outcomes(check, EAST.old_token()) == {"east"}
    assert outcomes(check, SAME_KID.old_token()) == {"west"}


def test_a_known_key_tells_at_once_and_an_unknown_one_only_by_asking() -> None:
    east, west = (Source(there=KeySet.from_jwks(maker.jwks())) for maker in (EAST, WEST))
    check = both(east, west)
    with pytest.raises(WouldWaitError):  # before the keys of both were seen
        check.verify(EAST.token(), NOW, at_once=True)
    assert not east.asked
    assert check.verify(WEST.token(), NOW).cluster == "west"
    east.asked.clear()
    assert check.verify(EAST.token(), NOW, at_once=True).cluster == "east"
    asked = len(east.asked)
    with pytest.raises(WouldWaitError):
        check.verify(STRANGER.token(), NOW, at_once=True)
    assert len(east.asked) == asked


def test_a_stranger_is_refused_whatever_it_says_of_itself() -> None:
    check = both(Source.of(EAST), Source.of(WEST))
    assert outcomes(check, STRANGER.token()) == {"token_unknown_key"}
    assert outcomes(check, TokenMaker(kid="west", slot=2).token()) == {"token_bad_signature"}
    assert outcomes(check, STRANGER.old_token()) == {"token_bad_signature"}


def test_a_refusal_leaves_no_cycle_that_would_keep_its_call() -> None:
    def errors() -> int:
        return sum(isinstance(each, TokenRefusedError | UnavailableError) for each in gc.get_objects())

    known, away = both(Source.of(EAST), Source.of(WEST)), both(Source.of(EAST), Source(Source.of(WEST).fetched))
    gc.collect()
    gc.disable()
    try:
        before = errors()
        assert outcomes(known, STRANGER.token()) == {"token_unknown_key"}
        assert outcomes(away, STRANGER.token()) == {"unavailable"}
        assert errors() == before
    finally:
        gc.enable()


def test_a_refusal_names_the_cluster_that_the_caller_says_it_is_in() -> None:
    check = both(Source.of(EAST), Source.of(WEST))
    named = {}
    for hint in ("", "east", "west", "Kubernetes"):
        with pytest.raises(TokenRefusedError) as caught:
            check.verify(STRANGER.token(), NOW, hint)
        named[hint] = caught.value.cluster
    assert named == {"": "east", "east": "east", "west": "west", "Kubernetes": "east"}


@pytest.mark.parametrize("other", [EAST, SAME_KEY], ids=["same kid", "another kid"])
def test_a_key_of_both_is_neithers(other: TokenMaker) -> None:
    check = both(Source.of(EAST), Source.of(other, STRANGER))
    for token in (EAST.token(), EAST.old_token(), other.token()):
        assert outcomes(check, token) == {"token_several_clusters"}


def test_the_other_key_of_such_a_cluster_is_good() -> None:
    check = both(Source.of(EAST), Source.of(TokenMaker(kid="east"), TokenMaker(kid="new", slot=1)))
    assert outcomes(check, TokenMaker(kid="new", slot=1).token()) == {"west"}


def test_nobody_is_believed_before_the_keys_of_all_were_seen_once() -> None:
    west = Source(None, None)
    check = both(Source.of(EAST), west)
    assert outcomes(check, EAST.token()) == {"unavailable"}
    west.there = KeySet.from_jwks(WEST.jwks())
    assert outcomes(check, EAST.token()) == {"east"}
    west.there = None
    assert outcomes(check, EAST.token()) == {"east"}, "what was seen once is known, also while it is away"


def test_a_key_that_nobody_knew_is_asked_for_everywhere() -> None:
    east, west = Source.of(EAST), Source.of(WEST)
    check = both(east, west)
    new = TokenMaker(kid="new", slot=2)
    west.there = KeySet.from_jwks(WEST.jwks(new))
    assert outcome(check, new.token(), "east") == "west"
    assert (east.asked, west.asked) == (["new"], ["new", "new"])


def test_a_new_key_of_both_is_neithers_whomever_the_caller_names() -> None:
    for hint in HINTS:
        east, west = Source.of(EAST), Source.of(WEST)
        new = TokenMaker(kid="new", slot=2)
        east.there, west.there = KeySet.from_jwks(EAST.jwks(new)), KeySet.from_jwks(WEST.jwks(new))
        assert outcome(both(east, west), new.token(), hint) == "token_several_clusters"


def test_while_one_is_away_an_unknown_key_is_no_refusal() -> None:
    west = Source.of(WEST)
    west.there = None
    assert outcomes(both(Source.of(EAST), west), STRANGER.token()) == {"unavailable"}


def test_a_key_that_may_be_too_new_is_no_refusal() -> None:
    west = Source.of(WEST)
    west.behind = True
    assert outcomes(both(Source.of(EAST), west), STRANGER.token()) == {"key_not_seen_yet"}


def test_the_claims_are_judged_by_the_terms_of_the_cluster_whose_key_signed() -> None:
    policy = ClusterPolicy("west", ISSUER, audiences=("other",))
    check = TokenVerifier([trusted("east", Source.of(EAST)), TrustedCluster(policy, Source.of(WEST))])
    assert outcome(check, WEST.token()) == "token_wrong_audience"
    assert outcome(check, WEST.token(audience=["other"])) == "west"
    assert outcome(check, EAST.token(audience=["other"])) == "token_wrong_audience"


def test_only_its_own_api_server_is_asked_about_a_token() -> None:
    apis, clusters = {}, []
    for name, maker in (("east", EAST), ("west", WEST)):
        policy = ClusterPolicy(name, ISSUER)
        apis[name] = FakeApi(confirming(policy))
        clusters.append(TrustedCluster(policy, Source.of(maker), TokenReviewer(apis[name], policy)))
    check = TokenVerifier(clusters)
    assert outcomes(check, WEST.token()) == {"west"}
    assert (len(apis["east"].asked), len(apis["west"].asked)) == (0, 1)


# --- start ---------------------------------------------------------------------------------------------------------


def test_without_keys_they_could_not_be_told_apart() -> None:
    policies = [ClusterPolicy(name, ISSUER) for name in ("east", "west")]
    reviewed = [TrustedCluster(policy, None, TokenReviewer(FakeApi(confirming(policy)), policy)) for policy in policies]
    for clusters in (reviewed, [reviewed[0], trusted("west", Source.of(WEST))]):
        with pytest.raises(UsageError, match="east, west share an issuer") as caught:
            TokenVerifier(clusters)
        assert "hybrid" in caught.value.todo
    other = ClusterPolicy("west", "https://other.test")
    TokenVerifier([reviewed[0], TrustedCluster(other, None, TokenReviewer(FakeApi(confirming(other)), other))])


def test_somebody_has_to_examine_the_tokens() -> None:
    with pytest.raises(UsageError, match="neither keys nor an API server"):
        TrustedCluster(ClusterPolicy("east", ISSUER), None)


def test_overlaps() -> None:
    clusters = [
        trusted("east", Source.of(EAST)),
        trusted("west", Source.of(SAME_KEY)),
        trusted("far", Source.of(EAST), "https://far.test"),
        trusted("new", Source(None, None)),
    ]
    assert overlaps(clusters) == (("east", "west"),)
    assert overlaps(clusters[2:]) == ()


# --- properties ----------------------------------------------------------------------------------------------------

MAKERS = [EAST, WEST, SAME_KID, SAME_KEY, STRANGER]


@given(
    st.lists(st.sampled_from(MAKERS), min_size=1, max_size=2, unique_by=lambda maker: maker.kid),
    st.lists(st.sampled_from(MAKERS), min_size=1, max_size=2, unique_by=lambda maker: maker.kid),
    st.sampled_from(MAKERS),
    st.booleans(),
    st.text(max_size=8) | st.sampled_from(HINTS),
)
def test_a_hint_changes_no_outcome(
    east: list[TokenMaker], west: list[TokenMaker], maker: TokenMaker, old: bool, hint: str
) -> None:
    token = maker.old_token() if old else maker.token()
    without, with_hint = (outcome(both(Source.of(*east), Source.of(*west)), token, each) for each in ("", hint))
    assert with_hint == without
    if without in {"east", "west"}:
        ours, theirs = (east, west) if without == "east" else (west, east)
        assert any(maker.slot == one.slot for one in ours)
        assert not any(maker.slot == one.slot for one in theirs)


def test_the_order_in_the_configuration_changes_no_outcome() -> None:
    for east, west, maker in itertools.product(MAKERS, MAKERS, MAKERS):
        clusters = [trusted("east", Source.of(east)), trusted("west", Source.of(west))]
        first, second = (outcome(TokenVerifier(order), maker.token()) for order in (clusters, clusters[::-1]))
        assert first == second
