"""A token that says what a good one says, signed by a key that no cluster has."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from meshpki.tokens.parse import parse

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurve


def resigned(token: str) -> str:
    """The same header and claims under another signature of the same kind. Raises TokenRefusedError for no token."""
    import jwt.algorithms
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    parsed = parse(token.encode("ascii", "replace"))
    algorithm = jwt.algorithms.get_default_algorithms()[parsed.header.algorithm]
    curves: dict[str, EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    curve = curves.get(parsed.header.algorithm)
    key = ec.generate_private_key(curve) if curve else rsa.generate_private_key(65537, 2048)
    signature = algorithm.sign(parsed.signing_input, key)
    return f"{parsed.signing_input.decode()}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
