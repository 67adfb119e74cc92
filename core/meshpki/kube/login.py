"""What to do when the server does not accept a credential: what can be read off the credential itself. Pure."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Final

from meshpki.kube.credentials import ClientCertificate, ExecPlugin, TokenFile, TokenText

if TYPE_CHECKING:
    from meshpki.kube.access import Access
    from meshpki.kube.authenticator import Presented

_LAST: Final = 253_402_300_799
"""The last second of the year 9999."""


def advice(access: Access, presented: Presented, now: float) -> str:
    """The next step after a 401, with the expiry of what was presented if that has passed by `now` (epoch seconds)."""
    where = access.where or access.server
    ends_at = token_end(presented.token) if presented.token else _certificate_end(presented)
    expired = ""
    if ends_at is not None and ends_at <= now:
        expired = f" (it expired at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(max(ends_at, 0)))})"
    match access.credential:
        case TokenFile(file):
            return f"put a fresh token into {file.path}{expired}; it is read again without a restart"
        case TokenText():
            return f"fetch {where} again, or log in again: the token in it is not good{expired}"
        case ClientCertificate():
            return f"fetch {where} again: its client certificate is not good{expired}"
        case ExecPlugin(command=command):
            return f"log in again with the tool behind {command}{expired}"


def token_end(token: str) -> float | None:
    """The `exp` of a JWT, unverified: for a message and nothing else. None for any other text."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        end = claims["exp"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return float(end) if type(end) in {int, float} and 0 <= end < _LAST else None


def _certificate_end(presented: Presented) -> float | None:
    from cryptography import x509

    if presented.pair is None:
        return None
    try:
        return x509.load_pem_x509_certificate(presented.pair.certificate).not_valid_after_utc.timestamp()
    except (ValueError, x509.InvalidVersion):
        return None
