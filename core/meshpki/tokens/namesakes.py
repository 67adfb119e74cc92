"""Clusters that share an issuer's name: which of them signed a token is told by their keys, and by nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.errors import UnavailableError
from meshpki.tokens.reasons import TokenReason, TokenRefusedError, TokenUnjudgedError, UnjudgedReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.tokens.keys import VerificationKey
    from meshpki.tokens.parse import ParsedToken
    from meshpki.tokens.trusted_cluster import TrustedCluster

_NEAREST: Final = (TokenReason.BAD_SIGNATURE, TokenReason.ALGORITHM_NOT_ALLOWED, TokenReason.UNKNOWN_KEY)
"""Of several clusters' refusals the one that came furthest is told; the caller's hint decides between equals only."""


def signer(
    parsed: ParsedToken,
    clusters: Sequence[TrustedCluster],
    check: Callable[[TrustedCluster], None],
    now: float,
    hint: str = "",
) -> TrustedCluster:
    """Return the one cluster whose key signed the token; `check` asks one cluster's source, and may fetch.

    All keys of all these clusters must have been seen once: before that nobody knows that they differ. A key that two
    of them list is neither's. Where nobody knows the key all are asked, in no order that a caller could choose, so
    that `hint` decides nothing but which cluster a refusal names.
    Raises what `check` raises, UnavailableError, and TokenRefusedError with SEVERAL_CLUSTERS.
    """
    for cluster in clusters:
        if cluster.keys is not None and cluster.keys.known() is None:
            cluster.keys.keys(None, now)
    found = _signer(parsed, clusters)
    if found is None:
        _ask_all(clusters, check, hint)
        found = _signer(parsed, clusters)
    if found is None:
        raise TokenUnjudgedError(UnjudgedReason.KEYS, "the keys changed while they were looked at")
    cluster, key = found
    if any(_lists(other, key) for other in clusters if other is not cluster):
        raise _several(clusters)
    check(cluster)
    return cluster


def known_keys(cluster: TrustedCluster) -> Sequence[VerificationKey] | None:
    """The cluster's keys as they were last seen, however long ago; None if never."""
    return None if cluster.keys is None else cluster.keys.known()


def overlaps(clusters: Sequence[TrustedCluster]) -> tuple[tuple[str, str], ...]:
    """Pairs of names of clusters with one issuer that list one and the same key, as far as their keys were seen."""
    return tuple(
        (one.policy.cluster, other.policy.cluster)
        for number, one in enumerate(clusters)
        for other in clusters[number + 1 :]
        if one.policy.issuer == other.policy.issuer and any(_lists(other, key) for key in known_keys(one) or ())
    )


def _lists(cluster: TrustedCluster, key: VerificationKey) -> bool:
    return any(key.public_key == other.public_key for other in known_keys(cluster) or ())


def _signer(parsed: ParsedToken, clusters: Sequence[TrustedCluster]) -> tuple[TrustedCluster, VerificationKey] | None:
    """A cluster whose key fits; that no other lists the same key is for the caller to see."""
    kid = parsed.header.kid
    for cluster in clusters:
        for key in known_keys(cluster) or ():
            if (kid is None or key.kid == kid) and key.verifies(parsed):
                return cluster, key
    return None


def _ask_all(clusters: Sequence[TrustedCluster], check: Callable[[TrustedCluster], None], hint: str) -> None:
    """Ask every cluster for the key. Raises when none has it: that one could not be asked goes before any refusal."""
    refused: list[TokenRefusedError] = []
    unjudged: list[UnavailableError] = []
    try:
        for cluster in clusters:
            try:
                check(cluster)
            except UnavailableError as error:
                unjudged.append(error)
            except TokenRefusedError as error:
                refused.append(error)
        if len(refused) + len(unjudged) < len(clusters):
            return
        if unjudged:
            raise unjudged[0]
        raise min(refused, key=lambda error: (_NEAREST.index(error.reason), error.cluster != hint))
    finally:  # an error that is raised holds this frame, and the frame is not to hold the error
        refused.clear()
        unjudged.clear()


def _several(clusters: Sequence[TrustedCluster]) -> TokenRefusedError:
    names = ", ".join(cluster.policy.cluster for cluster in clusters)
    return TokenRefusedError(
        TokenReason.SEVERAL_CLUSTERS,
        f"the token's key is in the JWKS of more than one of the clusters {names}, which share an issuer",
        wanted="keys of its own for every cluster",
        todo="give one of the clusters another signing key, or another --service-account-issuer",
    )
