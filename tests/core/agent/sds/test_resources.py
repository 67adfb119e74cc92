"""Secrets as bytes: the same as those that Envoy's own definitions give (PyPI xds-protos)."""

from __future__ import annotations

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_spiffe_validator_config_pb2

from meshpki.agent.sds.node import Validation
from meshpki.agent.sds.resources import resources_of, roots_secret, with_files
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

    expected = [certificate("default"), certificate(str(SPIFFE_ID))]
    expected += [roots(name) for name in ("ROOTCA", "spiffe://mesh.test", "ALL")]
    found = resources_of(held).by_name
    assert {name: resource.body for name, resource in found.items()} == {
        secret.name: secret.SerializeToString(deterministic=True) for secret in expected
    }


@pytest.mark.parametrize(
    ("validation", "names"),
    [
        (Validation.PLAIN, set()),
        (Validation.BY_NAME, {"ALL", "spiffe://mesh.test"}),
        (Validation.SPIFFE, {"ALL", "spiffe://mesh.test", "ROOTCA"}),
    ],
)
def test_which_names_are_envoys_spiffe_validator_byte_for_byte(validation: Validation, names: set[str]) -> None:
    config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
    config.trust_domains.add(name="mesh.test").trust_bundle.inline_bytes = b"roots"
    plain = resources_of(snapshot()).by_name
    found = resources_of(snapshot(), validation).by_name
    for name in names:
        secret = secret_pb2.Secret(name=name)
        validator = secret.validation_context.custom_validator_config
        validator.name = "envoy.tls.cert_validator.spiffe"
        validator.typed_config.Pack(config)
        assert found[name].body == secret.SerializeToString(deterministic=True)
        assert found[name].version != plain[name].version, "a client that changes its mind must not hear: you have it"
    assert {name for name in found if found[name] != plain[name]} == names


def test_files_stand_beside_the_rest_and_change_the_version_with_their_own() -> None:
    base = resources_of(snapshot())
    one, other = roots_secret("file-root:/x", "1", b"x"), roots_secret("file-root:/x", "2", b"y")
    assert with_files(base, {}) is base
    added, changed = with_files(base, {one.name: one}), with_files(base, {one.name: other})
    assert added.by_name == {**base.by_name, one.name: one}
    assert added.everything == base.everything
    assert len({base.version, added.version, changed.version}) == 3
    hijack = roots_secret("default", "1", b"x")
    assert with_files(base, {"default": hijack}).by_name["default"] == base.by_name["default"]


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
