"""A CA with renewal by certificate switched on, and clients that show certificates to it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from meshpki.ca.config import ProfileSettings, RenewalSettings
from meshpki.ca.config_values import HostPort, Seconds
from meshpki.ca.keys import KeyKind, generate, private_pem
from support import ca_server
from support.authority import make_csr

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meshpki.ca.keys import PrivateKey
    from support.ca_server import RunningCa

HOUR = Seconds(3600)
HOURS = Seconds(6 * 3600)


@dataclass(frozen=True)
class Held:
    """A certificate as its workload holds it."""

    chain: tuple[str, ...]
    """As the CA sent it: leaf first, root last."""
    key: PrivateKey

    @property
    def presented(self) -> bytes:
        """What a TLS client shows: all but the root."""
        return "".join(self.chain[:-1]).encode()


class CertificateClient(ca_server.CaClient):
    """Speaks to the renewal listener with a certificate of its own, or with none."""

    def __init__(self, address: str, roots_pem: bytes, chain: bytes | None, key: PrivateKey | None) -> None:
        super().__init__(address, roots_pem)
        self._certificate = (private_pem(key) if key is not None else None, chain)

    def new_channel(self, *options: tuple[str, int | str]) -> grpc.Channel:
        """A connection of its own."""
        key, chain = self._certificate
        return grpc.secure_channel(
            self.address,
            grpc.ssl_channel_credentials(self.roots_pem, key, chain),
            options=[
                ("grpc.ssl_target_name_override", ca_server.SERVER_NAME),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),
                *options,
            ],
        )


@contextlib.contextmanager
def running(
    directory: Path, *, ttl: int = HOUR, without_token: int = HOURS, **changes: Any
) -> Iterator[RunningCa]:  # Any: what ca_server.running takes
    """A server as `ca_server.running` gives it, with certificates of up to `ttl` seconds, and renewal switched on."""
    settings = {
        "profile": ProfileSettings(default_ttl=Seconds(ttl), max_ttl=Seconds(ttl)),
        "renewal": RenewalSettings(HostPort("127.0.0.1", 0), Seconds(without_token)),
        **changes,
    }
    with ca_server.running(directory, **settings) as ca:
        yield ca


def obtain(ca: RunningCa, *, now: float | None = None, ttl: int = 0, **claims: Any) -> Held:  # Any: of a token
    """A certificate against a token; `now` is when the token was made."""
    key = generate(KeyKind.EC_P256)
    token = ca.maker.token(now=time.time() if now is None else now, **claims)
    return Held(tuple(ca.client.sign(token, make_csr(key), ttl=ttl)), key)


@contextlib.contextmanager
def client_of(ca: RunningCa, held: Held) -> Iterator[CertificateClient]:
    """A client of the renewal listener that shows what it holds."""
    client = CertificateClient(ca.server.renewal_address, ca.authority.root_pem, held.presented, held.key)
    try:
        yield client
    finally:
        client.close()


def renew(ca: RunningCa, held: Held, *, ttl: int = 0) -> Held:
    """A new certificate for a new key, against the one held."""
    key = generate(KeyKind.EC_P256)
    with client_of(ca, held) as client:
        return Held(tuple(client.request((), csr=make_csr(key), ttl=ttl)), key)
