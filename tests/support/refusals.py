"""The page of refused tokens, made from the refusals themselves: `TokenReason` and the catalogue of broken tokens.

PYTHONPATH=tests python -m support.refusals > docs/token-refusals.md
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from meshpki.errors import MeshpkiError
from meshpki.tokens.bearer import extract
from meshpki.tokens.jwks import FileKeySource
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from meshpki.tokens.reviewer import TokenReviewer
from meshpki.tokens.trusted_cluster import TrustedCluster
from meshpki.tokens.verify import TokenVerifier
from support.reviews import FakeApi, answer, caller_of, confirmed, refused
from support.tokens import NOW, StaticKeys, TokenMaker

HEAD = """\
# Refused tokens: every reason, and what to do

<!-- Made by tests/support/refusals.py from the refusals themselves; a test compares. -->

The CA refuses a token for one reason. The same word stands in the answer to the caller (gRPC status UNAUTHENTICATED),
in the CA's log, in the audit log (`reason`) and in its metrics. To find out more about a token, offline and without
showing it to anybody:

```text
meshpki token inspect FILE --audience istio-ca --issuer https://... --jwks jwks.json
```

The sentences below are real answers to one broken token each.
"""

WHERE: dict[TokenReason, str] = {
    TokenReason.MISSING: "The client sends no `authorization` header. Agent: is `--token-file` mounted, and not empty?",
    TokenReason.SEVERAL: "A proxy between client and CA adds a header of its own. Let it pass TLS through.",
    TokenReason.TOO_LARGE: "This is no service-account token. Look at what the token file holds.",
    TokenReason.MALFORMED: "Look at the token file: cut, quoted, a line break inside, or something else altogether.",
    TokenReason.DUPLICATE_MEMBER: "No Kubernetes API server writes this. Ask where the token came from.",
    TokenReason.HEADER_NOT_ALLOWED: "No Kubernetes API server writes this. Ask where the token came from.",
    TokenReason.ALGORITHM_NOT_ALLOWED: "A forgery, or a JWKS whose `alg` is not the one that the cluster signs with.",
    TokenReason.UNKNOWN_ISSUER: "Compare the token's `iss` with `clusters[].issuer`, letter for letter.",
    TokenReason.UNKNOWN_KEY: "The cluster has new keys and the CA the old ones: is the JWKS file still written?",
    TokenReason.BAD_SIGNATURE: "Two clusters share an issuer's name, or this is a forgery.",
    TokenReason.LEGACY: "The pod mounts a token out of a Secret. Mount a projected one with audience and expiry.",
    TokenReason.CLAIM_MISSING: "Not a token of TokenRequest. Look with `meshpki token inspect`.",
    TokenReason.CLAIM_INVALID: "Not a token of TokenRequest. Look with `meshpki token inspect`.",
    TokenReason.NO_AUDIENCE: "Name the audience in the pod's projected volume.",
    TokenReason.WRONG_AUDIENCE: "Name the audience in the pod's projected volume.",
    TokenReason.EXPIRED: "The token file is not rewritten any more, or was read once and kept. Or a clock is wrong.",
    TokenReason.NOT_YET_VALID: "Compare the clocks of the CA and of the API server.",
    TokenReason.LIFETIME_TOO_LONG: "An API server with extended expiration: raise `max_token_lifetime` if so.",
    TokenReason.NOT_BOUND: "From `kubectl create token` without `--bound-object-kind Pod`, or from a controller.",
    TokenReason.BAD_SUBJECT: "No service account's token, or its parts contradict each other.",
    TokenReason.SEVERAL_CLUSTERS: "Two clusters were cloned with their service-account key. Give one a key of its own.",
    TokenReason.NOT_AUTHENTICATED: "Reviewed by the API server, whose text told no more. Its log does.",
    TokenReason.POD_GONE: "Restart the pod. If it was deleted on purpose, somebody still uses its token.",
    TokenReason.NODE_GONE: "A token bound to a node (not to a pod on it) whose Node object was deleted.",
    TokenReason.ACCOUNT_GONE: "The service account was deleted under its pods. Make it again, then restart the pods.",
    TokenReason.ACCOUNT_RECREATED: "Delete and create, or a restore from a backup: new UID. Restart the pods.",
    TokenReason.AUDIENCE_NOT_CONFIRMED: "An authenticating webhook, or a cluster older than 1.13.",
    TokenReason.REVIEW_MISMATCH: "`api_server` leads to another cluster than `issuer`, or a webhook answers for it.",
}


def examples() -> dict[TokenReason, TokenRefusedError]:
    """The first refusal for each reason, out of the catalogue, at a fixed time."""
    maker = TokenMaker()
    found: dict[TokenReason, TokenRefusedError] = {}
    with tempfile.TemporaryDirectory() as directory:
        jwks = Path(directory) / "jwks.json"
        jwks.write_bytes(maker.jwks())
        cluster = TrustedCluster(ClusterPolicy(cluster="east", issuer=maker.issuer), FileKeySource(jwks))
        verifier = TokenVerifier([cluster])
        good = b"Bearer " + maker.token(now=NOW)
        headers = [[], [good, good], *([b"Bearer " + broken.token] for broken in maker.broken())]
        for values in headers:
            try:
                verifier.verify(extract(values), NOW)
            except TokenRefusedError as error:
                found.setdefault(error.reason, error)
            except MeshpkiError:
                continue
    return {**found, **_reviewed(maker), **_shared(maker)}


def _reviewed(maker: TokenMaker) -> dict[TokenReason, TokenRefusedError]:
    """One refusal for each reason that an API server's answer can give."""
    policy = ClusterPolicy(cluster="east", issuer=maker.issuer)
    token, of_node = maker.token(now=NOW), maker.token(now=NOW, pod=None)
    caller = caller_of(token, policy)
    gone = "[invalid bearer token, service account token has been invalidated]"
    cases = {
        TokenReason.NOT_AUTHENTICATED: (token, refused()),
        TokenReason.POD_GONE: (token, refused(gone)),
        TokenReason.NODE_GONE: (of_node, refused(gone)),
        TokenReason.ACCOUNT_GONE: (token, refused('[invalid bearer token, serviceaccounts "web" not found]')),
        TokenReason.ACCOUNT_RECREATED: (token, refused("service account UID (a) does not match claim (b)")),
        TokenReason.AUDIENCE_NOT_CONFIRMED: (token, confirmed(caller, audiences=None)),
        TokenReason.REVIEW_MISMATCH: (token, confirmed(caller, user={})),
    }
    found = {}
    for reason, (shown, body) in cases.items():
        reviewer = TokenReviewer(FakeApi(lambda _, body=body: answer(body)), policy)  # type: ignore[misc]
        cluster = TrustedCluster(replace(policy, require_pod=False), StaticKeys.of(maker), reviewer)
        found[reason] = _refusal(TokenVerifier([cluster]), shown)
    return found


def _shared(maker: TokenMaker) -> dict[TokenReason, TokenRefusedError]:
    """Two clusters with one issuer and one key."""
    clusters = [TrustedCluster(ClusterPolicy(name, maker.issuer), StaticKeys.of(maker)) for name in ("east", "west")]
    return {TokenReason.SEVERAL_CLUSTERS: _refusal(TokenVerifier(clusters), maker.token(now=NOW))}


def _refusal(verifier: TokenVerifier, token: bytes) -> TokenRefusedError:
    try:
        verifier.verify(token, NOW)
    except TokenRefusedError as error:
        return error
    raise AssertionError("the token was believed")


def render() -> str:
    """The whole page."""
    found = examples()
    parts = [HEAD]
    for reason in TokenReason:
        error = found[reason]
        parts.append(f"\n## `{reason}`\n\n{WHERE[reason]}\n\n- seen: {error.seen}\n")
        parts += [f"- {name}: {text}\n" for name, text in (("wanted", error.wanted), ("to do", error.todo)) if text]
    return "".join(parts)


if __name__ == "__main__":
    print(render(), end="")
