"""Is what a CA answered an X509-SVID of this workload, for this key, under these roots, now? Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from meshpki.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate

    from meshpki.identity import SpiffeId

MAX_CHAIN: Final = 10
MAX_PEM: Final = 256 * 1024


def examine(chain_pem: Sequence[str], *, spiffe_id: SpiffeId, spki: bytes, roots_pem: bytes, now: float) -> str:
    """Return a sentence about the certificate, for a report.

    `chain_pem` is leaf first, `spki` the DER public key of the CSR, `now` epoch seconds. Raises RefusedError naming the
    first rule that is broken (X509-SVID sections 2, 4 and 5; RFC 5280 section 6.1).
    """
    from cryptography import x509

    try:
        if sum(map(len, chain_pem)) > MAX_PEM:
            raise RefusedError(f"a chain of more than {MAX_PEM} bytes")
        chain = x509.load_pem_x509_certificates("\n".join(chain_pem).encode())
        roots = x509.load_pem_x509_certificates(roots_pem)
        leaf = chain[0]
        _check_leaf(leaf, spiffe_id, spki)
        _check_path(chain, roots, datetime.fromtimestamp(now, UTC))
    except (ValueError, x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise RefusedError(f"the CA's answer is no certificate chain: {error}") from error
    return f"{spiffe_id} until {leaf.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC, serial {leaf.serial_number:x}"


def _check_leaf(leaf: Certificate, spiffe_id: SpiffeId, spki: bytes) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        raise RefusedError("the certificate is for another key than the request's")
    names = list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    found = [name.value if isinstance(name, x509.UniformResourceIdentifier) else repr(name) for name in names]
    if found != [str(spiffe_id)]:
        raise RefusedError(f"the certificate names {', '.join(found)[:300]}", wanted=f"{spiffe_id} alone")
    if leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise RefusedError("the certificate is a CA's", wanted="a leaf")
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    if not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise RefusedError(
            "the certificate's key usage is not a leaf's", wanted="digitalSignature, no signing of others"
        )


def _check_path(chain: list[Certificate], roots: list[Certificate], now: datetime) -> None:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    if len(chain) > MAX_CHAIN:
        raise RefusedError(f"a chain of {len(chain)} certificates", wanted=f"at most {MAX_CHAIN}")
    for certificate in chain:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise RefusedError(
                f"{certificate.subject.rfc4514_string() or 'the leaf'} is valid from {certificate.not_valid_before_utc}"
                f" to {certificate.not_valid_after_utc}",
                wanted=f"valid at {now}",
            )
    if chain[-1] not in roots:
        raise RefusedError("the chain ends in a root that is not among those given", wanted="a root that is")
    for lower, upper in zip(chain, [*chain[1:], chain[-1]], strict=True):
        if not upper.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise RefusedError("a certificate that is no CA's has signed another one", wanted="CA:TRUE")
        try:
            lower.verify_directly_issued_by(upper)
        except (InvalidSignature, TypeError, ValueError) as error:
            raise RefusedError("a signature in the chain does not verify") from error
