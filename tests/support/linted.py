"""What pkilint says of a certificate."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding
from pkilint import loader
from pkilint.pkix import certificate, extension, name
from pkilint.validation import ValidationFindingSeverity

if TYPE_CHECKING:
    from cryptography import x509

# pkilint 0.13 reads every spiffe:// URI as invalid, which RFC 3986 does not: the one finding that is waived, by its
# code and where it stands. Anything else it says is a failure.
WAIVED = ("pkix.invalid_uri_syntax", re.compile(r"subjectAltName\.\d+\.uniformResourceIdentifier$"))


@lru_cache(maxsize=1)
def pkilint() -> certificate.validation.ValidatorContainer:
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


def findings(judged: x509.Certificate, *, waive: bool = True) -> list[str]:
    document = loader.load_der_certificate(judged.public_bytes(Encoding.DER), "certificate")
    return [
        f"{found.finding.severity.name} {found.finding.code} at {result.node.path}"
        for result in pkilint().validate(document.root)
        for found in result.finding_descriptions
        if found.finding.severity <= ValidationFindingSeverity.NOTICE
        and not (waive and found.finding.code == WAIVED[0] and WAIVED[1].search(result.node.path))
    ]
