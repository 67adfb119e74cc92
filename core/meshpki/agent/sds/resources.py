"""A snapshot as Envoy secrets: under which names each part is served, as which bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from google.protobuf.any_pb2 import Any as AnyMessage

from meshpki.agent.sds.node import Validation
from meshpki.identity import SpiffeId
from meshpki.wire.sds_pb2 import (
    CertificateValidationContext,
    DataSource,
    Secret,
    SPIFFECertValidatorConfig,
    TlsCertificate,
    TypedExtensionConfig,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshpki.agent.rotation.snapshot import Snapshot

DEFAULT: Final = "default"
"""Istio's and SPIRE's name for the workload's certificate and key."""
ROOTS: Final = "ROOTCA"
"""Istio's and SPIRE's name for the roots to check peers against."""
ALL: Final = "ALL"
"""SPIRE's name for the bundles of every trust domain that this workload knows."""
SPIFFE_VALIDATOR: Final = "envoy.tls.cert_validator.spiffe"
SPIFFE_VALIDATOR_TYPE_URL: Final = (
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
)


@dataclass(frozen=True, slots=True)
class Resource:
    """One secret as it goes into a response. `version` changes with the content, so it stands for it in comparisons."""

    name: str
    version: str
    write: Callable[[], bytes] = field(repr=False, compare=False)
    """Serialises it: a secret goes out once in hours, and there are five names for each of a thousand workloads."""

    @property
    def body(self) -> bytes:
        """A serialised `Secret`. It may hold a private key."""
        return self.write()


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that one workload may ask for at one moment."""

    version: str
    by_name: Mapping[str, Resource]
    everything: tuple[str, ...]
    """Names that stand for all of it, each thing once: the answer to a wildcard."""


def resources_of(snapshot: Snapshot, validation: Validation = Validation.PLAIN) -> Resources:
    """Serve the certificate as `default` and by its SPIFFE ID; the roots as `ROOTCA`, as `ALL` and by their trust
    domain's ID, each in the form that `validation` says.
    """
    identity = (DEFAULT, str(snapshot.spiffe_id))
    by_scope = Validation.PLAIN if validation is Validation.PLAIN else Validation.SPIFFE
    roots = {
        ROOTS: Validation.SPIFFE if validation is Validation.SPIFFE else Validation.PLAIN,
        str(SpiffeId(snapshot.spiffe_id.trust_domain)): by_scope,
        ALL: by_scope,
    }
    found = (
        *(
            certificate_secret(name, snapshot.identity_version, snapshot.chain_pem, snapshot.key_pem)
            for name in identity
        ),
        *(_bundle(name, snapshot, form) for name, form in roots.items()),
    )
    return Resources(snapshot.version, {resource.name: resource for resource in found}, (DEFAULT, ROOTS))


def with_files(resources: Resources, files: Mapping[str, Resource]) -> Resources:
    """Add what was read from files, under names of its own. A wildcard does not ask for any of it."""
    if not files:
        return resources
    digest = hashlib.sha256("\n".join(f"{name} {files[name].version}" for name in sorted(files)).encode()).hexdigest()
    return Resources(f"{resources.version}.{digest[:16]}", {**files, **resources.by_name}, resources.everything)


def certificate_secret(name: str, version: str, chain_pem: bytes, key_pem: bytes) -> Resource:
    """Put chain and key in one secret: Envoy takes both or neither."""
    return Resource(name, version, partial(_certificate, name, chain_pem, key_pem))


def roots_secret(name: str, version: str, roots_pem: bytes) -> Resource:
    """Give roots as plain `trusted_ca`: whoever chains to one of them is good."""
    return Resource(name, version, partial(_roots, name, roots_pem))


def _bundle(name: str, snapshot: Snapshot, form: Validation) -> Resource:
    """The version differs with the form: a client that comes back with another node is not told "you have it"."""
    if form is Validation.PLAIN:
        return roots_secret(name, snapshot.bundle_version, snapshot.bundle_pem)
    domain = snapshot.spiffe_id.trust_domain.name
    return Resource(name, f"{snapshot.bundle_version}.spiffe", partial(_validator, name, domain, snapshot.bundle_pem))


def _certificate(name: str, chain_pem: bytes, key_pem: bytes) -> bytes:
    secret = Secret(
        name=name,
        tls_certificate=TlsCertificate(
            certificate_chain=DataSource(inline_bytes=chain_pem),
            private_key=DataSource(inline_bytes=key_pem),
        ),
    )
    return secret.SerializeToString(deterministic=True)


def _roots(name: str, roots_pem: bytes) -> bytes:
    context = CertificateValidationContext(trusted_ca=DataSource(inline_bytes=roots_pem))
    return Secret(name=name, validation_context=context).SerializeToString(deterministic=True)


def _validator(name: str, domain: str, roots_pem: bytes) -> bytes:
    config = SPIFFECertValidatorConfig(
        trust_domains=[
            SPIFFECertValidatorConfig.TrustDomain(name=domain, trust_bundle=DataSource(inline_bytes=roots_pem))
        ]
    )
    typed = AnyMessage(type_url=SPIFFE_VALIDATOR_TYPE_URL, value=config.SerializeToString(deterministic=True))
    context = CertificateValidationContext(
        custom_validator_config=TypedExtensionConfig(name=SPIFFE_VALIDATOR, typed_config=typed)
    )
    return Secret(name=name, validation_context=context).SerializeToString(deterministic=True)
