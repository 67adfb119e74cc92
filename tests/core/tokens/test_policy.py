"""What a cluster's tokens must say: bounds, texts and odd claims, without any signature."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import InvalidValueError
from meshpki.tokens.caller import Caller
from meshpki.tokens.parse import ParsedToken, TokenHeader
from meshpki.tokens.policy import ClusterPolicy, check_claims
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from support.tokens import ABSENT, NOW, TokenMaker

MAKER = TokenMaker()
POLICY = ClusterPolicy("c1", MAKER.issuer)


def check(policy: ClusterPolicy = POLICY, now: float = NOW, /, **claims: object) -> Caller:
    parsed = ParsedToken(TokenHeader("RS256", None), MAKER.claims(**claims), b"", b"")  # type: ignore[arg-type]
    return check_claims(parsed, policy, now)


def refusal(policy: ClusterPolicy = POLICY, now: float = NOW, /, **claims: object) -> TokenRefusedError:
    with pytest.raises(TokenRefusedError) as caught:
        check(policy, now, **claims)
    return caught.value


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster": ""},
        {"issuer": ""},
        {"issuer": "kubernetes/serviceaccount"},
        {"audiences": ()},
        {"audiences": ("istio-ca", "")},
        {"leeway_seconds": -1},
        {"leeway_seconds": 61},
        {"max_lifetime_seconds": 0},
        {"max_lifetime_seconds": 10**9},
    ],
)
def test_terms_that_make_no_sense(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError):
        ClusterPolicy(**{"cluster": "c1", "issuer": "https://x", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("leeway", [0, 30, 60])
def test_expiry_to_the_second(leeway: int) -> None:
    policy = ClusterPolicy("c1", MAKER.issuer, leeway_seconds=leeway)
    end = NOW + 3600 + leeway
    check(policy, end - 0.001)
    assert refusal(policy, end).reason is TokenReason.EXPIRED


@pytest.mark.parametrize("leeway", [0, 30, 60])
@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_beginning_to_the_second(leeway: int, claim: str) -> None:
    policy = ClusterPolicy("c1", MAKER.issuer, leeway_seconds=leeway)
    times = {"iat": NOW - 100, "nbf": NOW - 100, claim: NOW}
    check(policy, NOW - leeway, **times)
    assert refusal(policy, NOW - leeway - 0.001, **times).reason is TokenReason.NOT_YET_VALID


def test_lifetime_to_the_second() -> None:
    check(lifetime=86400)
    assert refusal(lifetime=86401).reason is TokenReason.LIFETIME_TOO_LONG
    check(ClusterPolicy("c1", MAKER.issuer, max_lifetime_seconds=172800), lifetime=86401)


@pytest.mark.parametrize(
    ("reason", "now", "text"),
    [
        (TokenReason.EXPIRED, NOW + 9000, ["expired at 2027-01-15T09:00:00Z", "our clock says 2027-01-15T10:30:00Z"]),
        (
            TokenReason.NOT_YET_VALID,
            NOW - 900,
            ["issued at 2027-01-15T08:00:00Z", "our clock says 2027-01-15T07:45:00Z"],
        ),
    ],
)
def test_both_clocks_are_named(reason: TokenReason, now: float, text: list[str]) -> None:
    error = refusal(POLICY, now)
    assert error.reason is reason
    assert all(part in error.seen for part in text)


def test_got_and_wanted_audience_are_named() -> None:
    error = refusal(ClusterPolicy("c1", MAKER.issuer, audiences=("istio-ca", "mesh")), audience=["api", "x\n" * 90])
    assert error.seen.startswith("the token is meant for audience 'api', 'x\\nx\\n")
    assert "(cut, 180 characters)" in error.seen
    assert error.wanted == "audience 'istio-ca', 'mesh'"
    assert str(error).isprintable()


def test_a_thousand_audiences_make_no_long_text() -> None:
    assert len(str(refusal(audience=[f"audience-{number}" for number in range(1000)]))) < 500


@pytest.mark.parametrize("audience", ["", [], ABSENT, [""]])
def test_an_empty_audience_has_its_own_reason(audience: object) -> None:
    assert refusal(audience=audience).reason is TokenReason.NO_AUDIENCE


@pytest.mark.parametrize("audience", ["ISTIO-CA", "istio-ca ", ["istio-c"], ["istio-ca/"], "i", ["istio-ca,api"]])
def test_audiences_are_compared_letter_for_letter(audience: object) -> None:
    assert refusal(audience=audience).reason is TokenReason.WRONG_AUDIENCE


@pytest.mark.parametrize("audience", [["istio-ca", 5], ["istio-ca", ["x"]], {"istio-ca": 1}, 5, True])
def test_an_odd_list_is_refused_even_with_ours_in_it(audience: object) -> None:
    assert refusal(audience=audience).reason is TokenReason.CLAIM_INVALID


def test_the_issuer_is_checked_here_too() -> None:
    assert refusal(iss="https://other").reason is TokenReason.UNKNOWN_ISSUER


def test_a_pod_is_demanded_unless_the_policy_says_otherwise() -> None:
    assert refusal(pod=None).reason is TokenReason.NOT_BOUND
    free = ClusterPolicy("c1", MAKER.issuer, require_pod=False)
    assert check(free, pod=None, node=None).pod is None
    assert refusal(free, pod="-bad").reason is TokenReason.CLAIM_INVALID


def test_bound_to_a_secret_is_not_bound_to_a_pod() -> None:
    kube = {
        "namespace": "default",
        "serviceaccount": {"name": "web", "uid": "u"},
        "secret": {"name": "web-token", "uid": "u"},
    }
    assert refusal(**{"kubernetes.io": kube}).reason is TokenReason.NOT_BOUND


def extended(lifetime: int, warn_after: object) -> dict[str, object]:
    kube = MAKER.claims()["kubernetes.io"]
    assert isinstance(kube, dict)
    return {"lifetime": lifetime, "kubernetes.io": {**kube, "warnafter": warn_after}}


def test_an_extended_token_is_explained() -> None:
    error = refusal(**extended(31_536_000, NOW + 3607))
    assert error.reason is TokenReason.LIFETIME_TOO_LONG
    assert "3607" in error.todo
    assert "3607" not in refusal(lifetime=31_536_000).todo


@pytest.mark.parametrize("value", [True, 1.5, "1", None, -1, 0, [1]])
def test_warnafter_is_a_time(value: object) -> None:
    check(**extended(3600, NOW + 1800))
    assert refusal(**extended(3600, value)).reason is TokenReason.CLAIM_INVALID


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [True, False, 1.5, float(NOW), str(NOW), None, -1, 0, [NOW], {}, 10**12, 10**400])
def test_times_are_whole_seconds_in_range(claim: str, value: object) -> None:
    assert refusal(**{claim: value}).reason is TokenReason.CLAIM_INVALID


@pytest.mark.parametrize("value", ["", " ", "a b", "a\n", "ä", "x" * 129, 5, None, ["x"]])
def test_an_id_is_short_printable_text(value: object) -> None:
    assert refusal(jti=value).reason is TokenReason.CLAIM_INVALID


@pytest.mark.parametrize("member", ["pod", "node", "serviceaccount"])
@pytest.mark.parametrize(
    "value",
    [
        {"name": "web"},
        {"uid": "u"},
        {"name": "web", "uid": ""},
        {"name": "web", "uid": 5},
        {"name": "web", "uid": "a b"},
        {"name": "web", "uid": "u" * 129},
        {"name": "", "uid": "u"},
        {"name": "web\n", "uid": "u"},
        {"name": "w" * 254, "uid": "u"},
        {"name": "../web", "uid": "u"},
        {"name": "Web", "uid": "u"},
        ["web", "u"],
        "web",
        None,
    ],
)
def test_bound_objects_have_a_name_and_a_uid(member: str, value: object) -> None:
    kube = MAKER.claims()["kubernetes.io"]
    assert isinstance(kube, dict)
    assert refusal(**{"kubernetes.io": {**kube, member: value}}).reason is TokenReason.CLAIM_INVALID


# --- any claims at all ---------------------------------------------------------------------------------------------

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=12))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
)
NAMES = st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "kubernetes.io", "x"])
MEMBERS = st.sampled_from(["namespace", "pod", "node", "serviceaccount", "secret", "warnafter"])


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.dictionaries(MEMBERS, VALUES, max_size=3))
def test_any_claims_give_a_caller_or_a_refusal(changes: dict[str, object], members: dict[str, object]) -> None:
    kube = MAKER.claims()["kubernetes.io"]
    assert isinstance(kube, dict)
    try:
        caller = check(**{"kubernetes.io": {**kube, **members}, **changes})
    except TokenRefusedError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 1200
    else:
        assert caller.service_account.subject == changes.get("sub", "system:serviceaccount:default:web")
        assert caller.issued_at - 30 <= NOW < caller.expires_at + 30
