"""The page of refused tokens, made from the refusals themselves: `TokenReason` and the catalogue of broken tokens.

PYTHONPATH=tests python -m support.refusals > docs/token-refusals.md
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from meshpki.errors import MeshpkiError
from meshpki.tokens.bearer import extract
from meshpki.tokens.jwks import FileKeySource
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from meshpki.tokens.verify import TokenVerifier, TrustedCluster
from support.tokens import NOW, TokenMaker

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
    return found


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
