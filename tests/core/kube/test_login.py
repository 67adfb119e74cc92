"""What is advised after a 401: by the kind of credential, with its end if that has passed, never with itself."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.kube.access import Access
from meshpki.kube.authenticator import KeyPair, Presented
from meshpki.kube.credentials import ClientCertificate, ExecPlugin, NamedFile, TokenFile, TokenText
from meshpki.kube.login import advice, token_end
from support.jwks_server import certificate
from support.kubeconfigs import CA_PEM, SECRET

if TYPE_CHECKING:
    from meshpki.kube.credentials import Credential

NOW = 1_795_453_200.0
"""2026-11-23T17:00:00Z."""


def jwt(**claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.{SECRET}"


def said(credential: Credential, presented: Presented, now: float = NOW) -> str:
    text = advice(Access("https://host", CA_PEM.encode(), credential, where="context 'prod'"), presented, now)
    assert SECRET not in text
    return text


@pytest.mark.parametrize(
    ("credential", "todo"),
    [
        (TokenText(SECRET), "fetch context 'prod' again, or log in again: the token in it is not good"),
        (TokenFile(NamedFile(Path("/t"))), "put a fresh token into /t; it is read again without a restart"),
        (ExecPlugin(Path("/opt/aws"), "v1"), "log in again with the tool behind /opt/aws"),
    ],
)
def test_each_kind_has_its_next_step(credential: Credential, todo: str) -> None:
    assert said(credential, Presented(SECRET)) == todo
    assert said(credential, Presented(jwt(exp=NOW + 1))) == todo


def test_a_token_that_has_expired_is_told_with_its_time() -> None:
    late = Presented(jwt(exp=NOW - 60))
    assert said(TokenText(SECRET), late).endswith("is not good (it expired at 2026-11-23T16:59:00Z)")
    assert "(it expired at 2026-11-23T16:59:00Z); it is read again" in said(TokenFile(NamedFile(Path("/t"))), late)


def test_a_certificate_that_has_expired_is_told_with_its_time(tmp_path: Path) -> None:
    _, chain = certificate(tmp_path, "old")
    pair = KeyPair(chain.read_bytes(), SECRET.encode())
    credential = ClientCertificate(pair.certificate, pair.key)
    assert "expired" not in said(credential, Presented(pair=pair), now=0)
    assert "its client certificate is not good (it expired at " in said(credential, Presented(pair=pair), now=4e9)
    garbage = KeyPair(b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", b"")
    assert "expired" not in said(credential, Presented(pair=garbage), now=4e9)


@pytest.mark.parametrize("exp", [None, "1", True, [], {}, -1, 1e300, 10**400])
def test_an_end_that_is_none_is_not_told(exp: object) -> None:
    assert said(TokenText(SECRET), Presented(jwt(exp=exp)), now=4e9).endswith("is not good")


@settings(deadline=None)
@given(st.text(max_size=60) | st.lists(st.text(max_size=20), min_size=2, max_size=4).map(".".join))
def test_any_token_has_an_end_or_none(token: str) -> None:
    end = token_end(token)
    assert end is None or 0 <= end < 1e11
