"""The strict pre-check: bytes become a header, claims and a signature, or the token is refused. No key needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from meshpki.tokens.algorithms import SUPPORTED
from meshpki.tokens.encoding import (
    MAX_TOKEN_BYTES,
    DuplicateMemberError,
    StrictJsonError,
    decode_base64url,
    read_object,
)
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from meshpki.value import value

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_KID: Final = 256
_HEADER_NAMES: Final = frozenset({"alg", "kid", "typ"})
_FORM: Final = "three parts of canonical, unpadded base64url, joined by dots (RFC 7515)"


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """What of a header we use."""

    algorithm: str
    """One of `algorithms.SUPPORTED`; whether it fits the key is for the key to say."""
    kid: str | None
    """None when the header has no kid, or an empty one as Kubernetes 1.13 writes."""


@value
class ParsedToken:
    """A token whose form is right and of which nothing is proven yet. Its repr shows none of it."""

    header: TokenHeader = field(repr=False)
    claims: Mapping[str, object] = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse(token: bytes) -> ParsedToken:
    """Examine form, header and JSON of a token, each exactly once.

    Raises TokenRefusedError: TOO_LARGE, MALFORMED, DUPLICATE_MEMBER, HEADER_NOT_ALLOWED, ALGORITHM_NOT_ALLOWED.
    """
    head, payload, last = split(token)
    header = read_header(head)
    claims = read_part(payload, "payload")
    signature = decode_base64url(last)
    if signature is None:
        raise TokenRefusedError(TokenReason.MALFORMED, "the token's signature is no base64url", wanted=_FORM)
    return ParsedToken(header, claims, token[: len(token) - len(last) - 1], signature)


def split(token: bytes) -> tuple[bytes, bytes, bytes]:
    """Cut a token into header, payload and signature, still encoded. Raises TokenRefusedError: TOO_LARGE, MALFORMED."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenRefusedError(
            TokenReason.TOO_LARGE,
            f"the token has {len(token)} bytes",
            wanted=f"at most {MAX_TOKEN_BYTES} bytes",
        )
    parts = token.split(b".", 3)
    if len(parts) != 3:
        raise TokenRefusedError(
            TokenReason.MALFORMED, f"the token has {token.count(b'.') + 1} part(s), not three", wanted=_FORM
        )
    return parts[0], parts[1], parts[2]


def read_part(part: bytes, name: str) -> dict[str, object]:
    """Decode one part into its JSON object. Raises TokenRefusedError: MALFORMED, DUPLICATE_MEMBER."""
    data = decode_base64url(part)
    if data is None:
        raise TokenRefusedError(TokenReason.MALFORMED, f"the token's {name} is no base64url", wanted=_FORM)
    try:
        return read_object(data)
    except DuplicateMemberError as error:
        raise TokenRefusedError(
            TokenReason.DUPLICATE_MEMBER, f"the token's {name}: {error.seen}", wanted=error.wanted
        ) from error
    except StrictJsonError as error:
        raise TokenRefusedError(
            TokenReason.MALFORMED, f"the token's {name}: {error.seen}", wanted=error.wanted
        ) from error


# All tokens of one signing key begin with the same bytes. Refusals are not kept, and no secret is in a header.
@lru_cache(maxsize=256)
def read_header(part: bytes) -> TokenHeader:
    """Decode and check the first part. Raises TokenRefusedError as `parse` does."""
    return check_header(read_part(part, "header"))


def check_header(header: Mapping[str, object]) -> TokenHeader:
    """Allow `alg`, `kid` and `typ`, which is all that Kubernetes and its external signers write; refuse the rest.

    A key or the address of one (jwk, jku, x5u, x5c) must never come from the token, and an extension (crit, b64)
    would change what the signature means. Raises TokenRefusedError: HEADER_NOT_ALLOWED, ALGORITHM_NOT_ALLOWED.
    """
    if not header.keys() <= _HEADER_NAMES:
        raise TokenRefusedError(
            TokenReason.HEADER_NOT_ALLOWED,
            f"the token's header has {len(header.keys() - _HEADER_NAMES)} member(s) that are not allowed",
            wanted="alg, kid and typ alone; keys come from the cluster's JWKS, never from a token",
        )
    if "typ" in header and header["typ"] != "JWT":
        raise TokenRefusedError(
            TokenReason.HEADER_NOT_ALLOWED,
            "the token's typ is not JWT: it was made for another purpose",
            wanted="typ JWT, or none (RFC 8725, section 3.11)",
        )
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in SUPPORTED:
        raise TokenRefusedError(
            TokenReason.ALGORITHM_NOT_ALLOWED,
            "the token's alg is none, symmetric or unknown",
            wanted=f"one of {', '.join(SUPPORTED)}, as the cluster's key says",
        )
    kid = header.get("kid", "")
    if not isinstance(kid, str) or len(kid) > MAX_KID:
        raise TokenRefusedError(
            TokenReason.HEADER_NOT_ALLOWED, "the token's kid is no text, or too long", wanted="a short text"
        )
    return TokenHeader(algorithm, kid or None)
