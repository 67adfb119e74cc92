"""The token out of the authorization headers of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.tokens.encoding import MAX_TOKEN_BYTES
from meshpki.tokens.reasons import TokenReason, TokenRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PREFIX: Final = b"Bearer "
_WANTED: Final = "one header `authorization: Bearer <token>`"


def extract(values: Sequence[str | bytes]) -> bytes:
    """Return the token of the one `authorization` value there is.

    `values` are all values of that header, in any order. The prefix is `Bearer` and one space, as istio-agent and
    ztunnel write it. Raises TokenRefusedError: MISSING, SEVERAL, MALFORMED or TOO_LARGE.
    """
    if not values:
        raise TokenRefusedError(TokenReason.MISSING, "the call has no authorization header", wanted=_WANTED)
    if len(values) > 1:
        raise TokenRefusedError(
            TokenReason.SEVERAL, f"the call has {len(values)} authorization headers", wanted=_WANTED
        )
    value = _as_bytes(values[0])
    if len(value) > MAX_TOKEN_BYTES + len(_PREFIX):
        raise TokenRefusedError(
            TokenReason.TOO_LARGE,
            f"the authorization header has {len(value)} bytes",
            wanted=f"a token of at most {MAX_TOKEN_BYTES} bytes",
        )
    if not value.startswith(_PREFIX):
        raise TokenRefusedError(
            TokenReason.MALFORMED, "the authorization header does not begin with `Bearer `", wanted=_WANTED
        )
    token = value[len(_PREFIX) :]
    if not token:
        raise TokenRefusedError(TokenReason.MISSING, "the authorization header holds no token", wanted=_WANTED)
    return token


def _as_bytes(value: str | bytes) -> bytes:
    # A character that is no ASCII becomes `?`, which no token may hold: the parser refuses it.
    return value if isinstance(value, bytes) else value.encode("ascii", "replace")
