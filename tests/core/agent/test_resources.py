"""Secrets as bytes: the same as those that Envoy's own definitions give (PyPI xds-protos)."""

from __future__ import annotations

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2

from meshpki.agent.resources import resources_of
from support.snapshots import SPIFFE_ID, snapshot


def test_every_secret_has_the_bytes_of_envoys_own_message() -> None:
    held = snapshot(7, bundle=b"old root\nnew root\n")

    def certificate(name: str) -> secret_pb2.Secret:
        return secret_pb2.Secret(
            name=name,
            tls_certificate=common_pb2.TlsCertificate(
                certificate_chain=base_pb2.DataSource(inline_bytes=b"chain 7"),
                private_key=base_pb2.DataSource(inline_bytes=b"key 7"),
            ),
        )

    def roots(name: str) -> secret_pb2.Secret:
        return secret_pb2.Secret(
            name=name,
            validation_context=common_pb2.CertificateValidationContext(
                trusted_ca=base_pb2.DataSource(inline_bytes=b"old root\nnew root\n")
            ),
        )

    expected = [certificate("default"), roots("ROOTCA"), certificate(str(SPIFFE_ID)), roots("spiffe://mesh.test")]
    found = resources_of(held).by_name
    assert {name: resource.body for name, resource in found.items()} == {
        secret.name: secret.SerializeToString(deterministic=True) for secret in expected
    }


def test_versions_change_with_what_they_stand_for() -> None:
    first, renewed = resources_of(snapshot(1)), resources_of(snapshot(2))
    rooted = resources_of(snapshot(1, bundle=b"other"))
    assert first.by_name["default"].version != renewed.by_name["default"].version
    assert first.by_name["ROOTCA"].version == renewed.by_name["ROOTCA"].version
    assert first.by_name["default"].version == rooted.by_name["default"].version
    assert first.by_name["ROOTCA"].version != rooted.by_name["ROOTCA"].version
    assert len({first.version, renewed.version, rooted.version}) == 3


def test_a_wildcard_gets_each_thing_once() -> None:
    assert resources_of(snapshot()).everything == ("default", "ROOTCA")


def test_no_key_in_a_repr() -> None:
    assert "key 1" not in repr(resources_of(snapshot(1)))
