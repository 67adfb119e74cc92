"""From bytes to a Caller: parse, choose the cluster and its key, check the signature, then the claims."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from meshpki.errors import UsageError, WouldWaitError
from meshpki.tokens.claims import check_legacy, read_issuer
from meshpki.tokens.namesakes import signer
from meshpki.tokens.parse import parse
from meshpki.tokens.policy import check_claims
from meshpki.tokens.reasons import TokenReason, TokenRefusedError, TokenUnjudgedError, UnjudgedReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.tokens.caller import Caller
    from meshpki.tokens.keys import VerificationKey
    from meshpki.tokens.parse import ParsedToken
    from meshpki.tokens.trusted_cluster import TrustedCluster


class TokenVerifier:
    """Verifies tokens of the configured clusters. Safe for many threads, if key sources and reviewers are."""

    def __init__(self, clusters: Sequence[TrustedCluster]) -> None:
        """Raise UsageError for no cluster, two of one name, or two of one issuer that keys cannot tell apart."""
        by_issuer: dict[str, tuple[TrustedCluster, ...]] = {}
        for cluster in clusters:
            by_issuer[cluster.policy.issuer] = (*by_issuer.get(cluster.policy.issuer, ()), cluster)
        names = {cluster.policy.cluster for cluster in clusters}
        if not clusters or len(names) != len(clusters):
            raise UsageError("no cluster, or two of one name", wanted="one cluster or more, each with its own name")
        for sharing in by_issuer.values():
            _check_apart(sharing)
        self._by_issuer = by_issuer
        self.takes_hints = len(by_issuer) != len(clusters)
        """Whether `cluster_hint` can say anything: clusters share an issuer."""

    def verify(self, token: bytes, now: float, cluster_hint: str = "", *, at_once: bool = False) -> Caller:
        """Return whom the token speaks for. `now` is epoch seconds.

        The issuer in the token only chooses among configured clusters; what is believed of it, that cluster's key
        has signed or its API server confirms. `cluster_hint` is the caller's word for its cluster and changes no
        verdict. An API server is asked last, about tokens that are right in all that can be seen here.
        Raises TokenRefusedError with one reason, UnavailableError when nothing can be decided, and WouldWaitError when
        that would take waiting for another machine, and it has to be `at_once`.
        """
        parsed = parse(token)
        clusters = self._clusters(parsed)
        if at_once and any(_asks_others(each, now) for each in clusters):
            raise WouldWaitError
        cluster = clusters[0]
        if len(clusters) > 1:
            check = partial(_check_signed, parsed, now=now, at_once=at_once)
            cluster = signer(parsed, clusters, check, now, cluster_hint)
        elif cluster.keys is not None:
            _check_signed(parsed, cluster, now=now, at_once=at_once)
        caller = check_claims(parsed, cluster.policy, now)
        if cluster.reviewer is not None:
            cluster.reviewer.review(token, caller, now)
        return caller

    def _clusters(self, parsed: ParsedToken) -> tuple[TrustedCluster, ...]:
        issuer = read_issuer(parsed.claims)
        clusters = self._by_issuer.get(issuer)
        if clusters is None:
            check_legacy(parsed.claims)
            raise TokenRefusedError(
                TokenReason.UNKNOWN_ISSUER,
                "the token's issuer is none of the configured clusters",
                wanted="a token of a configured cluster, its iss letter for letter",
                todo="compare `meshpki token inspect` with the clusters in the CA's configuration",
            )
        return clusters


def _asks_others(cluster: TrustedCluster, now: float) -> bool:
    """Whether the cluster's word is asked for from another machine, whatever the token."""
    return cluster.reviewer is not None or cluster.keys is None or not cluster.keys.at_once(None, now)


def _check_apart(sharing: Sequence[TrustedCluster]) -> None:
    if len(sharing) > 1 and any(cluster.keys is None for cluster in sharing):
        names = ", ".join(cluster.policy.cluster for cluster in sharing)
        raise UsageError(
            f"clusters {names} share an issuer, and not all of them have a JWKS: a token of one would have to be shown "
            "to the other's API server to find out whose it is",
            wanted="`jwks` for each of them, or an issuer of its own for every cluster",
            todo="add `jwks` and say `authentication: hybrid`, or give one another --service-account-issuer",
        )


def _check_signed(parsed: ParsedToken, cluster: TrustedCluster, *, now: float, at_once: bool) -> None:
    """Demand a signature by one of the cluster's keys.

    Raises as `check_signature`, UnavailableError, WouldWaitError.
    """
    assert cluster.keys is not None  # the callers saw to it
    kid = parsed.header.kid
    if at_once and not cluster.keys.at_once(kid, now):
        raise WouldWaitError
    candidates = cluster.keys.keys(kid, now)
    if not candidates and kid is not None:
        issued_at = parsed.claims.get("iat")
        # What a stranger claims: it makes no key known, and turns a refusal into a "not yet" for a moment at most.
        if isinstance(issued_at, int) and cluster.keys.may_be_behind(issued_at, now):
            raise TokenUnjudgedError(
                UnjudgedReason.KEY_NOT_SEEN_YET,
                f"the keys of cluster {cluster.policy.cluster} were read before the token was issued",
                todo="try again in some seconds",
                cluster=cluster.policy.cluster,
            )
    check_signature(parsed, candidates, cluster.policy.cluster)


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
