"""From bytes to a Caller: parse, choose the cluster and its key, check the signature, then the claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from meshpki.errors import UsageError
from meshpki.tokens.claims import check_legacy, read_issuer
from meshpki.tokens.parse import parse
from meshpki.tokens.policy import check_claims
from meshpki.tokens.reasons import TokenReason, TokenRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.tokens.caller import Caller
    from meshpki.tokens.keys import VerificationKey
    from meshpki.tokens.parse import ParsedToken
    from meshpki.tokens.policy import ClusterPolicy


class KeySource(Protocol):
    """Where the keys of one cluster come from."""

    def keys(self, kid: str | None, now: float) -> Sequence[VerificationKey]:
        """The keys that may have signed a token with that kid (None: it names none); none at all if it is unknown.

        `now` is epoch seconds. Raises UnavailableError when that cannot be told at present.
        """


@dataclass(frozen=True, slots=True)
class TrustedCluster:
    """A cluster whose tokens we believe: on which terms, and by whose keys."""

    policy: ClusterPolicy
    keys: KeySource


class TokenVerifier:
    """Verifies tokens of the configured clusters. Safe for many threads, if the key sources are."""

    def __init__(self, clusters: Sequence[TrustedCluster]) -> None:
        """Raise UsageError for no cluster, or for two with the same name or the same issuer."""
        self._by_issuer = {cluster.policy.issuer: cluster for cluster in clusters}
        names = {cluster.policy.cluster for cluster in clusters}
        if not clusters or len(names) != len(clusters):
            raise UsageError("no cluster, or two of one name", wanted="one cluster or more, each with its own name")
        if len(self._by_issuer) != len(clusters):
            raise UsageError(
                "two clusters have the same issuer: their tokens could not be told apart",
                wanted="an issuer of its own for every cluster",
                todo="give one cluster another --service-account-issuer; same issuers are not supported yet",
            )

    def verify(self, token: bytes, now: float) -> Caller:
        """Return whom the token speaks for. `now` is epoch seconds.

        The issuer in the token only chooses among configured clusters; what is believed of it, that cluster's key
        has signed. Raises TokenRefusedError with one reason, or UnavailableError when keys cannot be had.
        """
        parsed = parse(token)
        cluster = self._cluster(parsed)
        check_signature(parsed, cluster.keys.keys(parsed.header.kid, now), cluster.policy.cluster)
        return check_claims(parsed, cluster.policy, now)

    def _cluster(self, parsed: ParsedToken) -> TrustedCluster:
        issuer = read_issuer(parsed.claims)
        cluster = self._by_issuer.get(issuer)
        if cluster is None:
            check_legacy(parsed.claims)
            raise TokenRefusedError(
                TokenReason.UNKNOWN_ISSUER,
                "the token's issuer is none of the configured clusters",
                wanted="a token of a configured cluster, its iss letter for letter",
                todo="compare `meshpki token inspect` with the clusters in the CA's configuration",
            )
        return cluster


def check_signature(parsed: ParsedToken, candidates: Sequence[VerificationKey], cluster: str = "") -> None:
    """Demand a signature by the one candidate key that fits the header's algorithm.

    A token without kid (Kubernetes 1.13 writes an empty one) is believed only when exactly one key is left: keys
    are never tried one after the other, so a token cannot choose between them.
    Raises TokenRefusedError: UNKNOWN_KEY, ALGORITHM_NOT_ALLOWED, BAD_SIGNATURE.
    """
    algorithm = parsed.header.algorithm
    fitting = [key for key in candidates if algorithm in key.algorithms]
    if len(fitting) != 1:
        raise _no_key(candidates, fitting, algorithm, cluster)
    if not fitting[0].verifies(parsed):
        raise TokenRefusedError(
            TokenReason.BAD_SIGNATURE,
            "the token's signature is not by the key that it names",
            wanted="a signature by the cluster's own key",
            todo="check that the JWKS is of the cluster that issued the token",
            cluster=cluster,
        )


def _no_key(
    candidates: Sequence[VerificationKey], fitting: Sequence[VerificationKey], algorithm: str, cluster: str
) -> TokenRefusedError:
    if not candidates:
        return TokenRefusedError(
            TokenReason.UNKNOWN_KEY,
            "the cluster's JWKS has no usable key for the token's kid",
            wanted="a key with that kid, use sig, strong enough",
            todo="check that the JWKS is current and of the cluster that issued the token",
            cluster=cluster,
        )
    if not fitting:
        return TokenRefusedError(
            TokenReason.ALGORITHM_NOT_ALLOWED,
            f"the token says alg {algorithm}, its key is for another algorithm",
            wanted=" or ".join(sorted({name for key in candidates for name in key.algorithms})),
            cluster=cluster,
        )
    return TokenRefusedError(
        TokenReason.UNKNOWN_KEY,
        f"the token names no kid, and the cluster's JWKS has {len(fitting)} keys for {algorithm}",
        wanted="a kid, or a JWKS with exactly one key of that kind",
        cluster=cluster,
    )
