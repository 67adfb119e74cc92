"""Our messages and their originals: the same bytes in both directions (PyPI `xds-protos` holds Envoy's originals)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_spiffe_validator_config_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.type.v3 import semantic_version_pb2
from google.protobuf import any_pb2, message_factory, struct_pb2
from google.rpc import status_pb2  # type: ignore[import-untyped]  # googleapis-common-protos ships no types

from meshpki.wire import methods, sds_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

ORIGINALS: dict[str, type[Message]] = {
    "SemanticVersion": semantic_version_pb2.SemanticVersion,
    "BuildVersion": base_pb2.BuildVersion,
    "Node": base_pb2.Node,
    "Status": status_pb2.Status,
    "DiscoveryRequest": discovery_pb2.DiscoveryRequest,
    "DiscoveryResponse": discovery_pb2.DiscoveryResponse,
    "DeltaDiscoveryRequest": discovery_pb2.DeltaDiscoveryRequest,
    "DeltaDiscoveryResponse": discovery_pb2.DeltaDiscoveryResponse,
    "Resource": discovery_pb2.Resource,
    "SPIFFECertValidatorConfig": tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig,
    "DataSource": base_pb2.DataSource,
    "TlsCertificate": common_pb2.TlsCertificate,
    "TypedExtensionConfig": extension_pb2.TypedExtensionConfig,
    "CertificateValidationContext": common_pb2.CertificateValidationContext,
    "Secret": secret_pb2.Secret,
}
OURS = dict(sds_pb2.DESCRIPTOR.message_types_by_name)


def test_every_message_of_ours_has_an_original() -> None:
    assert set(OURS) == set(ORIGINALS)


@pytest.mark.parametrize("name", sorted(ORIGINALS))
def test_fields_have_the_originals_numbers_and_types(name: str) -> None:
    original = ORIGINALS[name].DESCRIPTOR
    for field in OURS[name].fields:
        twin = original.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (twin.number, twin.type, twin.is_repeated), field.name


def filled(kind: type[Message]) -> Message:
    """A message with every field set, and every field of each message in it; of a oneof, the last."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        nested = field.message_type
        if nested is not None and nested.GetOptions().map_entry:
            getattr(message, field.name)["a name"] = "a version"
            continue
        value: object
        match field.type:
            case _ if nested is not None and nested.file.package == "google.protobuf":
                value = metadata() if nested.name == "Struct" else any_pb2.Any(type_url="t", value=b"v")
            case _ if nested is not None:
                value = filled(message_factory.GetMessageClass(nested))  # type: ignore[arg-type]  # the stubs, of upb
            case field.TYPE_BYTES:
                value = b"bytes of " + field.name.encode()
            case field.TYPE_STRING:
                value = f"text of {field.name}"
            case _:
                value = 1000 + field.number
        message.MergeFrom(kind(**{field.name: [value, value] if field.is_repeated else value}))
    return message


@pytest.mark.parametrize("name", sorted(ORIGINALS))
def test_a_full_message_reads_the_same_in_both(name: str) -> None:
    ours = filled(message_factory.GetMessageClass(OURS[name]))
    data = ours.SerializeToString(deterministic=True)
    assert data
    theirs = ORIGINALS[name].FromString(data)
    assert theirs.SerializeToString(deterministic=True) == data
    theirs.DiscardUnknownFields()
    assert theirs.SerializeToString(deterministic=True) == data, "the original does not know one of our fields"


def metadata() -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update({"CLUSTER_ID": "east", "list": [1, True, None]})
    return struct


def request(module: type[Message], node: type[Message], status: type[Message]) -> Message:
    return module(
        version_info="2026-11-23T00:00:00Z/7",
        node=node(id="sidecar~10.0.0.1~web.default~x", cluster="web", metadata=metadata(), user_agent_name="envoy"),
        resource_names=["default", "ROOTCA"],
        type_url=methods.SECRET_TYPE_URL,
        response_nonce="n-1",
        error_detail=status(code=13, message="no such key"),
    )


def test_a_request_reads_the_same_in_both() -> None:
    ours = request(sds_pb2.DiscoveryRequest, sds_pb2.Node, sds_pb2.Status)
    theirs = request(discovery_pb2.DiscoveryRequest, base_pb2.Node, status_pb2.Status)
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)
    assert sds_pb2.DiscoveryRequest.FromString(theirs.SerializeToString()) == ours


def test_fields_that_we_do_not_know_are_no_reason_to_fail() -> None:
    """A real Envoy sends its build, its extensions, its locality; all of that is skipped, the rest is read."""
    node = base_pb2.Node(id="n", locality=base_pb2.Locality(region="r"), client_features=["envoy.lb"])
    node.extensions.add(name="envoy.filters.http.router", category="envoy.filters.http")
    theirs = discovery_pb2.DiscoveryRequest(node=node, resource_names=["default"])
    ours = sds_pb2.DiscoveryRequest.FromString(theirs.SerializeToString())
    assert (ours.node.id, list(ours.resource_names)) == ("n", ["default"])


def test_a_certificate_secret_has_the_originals_bytes() -> None:
    ours = sds_pb2.Secret(
        name="default",
        tls_certificate=sds_pb2.TlsCertificate(
            certificate_chain=sds_pb2.DataSource(inline_bytes=b"chain"),
            private_key=sds_pb2.DataSource(inline_bytes=b"key"),
        ),
    )
    theirs = secret_pb2.Secret(
        name="default",
        tls_certificate=common_pb2.TlsCertificate(
            certificate_chain=base_pb2.DataSource(inline_bytes=b"chain"),
            private_key=base_pb2.DataSource(inline_bytes=b"key"),
        ),
    )
    assert ours.SerializeToString() == theirs.SerializeToString()


def test_a_bundle_in_a_response_has_the_originals_bytes() -> None:
    ours_secret = sds_pb2.Secret(
        name="ROOTCA",
        validation_context=sds_pb2.CertificateValidationContext(trusted_ca=sds_pb2.DataSource(inline_bytes=b"roots")),
    )
    their_secret = secret_pb2.Secret(
        name="ROOTCA",
        validation_context=common_pb2.CertificateValidationContext(
            trusted_ca=base_pb2.DataSource(inline_bytes=b"roots")
        ),
    )
    ours = sds_pb2.DiscoveryResponse(version_info="v", type_url=methods.SECRET_TYPE_URL, nonce="n")
    ours.resources.add(type_url=methods.SECRET_TYPE_URL, value=ours_secret.SerializeToString())
    theirs = discovery_pb2.DiscoveryResponse(version_info="v", type_url=methods.SECRET_TYPE_URL, nonce="n")
    theirs.resources.add().Pack(their_secret)
    assert ours.SerializeToString() == theirs.SerializeToString()


def test_paths_and_type_url_are_the_originals() -> None:
    from envoy.service.secret.v3 import sds_pb2 as original

    service = original.DESCRIPTOR.services_by_name["SecretDiscoveryService"]
    assert {f"/{service.full_name}/{method.name}" for method in service.methods} == {
        methods.STREAM_SECRETS,
        methods.DELTA_SECRETS,
        methods.FETCH_SECRETS,
    }
    assert f"type.googleapis.com/{secret_pb2.Secret.DESCRIPTOR.full_name}" == methods.SECRET_TYPE_URL
