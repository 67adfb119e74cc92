"""The SPIFFE Workload API's X.509 profile as pure logic: what a call is answered, and what it is refused with.

The rules are those of the standards SPIFFE_Workload_API and SPIFFE_Workload_Endpoint. The JWT and the WIT profile
are off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from meshpki.agent.workload.pem_blocks import CERTIFICATE, PRIVATE_KEY, to_der
from meshpki.identity import SpiffeId
from meshpki.wire.workload_pb2 import X509SVID, X509BundlesResponse, X509SVIDResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.agent.rotation.snapshot import Snapshot

HEADER: Final = "workload.spiffe.io"
HEADER_VALUE: Final = "true"


class Status(StrEnum):
    """gRPC statuses by their names (SPIFFE_Workload_Endpoint, appendix A)."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    """The header is missing; the client is not to come back with the same call."""
    UNAVAILABLE = "UNAVAILABLE"
    """Nothing to give yet; the client may come back."""
    PERMISSION_DENIED = "PERMISSION_DENIED"
    """There is no identity for this workload; the client may come back, for one may be granted later."""
    UNIMPLEMENTED = "UNIMPLEMENTED"
    """The profile is off; the client is not to come back."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call ends that gets nothing. The sentence names no identity."""

    status: Status
    sentence: str


NO_HEADER: Final = Refusal(Status.INVALID_ARGUMENT, f"the metadata {HEADER}: {HEADER_VALUE} is missing")
NOTHING_YET: Final = Refusal(Status.UNAVAILABLE, "there is no certificate yet; try again")
EXPIRED: Final = Refusal(Status.UNAVAILABLE, "the certificate has expired, and there is no new one yet; try again")
DENIED: Final = Refusal(Status.PERMISSION_DENIED, "no identity is issued to this workload")
PROFILE_OFF: Final = Refusal(Status.UNIMPLEMENTED, "of the Workload API this agent serves the X.509 profile only")


class Part(StrEnum):
    """Which of the two streams of the X.509 profile."""

    SVIDS = "svids"
    BUNDLES = "bundles"


@dataclass(frozen=True, slots=True)
class Documents:
    """A snapshot as the responses of both streams, serialised. Each is the full set (Workload API, section 4.3)."""

    svids: bytes = field(repr=False)
    """A serialised `X509SVIDResponse`. It holds a private key."""
    bundles: bytes
    """A serialised `X509BundlesResponse`."""

    def of(self, part: Part) -> bytes:
        """Give the response of one stream."""
        return self.svids if part is Part.SVIDS else self.bundles


def documents_of(snapshot: Snapshot) -> Documents:
    """Convert to DER and serialise. Raises IntegrityError when the snapshot's PEM is none.

    One SVID, so that it needs no hint; no federated bundle, for there is none; no CRL, for short lives stand in
    for revocation.
    """
    bundle = to_der(snapshot.bundle_pem, CERTIFICATE)
    svid = X509SVID(
        spiffe_id=str(snapshot.spiffe_id),
        x509_svid=to_der(snapshot.chain_pem, CERTIFICATE),
        x509_svid_key=to_der(snapshot.key_pem, PRIVATE_KEY),
        bundle=bundle,
    )
    own_domain = str(SpiffeId(snapshot.spiffe_id.trust_domain))
    return Documents(
        X509SVIDResponse(svids=[svid]).SerializeToString(deterministic=True),
        X509BundlesResponse(bundles={own_domain: bundle}).SerializeToString(deterministic=True),
    )


def check_header(values: Sequence[str | bytes]) -> Refusal | None:
    """Every call carries the header once, with just that value (Workload Endpoint, section 3): a guard against SSRF.

    `values` are all that came under the header's name.
    """
    return None if list(values) == [HEADER_VALUE] else NO_HEADER


def check_standing(part: Part, snapshot: Snapshot | None, *, denied: bool, now: float) -> Refusal | None:
    """Say why a stream that begins now gets nothing; None when there is something to give.

    `denied`: the CA refused this workload the last time it was asked. What is still valid is served nevertheless.
    Roots are good without a certificate of one's own.
    """
    if snapshot is not None and (part is Part.BUNDLES or now < snapshot.not_after):
        return None
    if denied:
        return DENIED
    return NOTHING_YET if snapshot is None else EXPIRED
