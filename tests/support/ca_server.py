"""A CA server in this process over real TLS, with an authority, a token maker and clients that speak to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import grpc
import yaml

from meshpki.ca.config import CaConfig, IssuerFiles, Limits, ProfileSettings
from meshpki.ca.config_clusters import ClusterSettings, JwksSettings
from meshpki.ca.config_values import HostPort
from meshpki.ca.server.ca_server import CaServer
from meshpki.identity import ServiceAccountRef
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from meshpki.wire.methods import CREATE_CERTIFICATE
from support.authority import TestAuthority, make_authority, make_csr
from support.kept_port import kept_port, number_of
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from meshpki.hooks import Signer

SERVER_NAME = "istio-ca.test"
TIMEOUT = 60.0
PROBES = 5
"""As often a page is asked for."""


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


class CallFailedError(Exception):
    """A call that ended with another status than OK, as the client saw it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name} {details}")
        self.code = code
        self.details = details

    @property
    def reason(self) -> str:
        """What stands before the colon."""
        return self.details.partition(":")[0]


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Turn grpcio's error into CallFailedError."""
    try:
        yield
    except grpc.RpcError as error:
        raise CallFailedError(error.code(), error.details() or "") from None


@dataclass
class CaClient:
    """Speaks to a CA server; every call raises CallFailedError."""

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
        with failures():
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


CONFIG = """\
trust_domain: mesh.local
listen: 127.0.0.1:0
http: 127.0.0.1:0
server_names: [{name}]
issuer: {{certificate: ca/issuer-cert.pem, key: ca/issuer-key.pem, root: ca/root-cert.pem}}
audit: audit/issuance.jsonl
clusters: [{{name: local, issuer: "{issuer}", jwks: {jwks}}}]
"""


SERVE = (sys.executable, "-m", "meshpki_cli", "ca", "serve", "--config", "ca.yaml", "--log-level", "debug")


def cluster_yaml(*clusters: ClusterSettings) -> str:
    """The clusters as an operator writes them; what is at its default is left out."""
    return yaml.safe_dump({"clusters": [_plain(cluster) for cluster in clusters]})


def _plain(value: object) -> object:
    if isinstance(value, ServiceAccountRef):
        return str(value)
    if is_dataclass(value):
        said = [(each.name, getattr(value, each.name), each.default) for each in fields(value)]
        return {name: _written(name, found) for name, found, default in said if found != default}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool) else str(value)


def _written(name: str, value: object) -> object:
    return f"{value}s" if name in {"leeway", "max_token_lifetime", "review_cache"} else _plain(value)


def where(log: Path) -> dict[str, str]:
    """What a CA said into its log when it began to serve: its addresses; nothing before. Whoever needs a port lets it
    take a free one, for one that was free a moment ago may be somebody else's by now.
    """
    for line in log.read_text().splitlines(keepends=True):
        if '"the CA serves"' in line and line.endswith("\n"):
            return dict(json.loads(line))
    return {}


class CaProcess:
    """`meshpki ca serve` as a process of its own, in `directory`; its log is kept in `log`."""

    def __init__(
        self,
        directory: Path,
        authority: TestAuthority,
        maker: TokenMaker,
        more: str = "",
        *,
        clusters: Sequence[ClusterSettings] = (),
        jwks: str = "{file: jwks-0.json}",
        files: int = 0,
        at_first: int = 0,
    ) -> None:
        """It believes the tokens of `maker`, or those of `clusters` instead; `more` is added to the configuration.

        With `files` it may have no more of them open, whatever it does, and with `at_first` so many as long as it does
        nothing about it.
        """
        make_config(directory, maker, authority=authority)
        config = CONFIG.format(name=SERVER_NAME, issuer=maker.issuer, jwks=jwks)
        if clusters:
            config = config.partition("clusters:")[0] + cluster_yaml(*clusters)
        config += more
        (directory / "ca.yaml").write_text(config)
        self.log = directory / "ca.log"
        self.audit = directory / "audit/issuance.jsonl"
        limits = f"ulimit -Sn {at_first or files}; ulimit -Hn {files}"
        limited = ["sh", "-c", f'{limits}; exec "$@"', "sh"] if files else []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*limited, *SERVE], cwd=directory, stderr=log)
        self.says = self._wait()
        """What it said when it served: where."""
        self.client = CaClient(self.says["grpc"], authority.root_pem)

    def _wait(self) -> dict[str, str]:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := where(self.log):
                return found
            time.sleep(0.02)
        raise AssertionError(f"the CA did not start: {self.log.read_text()}")

    def http(self, path: str) -> tuple[int, str]:
        """Status and text of a page."""
        return http_page(self.says["http"], path)

    @contextlib.contextmanager
    def without_disk(self) -> Iterator[None]:
        """No file of it can grow, as on a disk that is full."""
        before = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, before)

    def end(self, number: int) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        self.client.close()
        return self.process.wait(60)


def http_page(address: str, path: str) -> tuple[int, str]:
    """Status and text of a page.

    Asked again when the connection was cut, as probes are: a server that stood still for seconds cuts all that waited.
    """
    for _ in range(PROBES - 1):
        with contextlib.suppress(ConnectionResetError, http.client.IncompleteRead):
            return _asked(address, path)
    return _asked(address, path)


def _asked(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=TIMEOUT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionResetError | BrokenPipeError):
            raise ConnectionResetError(str(error.reason)) from error
        raise


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
        return http_page(self.server.http_address, path)


@contextlib.contextmanager
def running(
    directory: Path,
    *others: TokenMaker,
    authority: TestAuthority | None = None,
    clock: Callable[[], float] = time.time,
    signer: Callable[[], Signer] | None = None,
    **changes: Any,  # Any: fields of CaConfig
) -> Iterator[RunningCa]:
    """A server for tokens of `TokenMaker()` and of the others, until the block ends; `changes` to its configuration.

    Its port is its own until then, also while it is stopped.
    """
    authority = authority or make_authority()
    maker = TokenMaker()
    config = replace(make_config(directory, maker, *others, authority=authority), **changes)
    with contextlib.closing(kept_port()) as kept:
        if not config.listen.port:
            config = replace(config, listen=HostPort("127.0.0.1", number_of(kept)))
        with CaServer(config, clock=clock, signer=signer) as server:
            client = CaClient(server.address, authority.root_pem)
            try:
                yield RunningCa(server, authority, maker, client, config)
            finally:
                client.close()
