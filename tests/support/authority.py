"""Throw-away authorities and certificate signing requests for the tests of every room."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from meshpki.ca.csr import CsrKey, read_csr
from meshpki.ca.hierarchy import ISSUER_SECONDS, ROOT_SECONDS, Hierarchy, build_hierarchy
from meshpki.ca.issue import Issued, issue
from meshpki.ca.issuer import Issuer
from meshpki.ca.keys import KeyKind, generate, private_pem
from meshpki.ca.prepare import prepare
from meshpki.ca.profile import Profile
from meshpki.ca.serials import draw
from meshpki.ca.signer import SoftwareSigner
from meshpki.identity import ServiceAccountRef, SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from meshpki.ca.keys import PrivateKey

NOW = 1_800_000_000
"""A fixed moment (2027-01-15) for tests that give the time themselves."""
MESH = TrustDomain("mesh.local")


@lru_cache(maxsize=32)
def _key(kind: KeyKind, number: int) -> PrivateKey:
    del number
    return generate(kind)


def key(kind: KeyKind = KeyKind.EC_P256, number: int = 0) -> PrivateKey:
    """A private key, made once per process: RSA keys are dear. `number` tells several of a kind apart."""
    return _key(kind, number)


def make_csr(
    private_key: PrivateKey | None = None,
    *,
    subject: x509.Name | None = None,
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None = None,
) -> str:
    """A PEM request with that key (P-256 by default), subject (empty by default) and extensions (value, critical)."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject or x509.Name([]))
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    request = builder.sign(private_key or key(), digest or hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def csr_key(kind: KeyKind = KeyKind.EC_P256, number: int = 0) -> CsrKey:
    """What `read_csr` makes of a request with `key(kind, number)`."""
    return read_csr(make_csr(key(kind, number)))


@dataclass(frozen=True, slots=True, eq=False)
class TestAuthority:
    """A root, an issuing certificate under it, and everything made from them."""

    __test__ = False

    hierarchy: Hierarchy
    signer: SoftwareSigner
    issuer: Issuer
    profile: Profile

    @property
    def root_pem(self) -> bytes:
        """The root, as a client's trust file holds it."""
        return self.hierarchy.root.certificate.public_bytes(Encoding.PEM)

    def write(self, directory: Path) -> None:
        """Write the files that a CA server loads, under the names of `meshpki ca init`; the root's key stays out."""
        directory.mkdir(parents=True, exist_ok=True)
        issuing = self.hierarchy.issuer
        (directory / "root-cert.pem").write_bytes(self.root_pem)
        (directory / "issuer-cert.pem").write_bytes(issuing.certificate.public_bytes(Encoding.PEM))
        (directory / "issuer-key.pem").touch(mode=0o600)
        (directory / "issuer-key.pem").write_bytes(private_pem(issuing.key))

    def issue(
        self,
        account: str = "default/web",
        *,
        csr: str | None = None,
        now: float | None = None,
        ttl_seconds: int = 0,
    ) -> Issued:
        """Issue an X509-SVID as the server does; `now` is this moment by default."""
        spiffe_id = SpiffeId.for_service_account(self.profile.trust_domain, ServiceAccountRef.parse(account))
        return issue(
            prepare(
                self.issuer,
                self.profile,
                spiffe_id,
                read_csr(csr) if csr else csr_key(),
                requested_seconds=ttl_seconds,
                token_expires_at=None,
                now=time.time() if now is None else now,
                serial=draw(),
            )
        )


def make_authority(
    trust_domain: TrustDomain = MESH,
    *,
    key_type: KeyKind = KeyKind.EC_P256,
    now: float | None = None,
    profile: Profile | None = None,
    root_seconds: int = ROOT_SECONDS,
    issuer_seconds: int = ISSUER_SECONDS,
) -> TestAuthority:
    """A new authority, valid from `now` (this moment by default)."""
    hierarchy = build_hierarchy(
        trust_domain,
        now=time.time() if now is None else now,
        key_type=key_type,
        root_seconds=root_seconds,
        issuer_seconds=issuer_seconds,
    )
    signer = SoftwareSigner([hierarchy.issuer.certificate, hierarchy.root.certificate], hierarchy.issuer.key)
    return TestAuthority(hierarchy, signer, Issuer.from_signer(signer), profile or Profile(trust_domain))
