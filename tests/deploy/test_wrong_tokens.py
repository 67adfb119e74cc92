"""The story's wrong tokens are refused by the real verifier, each for the reason that the story tells."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from meshpki.tokens.bearer import extract
from meshpki.tokens.jwks import FileKeySource
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenRefusedError
from meshpki.tokens.trusted_cluster import TrustedCluster
from meshpki.tokens.verify import TokenVerifier
from meshpki_demo.wrong_tokens import Forge, WrongToken
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from pathlib import Path

NOW = int(time.time())
REASONS = (
    "token_missing",
    "token_wrong_audience",
    "token_expired",
    "token_bad_signature",
    "token_legacy",
    "token_algorithm_not_allowed",
)


@pytest.fixture
def maker() -> TokenMaker:
    return TokenMaker()


@pytest.fixture
def verifier(maker: TokenMaker, tmp_path: Path) -> TokenVerifier:
    (tmp_path / "jwks.json").write_bytes(maker.jwks())
    keys = FileKeySource(tmp_path / "jwks.json")
    return TokenVerifier([TrustedCluster(ClusterPolicy(cluster="local", issuer=maker.issuer), keys)])


@pytest.fixture
def forge(maker: TokenMaker) -> Forge:
    key = maker.key
    assert isinstance(key, rsa.RSAPrivateKey)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Forge(maker.sign(maker.claims(now=NOW)).decode(), pem, NOW)


def test_the_right_token_is_accepted(verifier: TokenVerifier, forge: Forge) -> None:
    assert verifier.verify(forge.right.encode(), NOW).cluster == "local"


@pytest.mark.parametrize("number", range(len(REASONS)), ids=REASONS)
def test_a_wrong_token_is_refused_for_its_reason(verifier: TokenVerifier, forge: Forge, number: int) -> None:
    wrong = list(forge.all())[number]
    headers = [] if wrong.token is None else [f"Bearer {wrong.token}"]
    with pytest.raises(TokenRefusedError) as caught:
        verifier.verify(extract(headers), NOW)
    assert (caught.value.reason, wrong.reason) == (REASONS[number], REASONS[number])


def test_the_story_has_no_other(forge: Forge) -> None:
    assert tuple(wrong.reason for wrong in forge.all()) == REASONS


def test_no_repr_shows_a_token_or_the_key(forge: Forge) -> None:
    shown = repr(forge) + repr(list(forge.all()))
    assert "eyJ" not in shown
    assert "PRIVATE" not in shown
    assert "eyJ" not in repr(WrongToken("story", "reason", "eyJsecret"))


def test_it_opens_what_a_local_installation_has(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(forge.right)
    (tmp_path / "key.pem").write_bytes(forge.issuer_key)
    assert Forge.open(tmp_path / "token", tmp_path / "key.pem").right == forge.right
