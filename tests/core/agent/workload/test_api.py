"""The Workload API as pure logic, read with the definitions that the public client brings along."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key
from hypothesis import given
from hypothesis import strategies as st
from spiffe._proto import workload_pb2 as original

from meshpki.agent.rotation.key_request import KeyType
from meshpki.agent.rotation.snapshot import Snapshot
from meshpki.agent.workload import api as workload_api
from meshpki.agent.workload.api import (
    DENIED,
    EXPIRED,
    NO_HEADER,
    NOTHING_YET,
    Part,
    Refusal,
    check_header,
    check_standing,
    documents_of,
)
from support.fake_ca import SPIFFE_ID, FakeAuthority
from support.real_snapshots import real_snapshot
from support.snapshots import snapshot

AUTHORITY = FakeAuthority()


def certificates(der: bytes) -> list[x509.Certificate]:
    """Split certificates that follow one another, by the length in each one's head."""
    found = []
    while der:
        assert der[:2] == b"\x30\x82"
        length = 4 + int.from_bytes(der[2:4], "big")
        found.append(x509.load_der_x509_certificate(der[:length]))
        der = der[length:]
    return found


@pytest.mark.parametrize(
    ("kind", "kept"), [(KeyType.EC_P256, ec.EllipticCurvePrivateKey), (KeyType.RSA_2048, rsa.RSAPrivateKey)]
)
def test_one_svid_with_all_that_belongs_to_it(kind: KeyType, kept: type) -> None:
    held = real_snapshot(AUTHORITY, kind=kind)
    (svid,) = original.X509SVIDResponse.FromString(documents_of(held).svids).svids
    assert svid.spiffe_id == SPIFFE_ID
    leaf, issuer = certificates(svid.x509_svid)
    assert (leaf.serial_number, issuer) == (held.serial, AUTHORITY.issuer.certificate), "leaf first, no root"
    key = load_der_private_key(svid.x509_svid_key, None)
    assert isinstance(key, kept)
    assert key.public_key() == leaf.public_key()
    assert certificates(svid.bundle) == [AUTHORITY.root.certificate]
    assert svid.hint == "", "a hint tells several SVIDs apart"


def test_nothing_beside_it() -> None:
    """What is not there must not be there: an empty field is a redaction (Workload API, section 4.4)."""
    documents = documents_of(real_snapshot(AUTHORITY))
    svids = original.X509SVIDResponse.FromString(documents.svids)
    bundles = original.X509BundlesResponse.FromString(documents.bundles)
    assert [field.name for field, _ in svids.ListFields()] == ["svids"]
    assert [field.name for field, _ in bundles.ListFields()] == ["bundles"]
    assert b"-----BEGIN" not in documents.svids + documents.bundles


def test_both_roots_of_a_rotation_under_the_own_trust_domain() -> None:
    old, new = AUTHORITY, FakeAuthority()
    held = real_snapshot(new)
    both = snapshot_with_bundle(held, old.roots_pem + new.roots_pem)
    bundles = original.X509BundlesResponse.FromString(documents_of(both).bundles).bundles
    assert list(bundles) == ["spiffe://mesh.test"]
    assert certificates(bundles["spiffe://mesh.test"]) == [old.root.certificate, new.root.certificate]


def snapshot_with_bundle(held: Snapshot, bundle: bytes) -> Snapshot:
    return replace(held, bundle_pem=bundle)


def test_the_same_snapshot_gives_the_same_bytes() -> None:
    held = real_snapshot(AUTHORITY)
    assert documents_of(held) == documents_of(held)


def test_each_stream_gets_its_own_document() -> None:
    documents = documents_of(real_snapshot(AUTHORITY))
    assert documents.of(Part.SVIDS) == documents.svids != documents.bundles == documents.of(Part.BUNDLES)


def test_no_key_in_a_repr() -> None:
    documents = documents_of(real_snapshot(AUTHORITY))
    assert repr(documents.svids)[2:40] not in repr(documents)


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        (["true"], None),
        ([], NO_HEADER),
        ([""], NO_HEADER),
        (["True"], NO_HEADER),
        (["true "], NO_HEADER),
        (["1"], NO_HEADER),
        (["false"], NO_HEADER),
        (["true", "true"], NO_HEADER),
        (["true", "false"], NO_HEADER),
        ([b"true"], NO_HEADER),
    ],
)
def test_the_header_once_and_to_the_letter(values: list[str | bytes], refusal: Refusal | None) -> None:
    assert check_header(values) == refusal


@given(st.lists(st.text() | st.binary(), max_size=3))
def test_no_other_header_will_do(values: list[str | bytes]) -> None:
    assert (check_header(values) is None) == (values == ["true"])


HELD = snapshot(ends=1000)


@pytest.mark.parametrize(
    ("part", "held", "denied", "now", "refusal"),
    [
        (Part.SVIDS, None, False, 0, NOTHING_YET),
        (Part.SVIDS, None, True, 0, DENIED),
        (Part.SVIDS, HELD, False, 999.9, None),
        (Part.SVIDS, HELD, True, 999.9, None),
        (Part.SVIDS, HELD, False, 1000, EXPIRED),
        (Part.SVIDS, HELD, True, 1000, DENIED),
        (Part.BUNDLES, None, False, 0, NOTHING_YET),
        (Part.BUNDLES, None, True, 0, DENIED),
        (Part.BUNDLES, HELD, False, 1000, None),
        (Part.BUNDLES, HELD, True, 1000, None),
    ],
)
def test_who_gets_nothing_and_why(
    part: Part, held: Snapshot | None, denied: bool, now: float, refusal: Refusal | None
) -> None:
    assert check_standing(part, held, denied=denied, now=now) == refusal


def test_statuses_are_grpcs() -> None:
    import grpc

    assert all(grpc.StatusCode[status.value].name == status for status in workload_api.Status)
