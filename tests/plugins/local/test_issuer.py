"""Tokens of a Kubernetes API server's shape, accepted by our own verifier and by PyJWT."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshpki.identity import ServiceAccountRef
from meshpki.tokens.keys import KeySet
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from meshpki.tokens.trusted_cluster import TrustedCluster
from meshpki.tokens.verify import TokenVerifier
from meshpki_local.issuer import IssuerKey, TokenRequest, Uids, claims, mint
from meshpki_local.settings import AUDIENCE, CLUSTER, ISSUER
from support.tokens import rsa_key

NOW = 1_800_000_000
WEB = ServiceAccountRef("default", "web.front")
KEY = IssuerKey.of(rsa_key())


class Keys:
    """A key source over one JWKS document."""

    def __init__(self, jwks: bytes) -> None:
        self._set = KeySet.from_jwks(jwks)

    def keys(self, kid: str | None, now: float) -> Any:  # Any: whatever the verifier's protocol says
        return self._set.candidates(kid)

    def at_once(self, kid: str | None, now: float) -> bool:
        return True

    def known(self) -> Any:  # Any: as above
        return self._set.keys

    def may_be_behind(self, issued_at: float, now: float) -> bool:
        return False


def verifier(**changes: Any) -> TokenVerifier:  # Any: fields of the policy by name
    policy = ClusterPolicy(cluster=CLUSTER, issuer=ISSUER, audiences=(AUDIENCE,), **changes)
    return TokenVerifier((TrustedCluster(policy, Keys(KEY.jwks())),))


def make(lifetime: int = 3600, audience: str = AUDIENCE) -> str:
    return mint(KEY, TokenRequest(WEB, audience, lifetime), node="node-1", now=NOW)


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:  # Any: JSON
    header, payload, _ = token.split(".")
    return tuple(json.loads(base64.urlsafe_b64decode(part + "==")) for part in (header, payload))


def test_the_shape() -> None:
    header, payload = parts(make())
    assert header == {"alg": "RS256", "kid": KEY.kid}, "an API server sends no typ"
    assert list(payload) == sorted(payload), "Go marshals maps in order"
    assert payload["aud"] == ["istio-ca"]
    assert payload["iss"] == ISSUER
    assert payload["sub"] == "system:serviceaccount:default:web.front"
    assert (payload["iat"], payload["nbf"], payload["exp"]) == (NOW, NOW, NOW + 3600)
    assert uuid.UUID(payload["jti"]).version == 4
    bound = payload["kubernetes.io"]
    assert set(bound) == {"namespace", "node", "pod", "serviceaccount"}
    assert bound["namespace"] == "default"
    assert bound["serviceaccount"]["name"] == "web.front"
    for kind in ("node", "pod", "serviceaccount"):
        assert set(bound[kind]) == {"name", "uid"}
        assert str(uuid.UUID(bound[kind]["uid"])) == bound[kind]["uid"]
    assert len({bound[kind]["uid"] for kind in ("node", "pod", "serviceaccount")}) == 3


def test_every_token_has_an_id_of_its_own_and_uids_stay() -> None:
    (_, one), (_, two) = parts(make()), parts(make())
    assert one["jti"] != two["jti"]
    assert one["kubernetes.io"] == two["kubernetes.io"]


def test_another_installation_has_other_uids() -> None:
    request = TokenRequest(WEB, AUDIENCE, 60)
    here, there = (claims(request, Uids(seed), node="n", now=NOW, token_id="x") for seed in ("here", "there"))
    assert here["kubernetes.io"] != there["kubernetes.io"]


def test_the_key_is_named_as_kubernetes_names_it() -> None:
    spki = rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert base64.urlsafe_b64decode(KEY.kid + "=") == hashlib.sha256(spki).digest()
    assert "=" not in KEY.kid


def test_the_key_set_is_one_that_others_read() -> None:
    document = json.loads(KEY.jwks())
    assert [set(key) for key in document["keys"]] == [{"use", "kty", "kid", "alg", "n", "e"}]
    unchecked: Any = {
        "verify_exp": False,
        "verify_nbf": False,
        "verify_iat": False,
        "verify_aud": False,
    }  # Any: a library's options
    said = jwt.decode(make(), jwt.PyJWKSet.from_dict(document).keys[0].key, ["RS256"], options=unchecked)
    assert said["sub"] == WEB.subject


def test_our_verifier_accepts_it_and_knows_who_it_is() -> None:
    caller = verifier().verify(make().encode(), NOW + 5)
    assert caller.service_account == WEB
    assert caller.cluster == CLUSTER
    assert caller.pod is not None
    assert caller.node is not None
    assert caller.node.name == "node-1"
    assert caller.expires_at == NOW + 3600
    assert caller.token_id is not None


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (make(audience="https://kubernetes.default.svc"), TokenReason.WRONG_AUDIENCE),
        (make(lifetime=-3600), TokenReason.EXPIRED),
        (make(lifetime=-31), TokenReason.EXPIRED),
    ],
    ids=["audience", "expired long ago", "expired just beyond the leeway"],
)
def test_the_wrong_ones_are_wrong_in_that_way_only(token: str, reason: TokenReason) -> None:
    with pytest.raises(TokenRefusedError) as caught:
        verifier().verify(token.encode(), NOW)
    assert caught.value.reason is reason


def test_a_negative_lifetime_expired_that_many_seconds_ago() -> None:
    _, payload = parts(make(lifetime=-90))
    assert payload["exp"] == NOW - 90
    assert payload["iat"] == payload["nbf"] < payload["exp"]


def test_another_installations_token_is_refused() -> None:
    other = IssuerKey.of(rsa_key(1))
    forged = IssuerKey(other.private, KEY.kid)
    token = mint(forged, TokenRequest(WEB, AUDIENCE, 600), node="n", now=NOW)
    with pytest.raises(TokenRefusedError) as caught:
        verifier().verify(token.encode(), NOW)
    assert caught.value.reason is TokenReason.BAD_SIGNATURE


def test_no_repr_shows_the_key() -> None:
    assert "private" not in repr(KEY)
    assert isinstance(KEY.private, rsa.RSAPrivateKey)
