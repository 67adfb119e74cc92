"""Every rung asked of a cluster in this process: what is well, and each thing that can be wrong at each question."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.errors import RefusedError, UnavailableError, UsageError
from meshpki.hooks import Mode
from meshpki.kube.errors import KubeCredentialError
from meshpki.provision.cluster import permission
from meshpki.provision.cluster.climb import LeftBehindError, climb
from meshpki.provision.cluster.ladder import Standing
from meshpki.provision.cluster.question import Canary, Question
from meshpki.provision.cluster.throw_away import STALE_SECONDS
from meshpki.provision.cluster.verdict import Answer, Reason, Rung
from meshpki_cli.documents import as_json
from support.fake_cluster import FOUNDING, MODERN, FakeAnswer, FakeCluster, answer, away, failure
from support.tokens import TokenMaker

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
ACCOUNT = f"{ACCOUNTS}/meshpki-detect"
REVIEWS = "POST /apis/authentication.k8s.io/v1/tokenreviews"
YES, NO, UNKNOWN, NOT_ASKED = Answer.YES, Answer.NO, Answer.UNKNOWN, Answer.NOT_ASKED
ALL = tuple(rung for rung in Rung if rung is not Rung.CANARY)


def with_audiences(said: FakeAnswer) -> Callable[[Mapping[str, object]], FakeAnswer | None]:
    return lambda body: said if "audiences" in dict(body["spec"]) else None  # type: ignore[call-overload]


def without_audiences(said: FakeAnswer) -> Callable[[Mapping[str, object]], FakeAnswer | None]:
    return lambda body: None if "audiences" in dict(body["spec"]) else said  # type: ignore[call-overload]


def test_a_modern_cluster_gives_all() -> None:
    cluster = FakeCluster()
    found = climb(cluster, Question())
    assert {verdict.rung: verdict.answer for verdict in found.verdicts} == dict.fromkeys(ALL, YES)
    assert found.modes == (Mode.POD_CERTIFICATE, Mode.SDS, Mode.FILE_MOUNT)
    assert (found.standing, found.lift) == (Standing.PROVEN, ())
    assert found.policies == ("hybrid", "tokenreview", "jwks")
    assert cluster.objects == {}


def test_it_asks_for_one_token_of_the_smallest_life_for_a_random_audience_and_the_meshs() -> None:
    cluster = FakeCluster()
    climb(cluster, Question(audience="my-mesh"))
    (body,) = [body for method, path, body in cluster.asked if path.endswith("/token")]
    assert body is not None
    spec = body["spec"]
    assert isinstance(spec, dict)
    assert spec["expirationSeconds"] == 600
    first, second = spec["audiences"]
    assert first == "my-mesh"
    assert second.startswith("meshpki-detect.")
    assert not [path for _, path, _ in cluster.asked if "dryRun" in path]
    reviews = [body for _, path, body in cluster.asked if path.endswith("tokenreviews")]
    assert [dict(one["spec"]).get("audiences") for one in reviews if one] == [[second], None]  # type: ignore[call-overload]


def test_nothing_of_a_run_is_in_its_record() -> None:
    cluster = FakeCluster()
    first = as_json(climb(cluster, Question()))
    (token,) = cluster.tokens
    head, payload, signature = token.split(".")
    for secret in (token, head, payload, signature):
        assert secret not in first
    assert climb(cluster, Question()) == climb(cluster, Question())
    assert as_json(climb(FakeCluster(), Question())) == first


@pytest.mark.parametrize(
    "echo",
    [
        lambda token: failure(500, f"panic while looking at {token}"),
        lambda token: answer(200, f"<html>{token}</html>".encode()),
        lambda token: answer(201, {"kind": "TokenReview", "status": {"error": f"no good: {token}"}}),
        lambda token: answer(201, {"kind": "TokenReview", "status": {"authenticated": True, "audiences": [token]}}),
    ],
)
def test_a_server_that_sends_the_token_back_does_not_get_it_into_the_record(
    echo: Callable[[str], FakeAnswer],
) -> None:
    cluster = FakeCluster()
    cluster.scripted[REVIEWS] = lambda body: echo(str(dict(body["spec"])["token"]))  # type: ignore[call-overload]
    shown = as_json(climb(cluster, Question()))
    (token,) = cluster.tokens
    for part in token.split("."):
        assert part[:20] not in shown


def test_a_token_that_cannot_be_found_in_the_answer_is_not_quoted() -> None:
    cluster = FakeCluster()
    token = TokenMaker().token().decode()
    cluster.scripted[f"POST {ACCOUNT}/token"] = answer(201, {"odd": {"shape": token}})
    found = climb(cluster, Question())
    assert found[Rung.TOKEN].reason is Reason.UNREADABLE
    assert token[:20] not in as_json(found)


@pytest.mark.parametrize(
    "question", ["GET /version", f"POST {permission.REVIEW_PATH}", f"POST {ACCOUNT}/token", REVIEWS]
)
def test_an_empty_answer_as_1_13_gives_at_times_is_asked_for_again(question: str) -> None:
    cluster = FakeCluster()
    times = iter([True, True, False])
    cluster.scripted[question] = lambda _: answer(200, b"") if next(times, False) else None
    assert all(verdict.good for verdict in climb(cluster, Question()).verdicts)


# ---- each way to fail, at each question

QUESTIONS = {
    Rung.VERSION: "GET /version",
    Rung.TOKEN_REQUEST: "GET /api/v1",
    Rung.PERMISSIONS: f"POST {permission.REVIEW_PATH}",
    Rung.TOKEN: f"POST {ACCOUNT}/token",
    Rung.REVIEW: REVIEWS,
    Rung.API_SERVER: REVIEWS,
    Rung.ISSUER: "GET /.well-known/openid-configuration",
    Rung.CERTIFICATES: "GET /apis/certificates.k8s.io/v1",
}
WAYS: dict[Reason, FakeAnswer | BaseException] = {
    Reason.FORBIDDEN: failure(403, 'User "jo" cannot do it'),
    Reason.NOT_ADMITTED: failure(403, 'admission webhook "policy.test" denied the request: label team is required'),
    Reason.THROTTLED: failure(429, "too many requests"),
    Reason.SERVER_ERROR: failure(500, "it broke"),
    Reason.INVALID: failure(422, "that will not do"),
    Reason.UNREADABLE: answer(200, b"<html>Please log in</html>"),
    Reason.NO_ANSWER: away(),
}


@pytest.mark.parametrize("reason", WAYS)
@pytest.mark.parametrize("rung", QUESTIONS)
def test_no_usable_answer_is_never_a_no(rung: Rung, reason: Reason) -> None:
    cluster = FakeCluster()
    way = WAYS[reason]
    if rung is Rung.VERSION and isinstance(way, BaseException):
        with pytest.raises(UnavailableError):
            climb(FakeCluster(scripted={"GET /version": way}), Question())
        return
    if rung is Rung.REVIEW and isinstance(way, FakeAnswer):
        cluster.scripted[REVIEWS] = with_audiences(way)
    elif rung is Rung.API_SERVER and isinstance(way, FakeAnswer):
        cluster.scripted[REVIEWS] = without_audiences(way)
    else:
        cluster.scripted[QUESTIONS[rung]] = way
    found = climb(cluster, Question())
    assert (found[rung].answer, found[rung].reason) == (UNKNOWN, reason)
    assert found[rung].todo
    assert found.sds is not NO
    if rung in {Rung.TOKEN, Rung.REVIEW, Rung.API_SERVER}:
        assert Mode.SDS not in found.modes
        assert any(step.todo == found[rung].todo for step in found.lift)
        assert found.standing is Standing.UNKNOWN, "though pod certificates are proven"
    if rung is Rung.CERTIFICATES:
        assert Mode.POD_CERTIFICATE not in found.modes
    assert cluster.objects == {}


@pytest.mark.parametrize("rung", QUESTIONS)
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"kind":"Status"}', b"\xff\xfe", b'{"a":' * 2000])
def test_garbage_is_never_a_no(rung: Rung, body: bytes) -> None:
    cluster = FakeCluster(scripted={QUESTIONS[rung]: answer(200, body)})
    found = climb(cluster, Question())
    assert (found[rung].answer, found[rung].reason) == (UNKNOWN, Reason.UNREADABLE)
    assert cluster.objects == {}


@pytest.mark.parametrize(
    ("question", "rung", "named"),
    [
        ("GET /version", Rung.VERSION, "get /version"),
        ("GET /api/v1", Rung.TOKEN_REQUEST, "get /api/*"),
        (f"POST {permission.REVIEW_PATH}", Rung.PERMISSIONS, "create selfsubjectaccessreviews.authorization.k8s.io"),
        (f"POST {ACCOUNTS}", Rung.TOKEN, "create serviceaccounts in namespace default"),
        (f"POST {ACCOUNT}/token", Rung.TOKEN, "create serviceaccounts/token meshpki-detect in namespace default"),
        (REVIEWS, Rung.REVIEW, "create tokenreviews.authentication.k8s.io"),
        (REVIEWS, Rung.API_SERVER, "create tokenreviews.authentication.k8s.io"),
        ("GET /.well-known/openid-configuration", Rung.ISSUER, "get /.well-known/openid-configuration"),
        ("GET /openid/v1/jwks", Rung.ISSUER, "get /openid/v1/jwks"),
        ("GET /apis/certificates.k8s.io/v1", Rung.CERTIFICATES, "get /apis/*"),
    ],
)
def test_403_names_the_permission(question: str, rung: Rung, named: str) -> None:
    cluster = FakeCluster(scripted={question: failure(403, 'User "jo" cannot do it')})
    found = climb(cluster, Question())
    assert (found[rung].answer, found[rung].reason) == (UNKNOWN, Reason.FORBIDDEN)
    assert named in found[rung].seen
    assert f"`{named}`" in found[rung].todo
    ours = named.startswith(("create serviceaccounts", "create tokenreviews", "get /.", "get /openid"))
    assert ("--rbac NAME" in found[rung].todo) is ours


@pytest.mark.parametrize(
    "words",
    [
        'admission webhook "policy.test" denied the request: label team is required',
        'serviceaccounts "meshpki-detect" is forbidden: exceeded quota: q, requested: count/serviceaccounts=1, used: 5',
        'serviceaccounts "meshpki-detect" is forbidden: unable to create new content in namespace default because it '
        "is being terminated",
    ],
    ids=["webhook", "quota", "terminating"],
)
def test_an_account_that_is_not_admitted_is_no_missing_permission(words: str) -> None:
    found = climb(FakeCluster(scripted={f"POST {ACCOUNTS}": failure(403, words)}), Question())
    verdict = found[Rung.TOKEN]
    assert (verdict.answer, verdict.reason) == (UNKNOWN, Reason.NOT_ADMITTED)
    assert words in verdict.seen
    assert "--rbac" not in verdict.todo
    assert "--namespace" in verdict.todo


@pytest.mark.parametrize("question", [*dict.fromkeys(QUESTIONS.values()), "GET /openid/v1/jwks"])
def test_401_ends_it_with_one_sentence_and_leaves_nothing(question: str) -> None:
    cluster = FakeCluster(scripted={question: failure(401, "Unauthorized")})
    with pytest.raises(RefusedError, match="does not accept the credential") as told:
        climb(cluster, Question())
    assert told.value.todo == "log in again; or choose another context (--context)"
    assert cluster.objects == {}


@pytest.mark.parametrize("question", ["GET /api/v1", f"POST {ACCOUNT}/token", "GET /openid/v1/jwks"])
def test_a_credential_that_cannot_be_had_any_more_is_told_as_what_it_is(question: str) -> None:
    lost = KubeCredentialError("aws failed with status 1", todo="log in with that tool")
    cluster = FakeCluster(scripted={question: lost})
    with pytest.raises(KubeCredentialError, match="aws failed"):
        climb(cluster, Question())
    assert cluster.objects == {}


def test_401_is_told_with_what_is_known_of_the_credential() -> None:
    cluster = FakeCluster(scripted={"GET /version": failure(401, "Unauthorized")})
    with pytest.raises(RefusedError) as told:
        climb(cluster, Question(), login=lambda: "fetch it again (it expired at noon)")
    assert told.value.todo.startswith("fetch it again (it expired at noon); or choose")


# ---- 1.13, and what else there is between yes and no


def test_1_13_without_flags() -> None:
    cluster = FakeCluster(version=FOUNDING, token_requests=False, published=False, certificate_kinds={"v1beta1": ()})
    found = climb(cluster, Question())
    assert (found[Rung.TOKEN_REQUEST].answer, found[Rung.TOKEN_REQUEST].reason) == (NO, Reason.NOT_SERVED)
    assert "legacy tokens only" in found[Rung.TOKEN_REQUEST].seen
    assert (found[Rung.TOKEN].answer, found[Rung.TOKEN].reason) == (NO, Reason.TOKEN_REQUEST_OFF)
    assert [found[rung].answer for rung in (Rung.REVIEW, Rung.API_SERVER)] == [NOT_ASKED, NOT_ASKED]
    assert (found[Rung.ISSUER].answer, found[Rung.ISSUER].reason) == (NO, Reason.ISSUER_TOO_OLD)
    assert (found[Rung.CERTIFICATES].answer, found[Rung.CERTIFICATES].reason) == (NO, Reason.NOT_SERVED)
    assert (found.modes, found.standing, found.policies) == ((Mode.FILE_MOUNT,), Standing.FILE_MOUNT_ONLY, ())
    (step,) = found.lift
    assert step.mode is Mode.SDS
    for flag in ("--service-account-issuer", "--service-account-signing-key-file", "--api-audiences"):
        assert flag in step.todo


def test_1_13_with_flags_and_an_issuer_that_is_no_url() -> None:
    maker = TokenMaker("kubernetes.default.svc", kid="")
    cluster = FakeCluster(version=FOUNDING, maker=maker, published=False, certificate_kinds={}, api_audiences=("k",))
    found = climb(cluster, Question())
    assert (found[Rung.TOKEN].answer, found[Rung.TOKEN].reason) == (YES, Reason.WITHOUT_KEY_ID)
    assert "empty kid" in found[Rung.TOKEN].seen
    assert (found[Rung.ISSUER].answer, found[Rung.ISSUER].reason) == (NO, Reason.ISSUER_NOT_HTTPS)
    assert "kubernetes.default.svc is no https URL" in found[Rung.ISSUER].seen
    assert (found.modes, found.policies) == ((Mode.SDS, Mode.FILE_MOUNT), ("tokenreview",))
    assert [step.mode for step in found.lift] == [Mode.POD_CERTIFICATE]


def test_before_1_13_a_good_token_changes_nothing() -> None:
    cluster = FakeCluster(version={"gitVersion": "v1.12.10"}, certificate_kinds={})
    found = climb(cluster, Question())
    assert found[Rung.TOKEN].good
    assert (found.sds, found.modes) == (NO, (Mode.FILE_MOUNT,))
    assert "upgrade to 1.13" in found.lift[0].todo


def test_servers_with_other_flags_behind_one_address() -> None:
    one = climb(FakeCluster(token_requests=False, discovered=True), Question())
    assert (one[Rung.TOKEN].answer, one[Rung.TOKEN].reason) == (UNKNOWN, Reason.SERVERS_DIFFER)
    assert one.sds is UNKNOWN
    other = climb(FakeCluster(token_requests=True, discovered=False), Question())
    assert other[Rung.TOKEN].good
    assert "may differ" in other[Rung.TOKEN].seen


PAGE = answer(404, b"<html>404 page</html>")


@pytest.mark.parametrize("rung", QUESTIONS)
def test_a_404_that_is_no_api_servers_is_never_a_no(rung: Rung) -> None:
    cluster = FakeCluster(scripted={QUESTIONS[rung]: PAGE}, discovered=False)
    found = climb(cluster, Question())
    reason = Reason.ISSUER_HIDDEN if rung is Rung.ISSUER else Reason.UNREADABLE
    assert (found[rung].answer, found[rung].reason) == (UNKNOWN, reason)
    assert "address" in found[rung].todo
    assert cluster.objects == {}


def test_an_outage_with_an_error_page_lowers_no_mode() -> None:
    cluster = FakeCluster(certificate_kinds={})
    cluster.scripted |= {f"POST {ACCOUNT}/token": PAGE, "GET /api/v1": failure(503)}
    found = climb(cluster, Question())
    assert (found.sds, found.standing) == (UNKNOWN, Standing.UNKNOWN)


def test_a_wrong_path_in_the_servers_address_lowers_nothing() -> None:
    class Lost(FakeCluster):
        """Every path leads nowhere, as behind a wrong prefix."""

        def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> FakeAnswer:
            self.asked.append((method, path, body))
            return answer(404, b"404 page not found\n")

    found = climb(Lost(), Question())
    assert {verdict.answer for verdict in found.verdicts} == {UNKNOWN, NOT_ASKED}
    assert found.standing is Standing.UNKNOWN


@pytest.mark.parametrize(
    ("version", "verdict", "reason"),
    [
        ("v1.13.0", NO, Reason.TOKEN_REQUEST_OFF),
        ("v1.19.16", NO, Reason.TOKEN_REQUEST_OFF),
        ("v1.20.0", UNKNOWN, Reason.TOKEN_REQUEST_HIDDEN),
        ("v1.37.2", UNKNOWN, Reason.TOKEN_REQUEST_HIDDEN),
        ("unknown", UNKNOWN, Reason.NOT_FOUND),
    ],
)
def test_token_request_can_be_off_until_1_20(version: str, verdict: Answer, reason: Reason) -> None:
    cluster = FakeCluster(version={"gitVersion": version}, token_requests=False, certificate_kinds={})
    found = climb(cluster, Question())
    assert (found[Rung.TOKEN].answer, found[Rung.TOKEN].reason) == (verdict, reason)
    assert found[Rung.TOKEN].todo
    assert found.sds is verdict
    assert ("legacy tokens only" in found[Rung.TOKEN_REQUEST].seen) is (verdict is NO)


def test_an_account_that_vanishes_is_no_missing_token_request() -> None:
    cluster = FakeCluster(discovered=False)
    gone = failure(404, 'serviceaccounts "meshpki-detect" not found', kind="serviceaccounts", name="meshpki-detect")
    cluster.scripted[f"POST {ACCOUNT}/token"] = gone
    found = climb(cluster, Question())
    assert (found[Rung.TOKEN].answer, found[Rung.TOKEN].reason) == (UNKNOWN, Reason.ACCOUNT_GONE)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": ["https://cluster.test"]}, Reason.AUDIENCE_NOT_AS_ASKED),
        ({"aud": ["istio-ca"]}, Reason.AUDIENCE_NOT_AS_ASKED),
        ({"exp": 4_000_000_000}, Reason.LIVES_TOO_LONG),
        ({"exp": 1}, Reason.LIVES_TOO_LONG),
        ({"sub": "system:serviceaccount:kube-system:admin"}, Reason.OTHER_SUBJECT),
    ],
)
def test_a_token_that_is_not_as_asked_is_a_no(claims: dict[str, object], reason: Reason) -> None:
    found = climb(FakeCluster(claims=claims), Question())
    assert (found[Rung.TOKEN].answer, found[Rung.TOKEN].reason) == (NO, reason)
    assert found.sds is NO


@pytest.mark.parametrize("token", ["", "a.b.c", "no token", "x" * 9000, 7, None])
def test_what_is_no_token_is_not_one(token: object) -> None:
    cluster = FakeCluster(scripted={f"POST {ACCOUNT}/token": answer(201, {"status": {"token": token}})})
    found = climb(cluster, Question())
    assert (found[Rung.TOKEN].answer, found[Rung.TOKEN].reason) == (UNKNOWN, Reason.UNREADABLE)
    assert found[Rung.REVIEW].answer is NOT_ASKED


def review(**status: object) -> FakeAnswer:
    return answer(201, {"kind": "TokenReview", "status": status})


USER = {"username": "system:serviceaccount:default:meshpki-detect"}


@pytest.mark.parametrize(
    ("said", "verdict", "reason"),
    [
        (review(authenticated=True, user=USER), NO, Reason.AUDIENCE_NOT_CONFIRMED),
        (review(authenticated=True, user=USER, audiences=["istio-ca"]), NO, Reason.AUDIENCE_NOT_CONFIRMED),
        (review(authenticated=False, error="[invalid bearer token]"), NO, Reason.NOT_AUTHENTICATED),
        (review(), NO, Reason.NOT_AUTHENTICATED),
        (review(authenticated="true", user=USER), NO, Reason.NOT_AUTHENTICATED),
        (failure(500, "Internal error occurred: error validating audiences"), NO, Reason.NO_AUDIENCES),
        (failure(500, "Internal error occurred: etcd is away"), UNKNOWN, Reason.SERVER_ERROR),
    ],
)
def test_a_review_that_does_not_confirm_our_audience_is_a_no(said: FakeAnswer, verdict: Answer, reason: Reason) -> None:
    cluster = FakeCluster(scripted={REVIEWS: with_audiences(said)})
    found = climb(cluster, Question())
    assert (found[Rung.REVIEW].answer, found[Rung.REVIEW].reason) == (verdict, reason)
    assert Mode.SDS not in found.modes
    proves = found[Rung.API_SERVER]
    assert (proves.answer, proves.reason) == (UNKNOWN, Reason.PROVES_NOTHING)


def test_another_users_name_in_the_review_is_a_no() -> None:
    cluster = FakeCluster()

    def renamed(body: Mapping[str, object]) -> FakeAnswer:
        audiences = dict(body["spec"]).get("audiences")  # type: ignore[call-overload]
        return review(authenticated=True, user={"username": "corp:alice"}, audiences=audiences)

    cluster.scripted[REVIEWS] = renamed
    assert climb(cluster, Question())[Rung.REVIEW].reason is Reason.OTHER_SUBJECT


def test_keys_that_do_not_belong_together_are_told_by_name() -> None:
    said = review(error="[invalid bearer token, crypto/rsa: error in cryptographic primitive]")
    found = climb(FakeCluster(scripted={REVIEWS: said}), Question())
    assert "--service-account-key-file" in found[Rung.REVIEW].todo


@pytest.mark.parametrize(
    ("cluster", "reason"),
    [
        (FakeCluster(api_audiences=("https://cluster.test", "istio-ca")), Reason.OPEN_BY_AUDIENCE),
        (FakeCluster(audience_aware=False), Reason.OPEN_TO_ANY),
    ],
)
def test_a_mesh_token_that_opens_the_api_server_is_a_danger(cluster: FakeCluster, reason: Reason) -> None:
    found = climb(cluster, Question())
    verdict = found[Rung.API_SERVER]
    assert (verdict.answer, verdict.reason) == (Answer.DANGER, reason)
    assert "OPENS THE API SERVER" in verdict.seen
    assert (found.standing, found.sds) == (Standing.DANGER, Answer.DANGER)
    assert Mode.SDS not in found.modes
    assert found.lift[0].todo == verdict.todo


@pytest.mark.parametrize(
    "error",
    ["", "[invalid bearer token]", "Post https://webhook.test: connection refused", "context deadline exceeded"],
)
def test_a_refusal_for_another_reason_than_the_audience_proves_nothing(error: str) -> None:
    cluster = FakeCluster(scripted={REVIEWS: without_audiences(review(error=error))})
    found = climb(cluster, Question())
    verdict = found[Rung.API_SERVER]
    assert (verdict.answer, verdict.reason) == (UNKNOWN, Reason.PROVES_NOTHING)
    assert verdict.todo
    assert found.standing is Standing.UNKNOWN


def test_the_danger_is_about_the_audience_that_the_mesh_has() -> None:
    open_for = ("https://cluster.test", "vault")
    assert climb(FakeCluster(api_audiences=open_for), Question()).standing is Standing.PROVEN
    assert climb(FakeCluster(api_audiences=open_for), Question(audience="vault")).standing is Standing.DANGER


# ---- issuer and certificates


def test_several_issuers() -> None:
    found = climb(FakeCluster(api_audiences=("https://cluster.test", "https://old.test")), Question())
    assert (found[Rung.ISSUER].answer, found[Rung.ISSUER].reason) == (YES, Reason.ONE_OF_SEVERAL)
    assert "https://old.test" in found[Rung.ISSUER].seen
    assert dict(found.facts)["api-audiences"] == ("https://cluster.test", "https://old.test")


def test_an_audience_beside_is_no_issuer_beside() -> None:
    assert climb(FakeCluster(api_audiences=("k3s", "api")), Question())[Rung.ISSUER].reason is Reason.PUBLISHED


@pytest.mark.parametrize(
    ("cluster", "verdict", "reason"),
    [
        (FakeCluster(published_issuer="https://other.test"), NO, Reason.ISSUER_DIFFERS),
        (FakeCluster(published=False), UNKNOWN, Reason.ISSUER_HIDDEN),
        (FakeCluster(published=False, version={"gitVersion": "v1.19.16"}), NO, Reason.ISSUER_TOO_OLD),
        (FakeCluster(published=False, version={"gitVersion": "v1.17.3"}), NO, Reason.ISSUER_TOO_OLD),
        (FakeCluster(published=False, scripted={"GET /version": failure(500)}), UNKNOWN, Reason.ISSUER_HIDDEN),
        (FakeCluster(published=False, maker=TokenMaker("https://a.test?b")), NO, Reason.ISSUER_NOT_HTTPS),
        (FakeCluster(published=False, maker=TokenMaker("k3s")), NO, Reason.ISSUER_NOT_HTTPS),
        (FakeCluster(scripted={"GET /openid/v1/jwks": answer(200, {"keys": []})}), NO, Reason.KEY_NOT_PUBLISHED),
        (FakeCluster(scripted={"GET /openid/v1/jwks": answer(200, {"keys": 1})}), UNKNOWN, Reason.UNREADABLE),
        (FakeCluster(scripted={"GET /openid/v1/jwks": failure(404)}), UNKNOWN, Reason.NOT_FOUND),
        (
            FakeCluster(scripted={"GET /openid/v1/jwks": answer(200, TokenMaker(slot=1).jwks())}),
            NO,
            Reason.KEY_NOT_PUBLISHED,
        ),
    ],
)
def test_issuer(cluster: FakeCluster, verdict: Answer, reason: Reason) -> None:
    found = climb(cluster, Question())
    assert (found[Rung.ISSUER].answer, found[Rung.ISSUER].reason) == (verdict, reason)
    assert found.policies == ("tokenreview",), "a review still proves it"
    assert Mode.SDS in found.modes


BOTH = ("podcertificaterequests", "clustertrustbundles")


@pytest.mark.parametrize(
    ("kinds", "verdict", "reason", "asked"),
    [
        ({"v1": BOTH}, YES, Reason.STABLE, 1),
        ({"v1": (), "v1beta1": BOTH}, NO, Reason.BETA, 2),
        ({"v1": (), "v1beta1": ("clustertrustbundles",)}, NO, Reason.NOT_SERVED, 2),
        ({"v1": ("clustertrustbundles",)}, NO, Reason.NOT_SERVED, 2),
        ({}, NO, Reason.NOT_SERVED, 2),
    ],
)
def test_certificates(kinds: dict[str, tuple[str, ...]], verdict: Answer, reason: Reason, asked: int) -> None:
    cluster = FakeCluster(certificate_kinds=kinds)
    found = climb(cluster, Question())
    assert (found[Rung.CERTIFICATES].answer, found[Rung.CERTIFICATES].reason) == (verdict, reason)
    assert len([path for _, path, _ in cluster.asked if "certificates.k8s.io" in path]) == asked
    assert (Mode.POD_CERTIFICATE in found.modes) is (verdict is YES)


@pytest.mark.parametrize(
    ("version", "todo"),
    [
        ({"gitVersion": "v1.36.3"}, "upgrade to 1.37 or later"),
        ({"gitVersion": "unknown"}, "upgrade to 1.37 or later"),
        ({"gitVersion": "v1.37.2", "emulationMajor": "1", "emulationMinor": "36"}, "end the emulation of 1.36"),
        ({"gitVersion": "v1.38.0", "emulationMajor": "1", "emulationMinor": "37"}, "see why this 1.38 does not"),
        ({"gitVersion": "v1.36.3", "emulationMajor": "1", "emulationMinor": "35"}, "upgrade to 1.37 or later"),
        (MODERN, "see why this 1.37 does not serve"),
    ],
    ids=str,
)
def test_the_way_up_is_by_the_binary_and_by_what_it_emulates(version: Mapping[str, object], todo: str) -> None:
    found = climb(FakeCluster(version=version, certificate_kinds={}), Question())
    assert found[Rung.CERTIFICATES].todo.startswith(todo)


def test_a_beta_that_cannot_be_asked_for_is_no_no() -> None:
    cluster = FakeCluster(
        certificate_kinds={"v1": ()}, scripted={"GET /apis/certificates.k8s.io/v1beta1": failure(503)}
    )
    assert climb(cluster, Question())[Rung.CERTIFICATES].answer is UNKNOWN


# ---- permissions


@pytest.mark.parametrize("denied", ["create serviceaccounts/token", "create tokenreviews", "get /openid/v1/jwks"])
def test_what_is_not_granted_is_named(denied: str) -> None:
    verdict = climb(FakeCluster(denied=(denied,)), Question())[Rung.PERMISSIONS]
    assert (verdict.answer, verdict.reason) == (NO, Reason.MISSING)
    assert denied in verdict.seen
    assert "--rbac NAME" in verdict.todo


@pytest.mark.parametrize(
    ("cluster", "todo"),
    [
        (FakeCluster(denied=("delete serviceaccounts",)), "delete serviceaccounts meshpki-detect"),
        (FakeCluster(scripted={f"POST {permission.REVIEW_PATH}": failure(500)}), "the API server's log"),
        (FakeCluster(scripted={f"POST {permission.REVIEW_PATH}": away()}), "is up and reachable"),
        (FakeCluster(scripted={f"POST {permission.REVIEW_PATH}": PAGE}), "the server's address"),
    ],
    ids=["may not", "500", "away", "no API server's"],
)
def test_what_might_not_be_removed_is_not_made(cluster: FakeCluster, todo: str) -> None:
    """And nobody is sent for a permission that he may have: what hides whether he has is what has to be mended."""
    found = climb(cluster, Question())
    assert f"POST {ACCOUNTS}" not in cluster.requests
    assert (found[Rung.TOKEN].answer, found[Rung.TOKEN].reason) == (UNKNOWN, Reason.WOULD_STAY_BEHIND)
    assert todo in found[Rung.TOKEN].todo
    assert ("granted" in found[Rung.TOKEN].todo) is ("delete" in todo)


# ---- a server that falls silent, or takes its time


class Silent(FakeCluster):
    """Answers the first requests, then none."""

    answered = 1

    def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> FakeAnswer:
        if len(self.asked) < self.answered:
            return super().request(method, path, body)
        self.asked.append((method, path, body))
        raise away()


@pytest.mark.parametrize("answered", range(1, 15))
def test_a_server_that_falls_silent_is_not_asked_again_and_again(answered: int) -> None:
    cluster = Silent()
    cluster.answered = answered
    try:
        found = climb(cluster, Question())
    except LeftBehindError as error:
        assert error.ladder is not None
        found = error.ladder
    asked = [one for one in cluster.requests[answered:] if "serviceaccounts/meshpki-detect" not in one]
    assert len(asked) <= 2
    whole = FakeCluster()
    climb(whole, Question())
    if answered < len(whole.asked) - 4:
        assert found.standing is Standing.UNKNOWN
        assert [step.todo for step in found.lift] == [
            "see whether the API server is up and reachable from here, and try again"
        ]
        left_out = [seen for one in found.verdicts for seen in one.evidence if seen.message.startswith("not asked: ")]
        assert left_out
        assert "no answer: " not in str([verdict.seen for verdict in found.verdicts])


def test_a_question_without_an_answer_now_and_then_ends_nothing() -> None:
    cluster = FakeCluster()
    for path in ("GET /api/v1", f"POST {ACCOUNT}/token", "GET /openid/v1/jwks"):
        cluster.scripted[path] = away()
    found = climb(cluster, Question())
    assert "not asked: the API server" not in as_json(found)
    assert found[Rung.CERTIFICATES].good


@pytest.mark.parametrize("canary", [None, Canary(seconds=180.0)])
@pytest.mark.parametrize("slow", [1.0, 20.0, 59.0])
def test_nothing_stands_so_long_that_another_machine_takes_it_for_left(slow: float, canary: Canary | None) -> None:
    now = 0.0

    class Slow(FakeCluster):
        def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> FakeAnswer:
            nonlocal now
            began = now
            now += slow
            if method == "POST" and path == ACCOUNTS:
                self.born = began
            if method == "DELETE" and path == ACCOUNT:
                self.died = now
            return super().request(method, path, body)

        born = died = 0.0

    cluster = Slow(node="n", pod_status={"phase": "Pending"})

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    found = climb(cluster, Question(canary=canary), monotonic=lambda: now, sleep=sleep)
    assert cluster.objects == {}
    assert 0 < cluster.died - cluster.born < STALE_SECONDS
    assert ("not asked: the other questions took too long" in as_json(found)) is (slow > 50)


@pytest.mark.parametrize("namespace", ["", "a/b", "../kube-system", "A", "x" * 64])
def test_a_namespace_that_is_none(namespace: str) -> None:
    with pytest.raises(UsageError, match="namespace"):
        Question(namespace=namespace)


@pytest.mark.parametrize("audience", ["", "a\nb"])
def test_an_audience_that_is_none(audience: str) -> None:
    with pytest.raises(UsageError, match="audience"):
        Question(audience=audience)


def test_what_cannot_be_removed_is_told_with_the_command_that_removes_it() -> None:
    place = "/api/v1/namespaces/other/serviceaccounts/meshpki-detect"
    cluster = FakeCluster(scripted={f"DELETE {place}": failure(500, "etcd is away")})
    with pytest.raises(LeftBehindError, match="etcd is away") as told:
        climb(cluster, Question(namespace="other"), kubectl="kubectl --context prod")
    assert told.value.todo == "kubectl --context prod -n other delete serviceaccount,pod meshpki-detect"
    assert told.value.ladder is not None
    assert told.value.ladder.standing is Standing.PROVEN, "what was found out is not lost"


def test_progress_is_told_before_each_rung() -> None:
    lines: list[str] = []
    climb(FakeCluster(), Question(), progress=lines.append)
    assert [line.split(":")[0] for line in lines] == [f"step {number}" for number in range(1, 9)]


# ---- any answer at all

ANSWERS = st.one_of(
    st.sampled_from([*WAYS.values(), failure(404), failure(409), failure(302, "moved")]),
    st.binary(max_size=40).map(lambda body: answer(200, body)),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=9)),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(
                    ["kind", "status", "resources", "token", "keys", "metadata", "audiences", "authenticated"]
                ),
                inner,
            )
            | st.lists(inner, max_size=3)
        ),
        max_leaves=8,
    ).map(lambda value: answer(200, value)),
)
EVERY_QUESTION = [*dict.fromkeys(QUESTIONS.values()), f"POST {ACCOUNTS}", "GET /openid/v1/jwks"]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(EVERY_QUESTION), ANSWERS, max_size=4))
def test_whatever_is_answered_there_is_a_ladder_and_no_wrong_yes(
    scripted: dict[str, FakeAnswer | BaseException],
) -> None:
    cluster = FakeCluster(token_requests=False, certificate_kinds={}, scripted=dict(scripted))
    try:
        found = climb(cluster, Question())
    except UnavailableError:
        assert isinstance(scripted.get("GET /version"), BaseException)
        return
    assert found.modes == (Mode.FILE_MOUNT,), "no answer made a token or the certificate kinds"
    assert all(one.todo or one.good or one.answer is NOT_ASKED for one in found.verdicts)
    json.loads(as_json(found))
    assert cluster.objects == {}
