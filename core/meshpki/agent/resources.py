"""A snapshot as Envoy secrets: under which names each part is served, as which bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from meshpki.identity import SpiffeId
from meshpki.wire.sds_pb2 import CertificateValidationContext, DataSource, Secret, TlsCertificate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshpki.agent.snapshot import Snapshot

DEFAULT: Final = "default"
"""Istio's and SPIRE's name for the workload's certificate and key."""
ROOTS: Final = "ROOTCA"
"""Istio's and SPIRE's name for the roots to check peers against."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One secret as it goes into a response. `version` changes with the content."""

    name: str
    version: str
    body: bytes = field(repr=False)
    """A serialised `Secret`. It may hold a private key."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that one workload may ask for at one moment."""

    version: str
    by_name: Mapping[str, Resource]
    everything: tuple[str, ...]
    """Names that stand for all of it, each thing once: the answer to a wildcard."""


def resources_of(snapshot: Snapshot) -> Resources:
    """Serve the certificate as `default` and by its SPIFFE ID, the roots as `ROOTCA` and by their trust domain's ID."""
    own_domain = str(SpiffeId(snapshot.spiffe_id.trust_domain))
    found = (
        _certificate(DEFAULT, snapshot),
        _roots(ROOTS, snapshot),
        _certificate(str(snapshot.spiffe_id), snapshot),
        _roots(own_domain, snapshot),
    )
    return Resources(snapshot.version, {resource.name: resource for resource in found}, (DEFAULT, ROOTS))


def _certificate(name: str, snapshot: Snapshot) -> Resource:
    """Chain and key in one secret: Envoy takes both or neither."""
    secret = Secret(
        name=name,
        tls_certificate=TlsCertificate(
            certificate_chain=DataSource(inline_bytes=snapshot.chain_pem),
            private_key=DataSource(inline_bytes=snapshot.key_pem),
        ),
    )
    return Resource(name, snapshot.identity_version, secret.SerializeToString(deterministic=True))


def _roots(name: str, snapshot: Snapshot) -> Resource:
    secret = Secret(
        name=name,
        validation_context=CertificateValidationContext(trusted_ca=DataSource(inline_bytes=snapshot.bundle_pem)),
    )
    return Resource(name, snapshot.bundle_version, secret.SerializeToString(deterministic=True))
