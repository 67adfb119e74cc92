"""The only code near the signing key: what was prepared and linted goes in once, a signed certificate comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.ca import der, pem
from meshpki.value import value

if TYPE_CHECKING:
    from meshpki.ca.lifetime import LifetimeLimit
    from meshpki.ca.prepare import Prepared
    from meshpki.hooks import Signer


@value
class Issued:
    """A signed certificate, and what an audit record says of it. Times are epoch seconds."""

    leaf_pem: str
    cert_chain: tuple[str, ...]
    """The answer in Istio's shape: the leaf, one certificate per middle element, the root last; each ends its line."""
    serial: int
    not_before: int
    not_after: int
    limited_by: LifetimeLimit
    spiffe_id: str
    """Empty for the CA's own serving certificate."""
    attested_at: int | None
    """When a token last proved the identity, where the certificate says so."""
    issuer_key_id: str
    """The issuing certificate's key identifier in lower-case hexadecimal."""


def issue(prepared: Prepared) -> Issued:
    """Sign what `prepare` made. Raises IntegrityError on a second call for one value, UnavailableError of the signer.

    The signature is not verified here, which would cost three times the signing: the signer was proven against its
    certificate when it was loaded, and OpenSSL itself checks an RSA signature for faults.
    """
    tbs = prepared.spend()
    issuer, certified = prepared.issuer, prepared.leaf
    signature = issuer.signer.sign(tbs)
    leaf = pem.encode(der.element(der.SEQUENCE, tbs + issuer.algorithm + der.bit_string(signature)))
    return Issued(
        leaf_pem=leaf,
        cert_chain=(leaf, *issuer.chain_elements),
        serial=certified.serial,
        not_before=certified.lifetime.not_before,
        not_after=certified.lifetime.not_after,
        limited_by=certified.lifetime.limited_by,
        spiffe_id=certified.spiffe_id,
        attested_at=certified.attested_at,
        issuer_key_id=issuer.key_id,
    )


def sign_probe(signer: Signer, probe: bytes) -> bytes:
    """Have a signer sign `probe`, so that the caller can check it against a certificate. Raises what `sign` raises."""
    return signer.sign(probe)
