"""What a CA is asked from outside: for one certificate that it should give, and for those that it must refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.errors import MeshpkiError, RefusedError
from meshpki.provision import svid
from meshpki.provision.checks import Check, Verdict, failed, settled, skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from meshpki.hooks import CaEndpoint
    from meshpki.identity import SpiffeId
    from meshpki.tokens.reasons import TokenReason

    Sign: TypeAlias = Callable[[CaEndpoint, str, str, int], Sequence[str]]
    """(endpoint, token, CSR in PEM, seconds) -> chain in PEM, leaf first: `agent.ca_client.sign_once`."""

LIFETIME_SECONDS: Final = 600
"""The shortest that a Kubernetes API server gives (TokenRequest)."""
OTHER_AUDIENCE: Final = "meshpki-verify.another-audience"
GARBAGE: Final = "this-is-no-token"
UNAUTHENTICATED: Final = "UNAUTHENTICATED"


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A CSR in PEM for a throw-away key, and that key's public half in DER."""

    csr_pem: str
    spki: bytes


def new_request() -> KeyRequest:
    """Make a throw-away key and a CSR for it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return KeyRequest(csr.public_bytes(Encoding.PEM).decode(), spki)


def default_sign() -> Sign:
    """The client that agents have."""
    from meshpki.agent.renewal.ca_client import sign_once

    return sign_once


@dataclass(frozen=True, slots=True)
class CaQuestions:
    """Asks one CA, with one throw-away key."""

    endpoint: CaEndpoint
    sign: Sign
    key: KeyRequest

    def certificate(self, token: str, wanted: SpiffeId, now: float) -> str:
        """Get a certificate and examine it; a sentence about it. Raises MeshpkiError."""
        return self.examine(self.ask(token), wanted, now)

    def examine(self, chain: Sequence[str], wanted: SpiffeId, now: float) -> str:
        """Examine what the CA gave; a sentence about it. Raises RefusedError."""
        return svid.examine(chain, spiffe_id=wanted, spki=self.key.spki, roots_pem=self.endpoint.roots_pem, now=now)

    def ask(self, token: str) -> Sequence[str]:
        """Ask for a certificate. Raises CaRefusedError, CaUnavailableError."""
        return self.sign(self.endpoint, token, self.key.csr_pem, LIFETIME_SECONDS)

    def refusal(self, name: str, make: Callable[[], str], *reasons: TokenReason) -> Check:
        """Pass only if the CA answers UNAUTHENTICATED for one of these reasons: an outage is no refusal.

        `make` makes the token; it raises RefusedError where such a token cannot be had, and the check is skipped.
        """
        from meshpki.agent.renewal.ca_client import CaRefusedError

        try:
            token = make()
        except RefusedError as error:
            return skipped(name, f"this platform does not make such a token: {error.seen}")
        except MeshpkiError as error:
            return failed(name, error)
        try:
            self.ask(token)
        except CaRefusedError as error:
            well = error.status == UNAUTHENTICATED and error.reason in {reason.value for reason in reasons}
            wanted = "" if well else f", wanted {UNAUTHENTICATED}: {' or '.join(reasons)}"
            return settled(name, well, f"{error.status}: {error.reason}{wanted}", (error.seen,))
        except MeshpkiError as error:
            return failed(name, error)
        return Check(name, Verdict.FAILED, "the CA issued a certificate for it")
