"""From a verified identity and a key to a linted certificate that may be signed exactly once."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from meshpki.ca.lifetime import decide
from meshpki.ca.template import Leaf, Purpose
from meshpki.errors import IntegrityError
from meshpki.value import value

if TYPE_CHECKING:
    from meshpki.ca.csr import CsrKey
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.profile import Profile
    from meshpki.identity import SpiffeId


@value
class Prepared:
    """A certificate about to be signed. Made in this module only; `issue` takes what is in it, once."""

    issuer: Issuer = field(repr=False)
    leaf: Leaf
    _once: list[bytes] = field(repr=False)

    def spend(self) -> bytes:
        """Hand out the TBSCertificate. Raises IntegrityError the second time, from whichever thread."""
        try:
            return self._once.pop()
        except IndexError:
            raise IntegrityError(
                f"certificate {self.leaf.serial:x} was to be signed twice", wanted="one signature for one preparation"
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
    attested_at: int | None = None,
) -> Prepared:
    """Build and lint a workload's X509-SVID. The bytes depend on nothing but these arguments.

    `requested_seconds` as in the request (0 or less: the default), `now` and `token_expires_at` in epoch seconds,
    `serial` from `serials.draw`. `attested_at`: when a token proved the identity (epoch seconds), given exactly where
    the profile allows renewal by certificate. Raises UnavailableError and LifetimeRefusedError as `lifetime.decide`
    does, and IntegrityError for an identity that is not this trust domain's, for an attestation that is missing or
    out of place, or for bytes that the lint refuses.
    """
    if spiffe_id.trust_domain != profile.trust_domain or not spiffe_id.segments:
        raise IntegrityError(f"{spiffe_id} was to be certified", wanted=f"a workload of {profile.trust_domain}")
    if (attested_at is None) is not (profile.max_without_token_seconds is None):
        raise IntegrityError(
            f"{spiffe_id} was to be certified {'without' if attested_at is None else 'with'} a time of attestation",
            wanted="one exactly where the profile allows renewal by certificate",
        )
    lifetime = decide(
        profile,
        issuer,
        requested_seconds=requested_seconds,
        token_expires_at=token_expires_at,
        now=int(now),
        attested_at=attested_at,
    )
    leaf = Leaf(Purpose.WORKLOAD, key, serial, lifetime, spiffe_id=str(spiffe_id), attested_at=attested_at)
    return prepare_leaf(issuer, leaf)


def prepare_leaf(issuer: Issuer, leaf: Leaf) -> Prepared:
    """Build and lint any leaf: a workload's through `prepare`, the CA server's own directly. Raises IntegrityError."""
    holes = leaf.holes()
    tbs = issuer.templates[leaf.purpose, leaf.key.kind].fill(holes)
    issuer.linter.lint(tbs, holes, leaf)
    return Prepared(issuer, leaf, [tbs])
