"""A caller gets its own identity, in our trust domain, and no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.ca.authorize import authorize
from meshpki.ca.profile import Profile
from meshpki.ca.reasons import IdentityReason, IdentityRefusedError
from meshpki.identity import ServiceAccountRef
from meshpki.tokens.caller import BoundObject, Caller
from support.authority import MESH

PROFILE = Profile(MESH)


def caller(account: str = "shop/web") -> Caller:
    return Caller(
        cluster="east",
        issuer="https://east.example",
        service_account=ServiceAccountRef.parse(account),
        service_account_uid="u-1",
        pod=BoundObject("web-1", "u-2"),
        node=None,
        token_id="t-1",
        issued_at=0,
        expires_at=3600,
    )


@pytest.mark.parametrize("requested", [None, "", "spiffe://mesh.local/ns/shop/sa/web"])
def test_its_own(requested: str | None) -> None:
    assert str(authorize(caller(), PROFILE, requested)) == "spiffe://mesh.local/ns/shop/sa/web"


@pytest.mark.parametrize(
    "requested",
    [
        "spiffe://mesh.local/ns/shop/sa/db",
        "spiffe://mesh.local/ns/other/sa/web",
        "spiffe://other.local/ns/shop/sa/web",
        "spiffe://mesh.local",
        "spiffe://mesh.local/ns/shop/sa/web/more",
    ],
)
def test_another_is_refused(requested: str) -> None:
    with pytest.raises(IdentityRefusedError) as caught:
        authorize(caller(), PROFILE, requested)
    assert caught.value.reason is IdentityReason.IMPERSONATION
    assert requested in str(caught.value)
    assert "spiffe://mesh.local/ns/shop/sa/web" in str(caught.value)


@pytest.mark.parametrize(
    "requested",
    [
        "web",
        "spiffe://mesh.local/ns/shop/sa/web/",
        "SPIFFE://mesh.local/ns/shop/sa/web",
        "spiffe://mesh.local/../x",
        " ",
    ],
)
def test_what_is_no_identity_is_refused(requested: str) -> None:
    with pytest.raises(IdentityRefusedError) as caught:
        authorize(caller(), PROFILE, requested)
    assert caught.value.reason is IdentityReason.MALFORMED


@given(st.text())
def test_nothing_requested_ever_gives_another(requested: str) -> None:
    try:
        granted = str(authorize(caller(), PROFILE, requested))
    except IdentityRefusedError:
        return
    assert granted == "spiffe://mesh.local/ns/shop/sa/web"
