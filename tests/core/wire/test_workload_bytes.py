"""Our Workload API messages and those of the public client (PyPI `spiffe`): the same fields, the same bytes."""

from __future__ import annotations

import pytest
from spiffe._proto import workload_pb2 as original

from meshpki.wire import methods, workload_pb2

OURS = dict(workload_pb2.DESCRIPTOR.message_types_by_name)
THEIRS = dict(original.DESCRIPTOR.message_types_by_name)


@pytest.mark.parametrize("name", sorted(OURS))
def test_fields_have_the_originals_numbers_and_types(name: str) -> None:
    assert {(field.name, field.number, field.type, field.is_repeated) for field in OURS[name].fields} == {
        (field.name, field.number, field.type, field.is_repeated) for field in THEIRS[name].fields
    }


def test_a_response_has_the_originals_bytes() -> None:
    federated = {"spiffe://b": b"rb", "spiffe://c": b"rc"}
    mine = workload_pb2.X509SVID(spiffe_id="spiffe://a/b", x509_svid=b"c", x509_svid_key=b"k", bundle=b"r", hint="h")
    twin = original.X509SVID(spiffe_id="spiffe://a/b", x509_svid=b"c", x509_svid_key=b"k", bundle=b"r", hint="h")
    ours = workload_pb2.X509SVIDResponse(svids=[mine], crl=[b"l"], federated_bundles=federated)
    theirs = original.X509SVIDResponse(svids=[twin], crl=[b"l"], federated_bundles=federated)
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def test_a_response_with_bundles_has_the_originals_bytes() -> None:
    bundles = {"spiffe://b": b"rb", "spiffe://c": b"rc"}
    ours = workload_pb2.X509BundlesResponse(crl=[b"l"], bundles=bundles)
    theirs = original.X509BundlesResponse(crl=[b"l"], bundles=bundles)
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def test_paths_are_the_originals_and_those_of_the_profile_that_the_client_does_not_know_yet() -> None:
    service = original.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"]
    known = {f"/{service.full_name}/{method.name}" for method in service.methods}
    ours = {path for name, path in vars(methods).items() if isinstance(path, str) and path.startswith("/Spiffe")}
    assert ours == known | {"/SpiffeWorkloadAPI/FetchWITSVID", "/SpiffeWorkloadAPI/FetchWITBundles"}
