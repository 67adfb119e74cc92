"""Node mode's credential: the one token that a call brings in its headers, as Envoy's call credentials send it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from meshpki.agent.node.actions import TokenKey
from meshpki.agent.renewal.token_text import NotATokenError, expiry
from meshpki.errors import UsageError
from meshpki.tokens.encoding import MAX_TOKEN_BYTES
from meshpki.tokens.reasons import TokenReason, TokenRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

ISTIO_HEADER: Final = "istio_sds_credentials_header-bin"
"""What Istio 1.3 has Envoy's `file_based_metadata` credentials put the token into: base64 on the wire, bytes here."""
AUTHORIZATION: Final = "authorization"
_BEARER: Final = b"Bearer "
_WHITE: Final = b" \t\r\n"
"""Envoy sends a file as it is, so a file that ends with a line end brings it along. No token holds any of these."""
_HEADER: Final = re.compile(r"[a-z0-9_.-]{1,100}")


@dataclass(frozen=True, slots=True)
class StreamToken:
    """A token out of a call's headers, unverified. `key` tells it from every other; `ends` (epoch seconds) it says."""

    key: TokenKey
    ends: int | None
    text: str = field(repr=False)


def check_header(name: str) -> str:
    """Give a header's name as gRPC spells it. Raises UsageError for one that no header may have."""
    lowered = name.lower()
    if not _HEADER.fullmatch(lowered) or lowered.startswith("grpc-"):
        raise UsageError(f"header name {name[:100]!r}", wanted=f"such as {ISTIO_HEADER} or {AUTHORIZATION}")
    return lowered


def token_of(metadata: Sequence[tuple[str, str | bytes]], header: str) -> StreamToken:
    """Take the token of the one `header` there is, else of the one `authorization`.

    In `header` the token may stand alone or behind `Bearer `; in `authorization` only behind it (RFC 6750, 2.1). Raises
    TokenRefusedError: MISSING, SEVERAL, TOO_LARGE or MALFORMED. A call with both headers is one with several.
    """
    values = [(name, _as_bytes(value)) for name, value in metadata if name in {header, AUTHORIZATION}]
    wanted = f"one header `{header}` with a token"
    if not values:
        raise TokenRefusedError(TokenReason.MISSING, "the call brings no token", wanted=wanted)
    if len(values) > 1:
        raise TokenRefusedError(TokenReason.SEVERAL, f"the call brings {len(values)} tokens", wanted=wanted)
    ((name, value),) = values
    if len(value) > MAX_TOKEN_BYTES + len(_BEARER):
        raise TokenRefusedError(
            TokenReason.TOO_LARGE,
            f"the header `{name}` has {len(value)} bytes",
            wanted=f"a token of at most {MAX_TOKEN_BYTES} bytes",
        )
    if name == AUTHORIZATION and not value.startswith(_BEARER):
        raise TokenRefusedError(
            TokenReason.MALFORMED, "the authorization header does not begin with `Bearer `", wanted=wanted
        )
    return _token(value.removeprefix(_BEARER).strip(_WHITE), name)


def _token(text: bytes, name: str) -> StreamToken:
    if not text:
        raise TokenRefusedError(TokenReason.MISSING, f"the header `{name}` is empty", wanted="a token")
    if len(text) > MAX_TOKEN_BYTES:
        raise TokenRefusedError(
            TokenReason.TOO_LARGE, f"the token has {len(text)} bytes", wanted=f"at most {MAX_TOKEN_BYTES}"
        )
    try:
        ends = expiry(text)
    except NotATokenError as error:
        raise TokenRefusedError(TokenReason.MALFORMED, f"the header `{name}` holds no JWT: {error}") from error
    return StreamToken(TokenKey(hashlib.sha256(text).digest()), ends, text.decode("ascii"))


def _as_bytes(value: str | bytes) -> bytes:
    # A character that is no ASCII becomes `?`, which no token holds.
    return value if isinstance(value, bytes) else value.encode("ascii", "replace")
