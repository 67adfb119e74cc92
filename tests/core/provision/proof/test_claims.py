"""What a token must say that was asked for by TokenRequest for the probe."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshpki.errors import MeshpkiError
from meshpki.identity import ServiceAccountRef
from meshpki.provision.proof.claims import examine
from meshpki.tokens.caller import BoundObject
from support.tokens import ABSENT, ISSUER, NOW, TokenMaker

MAKER = TokenMaker()
WEB = ServiceAccountRef("default", "web")
UID = "5a4b3c2d-1e0f-4a9b-8c7d-6e5f4a3b2c1d"
POD = BoundObject("web-7d4b9c6f5-x2x9k", "0b0e4f3a-8f1e-4a57-9b6e-3d2c1b0a9f8e")


def said(token: bytes, *, uid: str = UID, pod: BoundObject = POD, account: ServiceAccountRef = WEB) -> str:
    return examine(token.decode(), audience="istio-ca", account=account, account_uid=uid, pod=pod, now=NOW + 1)


def test_a_token_as_asked() -> None:
    assert said(MAKER.token(lifetime=600)) == f"for istio-ca, 600 s, RS256, issuer {ISSUER}"


def test_a_token_of_the_founding_age_has_no_id() -> None:
    token = MAKER.token({"alg": "RS256", "kid": ""}, lifetime=600, node=None, jti=ABSENT)
    assert said(token) == f"for istio-ca, 600 s, RS256, no jti, issuer {ISSUER}"


OTHERS: dict[str, Callable[[], bytes]] = {
    "for other audiences too": lambda: MAKER.token(lifetime=600, audience=("istio-ca", "vault")),
    "meant for audience 'vault'": lambda: MAKER.token(lifetime=600, audience=("vault",)),
    "lives 601 s": lambda: MAKER.token(lifetime=601),
    "not bound to a pod": lambda: MAKER.token(lifetime=600, pod=None),
    "bound to pod other of UID": lambda: MAKER.token(lifetime=600, pod="other"),
    "the token is for default/api": lambda: MAKER.token(lifetime=600, name="api"),
    "the token is for kube-system/web": lambda: MAKER.token(lifetime=600, namespace="kube-system"),
    "expired": lambda: MAKER.token(now=NOW - 9000, lifetime=600),
    "legacy": MAKER.legacy_token,
    "has 1 part": lambda: b"an-opaque-token",
    r"has 1 part.s., not three": "tökén".encode,
}


@pytest.mark.parametrize("seen", OTHERS)
def test_another_one(seen: str) -> None:
    with pytest.raises(MeshpkiError, match=seen):
        said(OTHERS[seen]())


def test_a_namesake_of_the_account_or_of_the_pod() -> None:
    token = MAKER.token(lifetime=600)
    with pytest.raises(MeshpkiError, match="of UID another"):
        said(token, uid="another")
    with pytest.raises(MeshpkiError, match="of UID another"):
        said(token, pod=BoundObject(POD.name, "another"))
