"""The probe against answers that no good API server gives: told in words that hold no secret."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import pytest

from meshpki.errors import MeshpkiError
from meshpki.kube.answer import Answer
from meshpki.provision.cluster.throw_away import this_run
from meshpki.provision.proof.probe import TRIES, Probe
from support.tokens import TokenMaker

SPACE = "/api/v1/namespaces/default"
TOKEN = f"POST {SPACE}/serviceaccounts/meshpki-verify/token"
SECRET = f"GET {SPACE}/secrets/meshpki-verify"
GOOD = TokenMaker().token().decode()


class Script:
    """Answers each request by what stands for it, the last one for ever."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, list[bytes]] = {}

    def says(self, request: str, *bodies: object) -> Script:
        self.answers[request] = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies]
        return self

    def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        self.asked.append(f"{method} {path}")
        waiting = self.answers[self.asked[-1]]
        return Answer(200, waiting.pop(0) if len(waiting) > 1 else waiting[0], {})


def probe(script: Script) -> Probe:
    return Probe(script, "default", this_run())


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(GOOD).encode(),
        GOOD.encode(),
        json.dumps({"token": GOOD}).encode(),
        json.dumps({"status": {"token": [GOOD]}}).encode(),
        json.dumps({"status": {"token": ""}, "spec": GOOD}).encode(),
        GOOD.encode()[:30],
    ],
    ids=["a text", "bare", "elsewhere", "a list", "empty", "a part"],
)
def test_an_answer_that_holds_the_token_elsewhere_is_not_quoted(body: bytes) -> None:
    with pytest.raises(MeshpkiError) as caught:
        probe(Script().says(TOKEN, body)).mint("istio-ca")
    said = repr((str(caught.value), caught.value.evidence))
    assert GOOD[:12] not in said
    assert "an answer that is not what was asked for" in said


def test_silence_is_asked_again() -> None:
    script = Script().says(TOKEN, b"", b"", {"status": {"token": GOOD}})
    assert probe(script).mint("istio-ca") == GOOD
    assert len(script.asked) == TRIES


def test_lasting_silence_is_told() -> None:
    script = Script().says(TOKEN, b"")
    with pytest.raises(MeshpkiError, match="an empty body"):
        probe(script).mint("istio-ca")
    assert len(script.asked) == TRIES


def secret(**data: str) -> dict[str, object]:
    return {"kind": "Secret", "data": data}


def test_the_legacy_token_of_a_secret() -> None:
    filled = secret(token=base64.b64encode(b"a.legacy.token").decode())
    script = Script().says(SECRET, secret(), {"kind": "Secret"}, filled)
    found = [probe(script).legacy_token() for _ in range(3)]
    assert found == ["", "", "a.legacy.token"]


@pytest.mark.parametrize("body", [secret(token="eyJ!"), secret(token="/w=="), {"kind": "ConfigMap"}, [GOOD]])
def test_a_secret_that_cannot_be_read_is_not_quoted(body: object) -> None:
    with pytest.raises(MeshpkiError) as caught:
        probe(Script().says(SECRET, body)).legacy_token()
    assert "eyJ" not in repr((str(caught.value), caught.value.evidence))


def test_nothing_is_made_that_may_not_be_removed() -> None:
    reviews = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    script = Script().says(reviews, {"status": {"allowed": True}}, {"status": {"allowed": False}})
    with pytest.raises(MeshpkiError, match="not allowed to delete pods meshpki-verify in namespace default"):
        probe(script).stand()
    assert set(script.asked) == {reviews}


def test_nothing_is_removed_that_was_not_made() -> None:
    script = Script()
    assert probe(script).remove() == ()
    assert script.asked == []
