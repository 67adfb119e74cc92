"""A CA server in this process over real TLS, with an authority, a token maker and clients that speak to it."""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from meshpki.ca.config import (
    CaConfig,
    ClusterSettings,
    IssuerFiles,
    JwksSettings,
    Limits,
    ProfileSettings,
)
from meshpki.ca.config_values import HostPort
from meshpki.ca.server import CaServer
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from meshpki.wire.methods import CREATE_CERTIFICATE
from support.authority import TestAuthority, make_authority, make_csr
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SERVER_NAME = "istio-ca.test"
TIMEOUT = 20.0


def make_config(directory: Path, *makers: TokenMaker, authority: TestAuthority | None = None) -> CaConfig:
    """Write an authority and the makers' JWKS below `directory`; a configuration with free ports that names them."""
    authority = authority or make_authority()
    authority.write(directory / "ca")
    clusters = []
    for number, maker in enumerate(makers or (TokenMaker(),)):
        jwks = directory / f"jwks-{number}.json"
        jwks.write_bytes(maker.jwks())
        clusters.append(ClusterSettings(f"cluster-{number}", maker.issuer, JwksSettings(file=jwks)))
    return CaConfig(
        trust_domain=authority.profile.trust_domain,
        listen=HostPort("127.0.0.1", 0),
        http=HostPort("127.0.0.1", 0),
        server_names=(SERVER_NAME, "127.0.0.1"),
        issuer=IssuerFiles(
            directory / "ca/issuer-cert.pem", directory / "ca/issuer-key.pem", directory / "ca/root-cert.pem"
        ),
        audit=directory / "audit/issuance.jsonl",
        clusters=tuple(clusters),
        profile=ProfileSettings(),
        limits=Limits(),
    )


@dataclass
class CaClient:
    """Speaks to a CA server; `call` raises grpc.RpcError as a client sees it."""

    address: str
    roots_pem: bytes
    _channel: grpc.Channel | None = field(default=None, repr=False)

    def new_channel(self, *options: tuple[str, int | str]) -> grpc.Channel:
        """A connection of its own."""
        return grpc.secure_channel(
            self.address,
            grpc.ssl_channel_credentials(self.roots_pem),
            options=[
                ("grpc.ssl_target_name_override", SERVER_NAME),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),
                ("grpc.max_metadata_size", 4 << 20),
                *options,
            ],
        )

    @property
    def channel(self) -> grpc.Channel:
        """The connection that calls share."""
        if self._channel is None:
            self._channel = self.new_channel()
        return self._channel

    def raw(self, path: str, request: bytes, metadata: Sequence[tuple[str, str | bytes]] = ()) -> bytes:
        """Any call with any bytes."""
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        return method(request, metadata=tuple(metadata), timeout=TIMEOUT)

    def sign(self, token: bytes | str, csr: str | None = None, ttl: int = 0, **fields: str) -> list[str]:
        """CreateCertificate with a bearer token; the answer's chain."""
        text = token.decode("ascii") if isinstance(token, bytes) else token
        return self.request((("authorization", f"Bearer {text}"),), csr=csr, ttl=ttl, **fields)

    def request(
        self, metadata: Sequence[tuple[str, str | bytes]], *, csr: str | None = None, ttl: int = 0, **fields: str
    ) -> list[str]:
        """CreateCertificate with any metadata."""
        request = IstioCertificateRequest(csr=make_csr() if csr is None else csr, validity_duration=ttl)
        if fields:
            request.metadata.update(fields)
        answer = self.raw(CREATE_CERTIFICATE, request.SerializeToString(), metadata)
        return list(IstioCertificateResponse.FromString(answer).cert_chain)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


@dataclass
class RunningCa:
    """A server that runs, and what a test needs to speak to it."""

    server: CaServer
    authority: TestAuthority
    maker: TokenMaker
    client: CaClient
    config: CaConfig

    def http(self, path: str) -> tuple[int, str]:
        """Status and text of a page."""
        try:
            with urllib.request.urlopen(f"http://{self.server.http_address}{path}", timeout=TIMEOUT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@contextlib.contextmanager
def running(
    directory: Path, config: CaConfig | None = None, authority: TestAuthority | None = None
) -> Iterator[RunningCa]:
    """A server for `TokenMaker()`'s tokens, until the block ends."""
    authority = authority or make_authority()
    maker = TokenMaker()
    config = config or make_config(directory, maker, authority=authority)
    with CaServer(config) as server:
        client = CaClient(server.address, authority.root_pem)
        try:
            yield RunningCa(server, authority, maker, client, config)
        finally:
            client.close()
