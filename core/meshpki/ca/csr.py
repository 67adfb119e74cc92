"""Certificate signing requests: one key, proven to be held by the sender, is all that is ever taken from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa
from cryptography.x509.oid import SignatureAlgorithmOID

from meshpki.ca import der, pem
from meshpki.ca.keys import KeyKind, kind_of_spki
from meshpki.ca.reasons import CsrReason, CsrRefusedError
from meshpki.value import value

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

MAX_CSR_BYTES: Final = 16 * 1024
"""A request for RSA-4096 has 1.7 KiB. The cap comes before any parsing: 60,000 SANs cost a parser 40 ms."""
LABEL: Final = "CERTIFICATE REQUEST"
WANTED_KEY: Final = f"one of {', '.join(KeyKind)}; RSA with exponent 65537, EC with a named curve, uncompressed"
WANTED_SIGNATURE: Final = "ECDSA or RSASSA-PKCS1-v1_5, with SHA-256, SHA-384 or SHA-512"

_SCHEMES: Final[dict[x509.ObjectIdentifier, ec.ECDSA | hashes.HashAlgorithm]] = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: ec.ECDSA(hashes.SHA256()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: ec.ECDSA(hashes.SHA384()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: ec.ECDSA(hashes.SHA512()),
    SignatureAlgorithmOID.RSA_WITH_SHA256: hashes.SHA256(),
    SignatureAlgorithmOID.RSA_WITH_SHA384: hashes.SHA384(),
    SignatureAlgorithmOID.RSA_WITH_SHA512: hashes.SHA512(),
}
_PKCS1: Final = padding.PKCS1v15()


@value
class CsrKey:
    """The public key of a request whose signature was verified: canonical DER SubjectPublicKeyInfo and its kind."""

    spki: bytes
    kind: KeyKind


def read_csr(text: str | bytes) -> CsrKey:
    """Take the key out of a PEM request. Raises CsrRefusedError, and nothing else whatever the bytes.

    Subject, attributes and extensions are read only to refuse what cannot be read in one way; their content,
    CA:TRUE or somebody else's SPIFFE ID, is never used (PKCS #10 is RFC 2986).
    """
    try:
        return _read(text)
    except CsrRefusedError:
        raise
    except BaseException as error:
        # A panic in the parser's Rust derives from BaseException. It is the sender's doing, and must not end a thread.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise _refused(
                CsrReason.MALFORMED, f"a request that the parser fails on ({type(error).__name__})"
            ) from None
        raise


def _refused(reason: CsrReason, seen: str, wanted: str = "", todo: str = "") -> CsrRefusedError:
    return CsrRefusedError(reason, seen, wanted=wanted, todo=todo)


def _read(text: str | bytes) -> CsrKey:
    if len(text) > MAX_CSR_BYTES:
        raise _refused(
            CsrReason.TOO_LARGE,
            f"a request of {len(text)} bytes",
            f"at most {MAX_CSR_BYTES} bytes",
            "send a request with the key alone: no subject, no names",
        )
    request = _parse(text)
    signed = request.tbs_certrequest_bytes
    try:
        spki = der.children(signed)[2]
    except ValueError as error:
        raise _refused(CsrReason.MALFORMED, f"a request whose outer form is off: {error}", "DER (X.690)") from error
    kind = kind_of_spki(spki)
    if kind is None:
        _refuse_key(request, spki)
    _check_signature(request, signed, kind)
    _check_extensions(request)
    return CsrKey(spki, kind)


def _parse(text: str | bytes) -> x509.CertificateSigningRequest:
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    try:
        content = pem.decode_one(data, LABEL)
    except ValueError as error:
        raise _refused(CsrReason.NOT_PEM, f"{error}", f"one PEM block of {LABEL}, nothing beside it") from error
    try:
        return x509.load_der_x509_csr(content)
    except (ValueError, x509.InvalidVersion) as error:
        raise _refused(CsrReason.MALFORMED, "a block that holds no request", "PKCS #10 in DER (RFC 2986)") from error


def _refuse_key(request: x509.CertificateSigningRequest, spki: bytes) -> NoReturn:
    """Say what the key is instead: its bytes are not of the form of any kind that we allow."""
    try:
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _refused(
            CsrReason.KEY_NOT_ALLOWED, f"a public key ({len(spki)} bytes) of an unknown kind", WANTED_KEY
        ) from error
    raise _refused(CsrReason.KEY_NOT_ALLOWED, f"a key of another kind: {_describe(key)}", WANTED_KEY)


def _describe(key: CertificatePublicKeyTypes) -> str:
    match key:
        case rsa.RSAPublicKey():
            return f"RSA of {key.key_size} bits, exponent {key.public_numbers().e % 2**64}, or RSA-PSS"
        case ec.EllipticCurvePublicKey():
            return f"EC on {key.curve.name}, or not as an uncompressed point"
        case dsa.DSAPublicKey():
            return f"DSA of {key.key_size} bits"
        case _:
            return type(key).__name__.removesuffix("PublicKey")


def _check_signature(request: x509.CertificateSigningRequest, signed: bytes, kind: KeyKind) -> None:
    """Verify with the key itself, under an algorithm of the list: `is_signature_valid` also takes SHA-1 and PSS."""
    oid = request.signature_algorithm_oid
    scheme = _SCHEMES.get(oid)
    if scheme is None or kind.is_rsa is isinstance(scheme, ec.ECDSA):
        raise _refused(
            CsrReason.SIGNATURE_ALGORITHM_NOT_ALLOWED, f"a signature algorithm {oid.dotted_string}", WANTED_SIGNATURE
        )
    try:
        # The bytes of the key have already told its kind, and with it the class: no need to ask again.
        key = request.public_key()
        if isinstance(scheme, ec.ECDSA):
            cast("ec.EllipticCurvePublicKey", key).verify(request.signature, signed, scheme)
        else:
            cast("rsa.RSAPublicKey", key).verify(request.signature, signed, _PKCS1, scheme)
    except InvalidSignature as error:
        raise _refused(
            CsrReason.BAD_SIGNATURE,
            "a signature that the request's own key did not make",
            "a request signed with the private half of its key",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _refused(CsrReason.KEY_INVALID, "a public key that is none of its kind", WANTED_KEY) from error


def _check_extensions(request: x509.CertificateSigningRequest) -> None:
    try:
        _ = request.extensions  # The parser looks into them only here.
    except x509.DuplicateExtension as error:
        raise _refused(
            CsrReason.DUPLICATE_EXTENSION, f"extension {error.oid.dotted_string} twice", "each at most once"
        ) from error
    except Exception as error:
        raise _refused(CsrReason.EXTENSION_MALFORMED, "an extension that cannot be read", "DER (RFC 5280)") from error
