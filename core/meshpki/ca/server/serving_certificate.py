"""The CA server's own leaf: short-lived, under its own authority, renewed at half life; CA certificates never serve."""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from meshpki.ca import serials
from meshpki.ca.csr import CsrKey
from meshpki.ca.issue import Issued, issue
from meshpki.ca.keys import KeyKind, generate, private_pem, spki_of
from meshpki.ca.lifetime import LifetimeLimit, bound
from meshpki.ca.prepare import prepare_leaf
from meshpki.ca.profile import DAY
from meshpki.ca.template import Leaf, Purpose
from meshpki.errors import InvalidValueError, MeshpkiError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from meshpki.ca.issuer import Issuer

log: Final = logging.getLogger(__name__)
BACKDATE_SECONDS: Final = 120
RETRY_SECONDS: Final = 60
"""After a renewal that failed, the old pair is served this long before the next attempt."""
_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DNS: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII | re.IGNORECASE)
_MAX_DNS: Final = 253


@dataclass(frozen=True, slots=True)
class ServingPair:
    """What a TLS server presents. Times are epoch seconds."""

    key_pem: bytes = field(repr=False)
    """PKCS #8, unencrypted. It lives in memory only."""
    chain_pem: bytes
    """The leaf, then the certificates between it and the root; the root itself is for the client to have."""
    not_before: int
    not_after: int
    serial: int


def renewal_due(pair: ServingPair | None, now: float) -> bool:
    """Whether half of the pair's life is over, or there is none yet."""
    return pair is None or now >= (pair.not_before + pair.not_after) / 2


def server_name(text: str) -> str | IPv4Address | IPv6Address:
    """Read a name that clients call the server by: an IP address or a DNS name. Raises InvalidValueError."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        if len(text) <= _MAX_DNS and _DNS.fullmatch(text):
            return text
    raise InvalidValueError(f"server name {text[:80]!r}", wanted="a DNS name without wildcard, or an IP address")


class ServingCertificate:
    """Hands out the pair to serve with, and renews it in time. Used from several threads at once."""

    def __init__(
        self,
        issuer: Issuer,
        names: Sequence[str],
        *,
        lifetime_seconds: int = DAY,
        record: Callable[[Issued], None] | None = None,
    ) -> None:
        """`record` is called with each new certificate before it is served. Raises InvalidValueError for a name."""
        if not names:
            raise InvalidValueError("no server name", wanted="at least one DNS name or IP address")
        self._issuer = issuer
        self._names = tuple(server_name(name) for name in names)
        self._lifetime_seconds = lifetime_seconds
        self._record = record
        self._lock = threading.Lock()
        self._pair: ServingPair | None = None
        self._not_again_before = 0.0

    def pair(self, now: float) -> ServingPair:
        """Return the pair to serve with at `now` (epoch seconds), a new one from half life on.

        When a renewal fails, the old pair is served until it ends. Raises UnavailableError and what else `prepare`
        and `issue` raise only when there is no pair to serve.
        """
        if not renewal_due(self._pair, now) and self._pair is not None:
            return self._pair
        with self._lock:
            old = self._pair
            if old is not None and (not renewal_due(old, now) or now < min(self._not_again_before, old.not_after)):
                return old
            try:
                self._pair = self._issue(int(now))
            except MeshpkiError as error:
                if old is None or now >= old.not_after:
                    raise
                self._not_again_before = now + RETRY_SECONDS
                log.warning("serving certificate not renewed", extra={"error": str(error), "not_after": old.not_after})
                return old
            return self._pair

    def _issue(self, now: int) -> ServingPair:
        key = generate(KeyKind.EC_P256)
        ends = now + self._lifetime_seconds
        leaf = Leaf(
            Purpose.SERVING,
            CsrKey(spki_of(key.public_key()), KeyKind.EC_P256),
            serials.draw(),
            bound(self._issuer, ends, LifetimeLimit.DEFAULT, backdate_seconds=BACKDATE_SECONDS, now=now),
            server_names=self._names,
        )
        issued = issue(prepare_leaf(self._issuer, leaf))
        if self._record is not None:
            self._record(issued)
        chain = "".join(issued.cert_chain[:-1])
        return ServingPair(private_pem(key), chain.encode(), issued.not_before, issued.not_after, issued.serial)
