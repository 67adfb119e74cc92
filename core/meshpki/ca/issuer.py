"""The issuing authority as the hot path needs it: a chain examined once, its answers and templates made ready."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from meshpki.ca import der, pem
from meshpki.ca.chain import check_chain
from meshpki.ca.csr import CsrKey
from meshpki.ca.issue import sign_probe
from meshpki.ca.keys import KeyKind, digest_for, key_bits, kind_of_spki, spki_of
from meshpki.ca.lifetime import Lifetime, LifetimeLimit
from meshpki.ca.lint import Linter
from meshpki.ca.template import Leaf, Purpose, Template, key_identifier, make_template
from meshpki.errors import IntegrityError, InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshpki.ca.keys import PublicKey
    from meshpki.hooks import Signer

ECDSA_SHA256: Final = der.element(der.SEQUENCE, der.object_identifier("1.2.840.10045.4.3.2"))
ECDSA_SHA384: Final = der.element(der.SEQUENCE, der.object_identifier("1.2.840.10045.4.3.3"))
RSA_SHA256: Final = der.element(der.SEQUENCE, der.object_identifier("1.2.840.113549.1.1.11") + b"\x05\x00")
_ALGORITHMS: Final = {KeyKind.EC_P256: ECDSA_SHA256, KeyKind.EC_P384: ECDSA_SHA384}


@dataclass(frozen=True, slots=True, eq=False)
class Issuer:
    """A signer and what follows from its chain. Immutable: a renewed chain makes a new Issuer."""

    signer: Signer = field(repr=False)
    certificates: tuple[x509.Certificate, ...] = field(repr=False)
    """The issuing certificate first, the root last; the same one when the root itself issues."""
    key_id: str
    """The issuing certificate's subject key identifier in lower-case hexadecimal."""
    key_kind: KeyKind
    not_before: int
    not_after: int
    """The time in which the whole chain is valid, in epoch seconds: no leaf may reach beyond it."""
    algorithm: bytes = field(repr=False)
    """DER AlgorithmIdentifier of the signatures."""
    chain_elements: tuple[str, ...] = field(repr=False)
    """PEM, in the order of the answer after the leaf: one certificate per middle element, the root last.

    ztunnel reads only the first block of a middle element and needs all ends of lines (istio#55060).
    """
    templates: Mapping[tuple[Purpose, KeyKind], Template] = field(repr=False)
    linter: Linter = field(repr=False)

    @classmethod
    def from_signer(cls, signer: Signer) -> Issuer:
        """Examine the chain, prove that the signer's key belongs to it, and make templates ready.

        Raises InvalidValueError for a chain that no validator would follow, IntegrityError when the key is another's,
        UnavailableError when the signer cannot be reached.
        """
        certificates = tuple(_load(certificate) for certificate in signer.chain)
        check_chain(certificates)
        key, kind = key_of(certificates[0])
        algorithm = _ALGORITHMS.get(kind, RSA_SHA256)
        name = der.children(certificates[0].tbs_certificate_bytes)[5]
        key_id = subject_key_identifier(certificates[0])
        templates = {
            (purpose, leaf): make_template(
                algorithm=algorithm, issuer_name=name, authority_key_id=key_id, purpose=purpose, kind=leaf
            )
            for purpose in Purpose
            for leaf in KeyKind
        }
        _prove(signer, key, kind, templates[Purpose.WORKLOAD, kind])
        return cls(
            signer=signer,
            certificates=certificates,
            key_id=key_id.hex(),
            key_kind=kind,
            not_before=max(int(each.not_valid_before_utc.timestamp()) for each in certificates),
            not_after=min(int(each.not_valid_after_utc.timestamp()) for each in certificates),
            algorithm=algorithm,
            chain_elements=tuple(pem.encode(each.public_bytes(Encoding.DER)) for each in certificates),
            templates=templates,
            linter=Linter(certificates[0].subject, key_id, algorithm),
        )

    @property
    def roots_pem(self) -> bytes:
        """The last element of every answer: what a peer has to trust."""
        return self.chain_elements[-1].encode()


def subject_key_identifier(certificate: x509.Certificate) -> bytes:
    """Read a CA's key identifier as it stands in the certificate (RFC 5280 4.2.1.1); else make the usual one."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        key, kind = key_of(certificate)
        return key_identifier(key_bits(spki_of(key), kind))


def _load(data: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise InvalidValueError("a chain element that is no certificate", wanted="X.509 in DER (RFC 5280)") from error


def key_of(certificate: x509.Certificate) -> tuple[PublicKey, KeyKind]:
    """The key of a CA certificate and its kind. Raises InvalidValueError for one that we do not sign with."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        kind = kind_of_spki(spki_of(key))
        if kind is not None:
            return key, kind
    raise InvalidValueError(
        "an issuing certificate whose key is of a kind that we do not sign with",
        wanted=f"one of {', '.join(KeyKind)}",
        todo="make a new authority with `meshpki ca init`, or have the intermediate issued for such a key",
    )


def _prove(signer: Signer, key: PublicKey, kind: KeyKind, template: Template) -> None:
    """Have the signer sign a leaf that can never be used, and verify it with the issuing certificate's key.

    The probe is what a signer expects, a TBSCertificate; it ended with the year 1970's first second, it names nobody,
    and its key is the authority's own.
    """
    epoch = Lifetime(0, 0, LifetimeLimit.REQUESTED)
    leaf = Leaf(Purpose.WORKLOAD, CsrKey(spki_of(key), kind), 1, epoch, spiffe_id="spiffe://probe.invalid/signer")
    probe = template.fill(leaf.holes())
    signature = sign_probe(signer, probe)
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, probe, ec.ECDSA(digest_for(key)))
            case rsa.RSAPublicKey():
                key.verify(signature, probe, padding.PKCS1v15(), digest_for(key))
    except InvalidSignature as error:
        raise IntegrityError(
            "a signing key that does not belong to the issuing certificate",
            wanted="the private half of the key in that certificate",
            todo="put the key and the certificate of one `meshpki ca init` together again",
        ) from error
