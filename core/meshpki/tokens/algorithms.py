"""The signature algorithms we accept, as PyJWT implements them: asymmetric ones only, by name and key type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jwt.algorithms import get_default_algorithms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jwt.algorithms import Algorithm

RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
EC_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
"""An EC algorithm goes with one curve (RFC 7518, section 3.4)."""
SUPPORTED: Final[Mapping[str, Algorithm]] = {
    name: algorithm for name, algorithm in get_default_algorithms().items() if name in {*RSA_ALGORITHMS, *EC_CURVES}
}
"""The list of JWT-SVID section 2.3 and of Kubernetes' external signer: nothing symmetric, no `none`."""
