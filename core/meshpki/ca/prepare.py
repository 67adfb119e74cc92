"""From a verified identity and a key to a linted certificate that may be signed exactly once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509

from meshpki.ca.lifetime import Lifetime, decide
from meshpki.ca.lint import Expected, lint
from meshpki.ca.template import Purpose, dns_name, ip_name, uri_name
from meshpki.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.ca.csr import CsrKey
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.profile import Profile
    from meshpki.ca.template import Template
    from meshpki.identity import SpiffeId


@dataclass(frozen=True, slots=True)
class Prepared:
    """A certificate about to be signed. Made in this module only; `issue` takes what is in it, once."""

    issuer: Issuer = field(repr=False)
    spiffe_id: str
    serial: int
    lifetime: Lifetime
    _once: list[bytes] = field(repr=False)

    def take(self) -> bytes:
        """Hand out the TBSCertificate. Raises IntegrityError the second time, from whichever thread."""
        try:
            return self._once.pop()
        except IndexError:
            raise IntegrityError(
                f"certificate {self.serial:x} was to be signed twice", wanted="one signature for one preparation"
            ) from None


def prepare(
    issuer: Issuer,
    profile: Profile,
    spiffe_id: SpiffeId,
    key: CsrKey,
    *,
    requested_seconds: int,
    token_expires_at: int | None,
    now: float,
    serial: int,
) -> Prepared:
    """Build and lint a workload's X509-SVID. The bytes depend on nothing but these arguments.

    `requested_seconds` as in the request (0 or less: the default), `now` and `token_expires_at` in epoch seconds,
    `serial` from `serials.draw`. Raises UnavailableError and LifetimeRefusedError as `lifetime.decide` does, and
    IntegrityError for an identity that is not this trust domain's or for bytes that the lint refuses.
    """
    if spiffe_id.trust_domain != profile.trust_domain or not spiffe_id.segments:
        raise IntegrityError(f"{spiffe_id} was to be certified", wanted=f"a workload of {profile.trust_domain}")
    lifetime = decide(
        profile, issuer, requested_seconds=requested_seconds, token_expires_at=token_expires_at, now=int(now)
    )
    uri = str(spiffe_id)
    constant = issuer.constants[Purpose.WORKLOAD, key.kind]
    leaf = Expected(serial, lifetime, key.spki, [x509.UniformResourceIdentifier(uri)], constant)
    return _build(issuer, issuer.templates[Purpose.WORKLOAD, key.kind], leaf, uri_name(uri), uri)


def prepare_serving(
    issuer: Issuer,
    names: Sequence[x509.DNSName | x509.IPAddress],
    key: CsrKey,
    *,
    lifetime: Lifetime,
    serial: int,
) -> Prepared:
    """Build and lint the CA server's own leaf: DNS and IP names, serverAuth alone. Raises IntegrityError."""
    encoded = b"".join(
        dns_name(name.value) if isinstance(name, x509.DNSName) else ip_name(name.value.packed) for name in names
    )
    leaf = Expected(serial, lifetime, key.spki, names, issuer.constants[Purpose.SERVING, key.kind])
    return _build(issuer, issuer.templates[Purpose.SERVING, key.kind], leaf, encoded, "")


def _build(issuer: Issuer, template: Template, leaf: Expected, names: bytes, spiffe_id: str) -> Prepared:
    tbs = template.fill(
        serial=leaf.serial,
        not_before=leaf.lifetime.not_before,
        not_after=leaf.lifetime.not_after,
        spki=leaf.spki,
        names=names,
    )
    lint(tbs, issuer.algorithm, leaf)
    return Prepared(issuer, spiffe_id, leaf.serial, leaf.lifetime, [tbs])
