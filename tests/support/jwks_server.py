"""An https server on loopback that serves a JWKS, and misbehaves when told to."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import ssl
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Behaviour = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Does what the JwksServer says, once per request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        server.owner.requests.append(self.path)
        server.owner.behaviour(self)

    def do_POST(self) -> None:
        self.do_GET()

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing to say."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    owner: JwksServer

    def handle_error(self, *args: object) -> None:
        """Clients that hang up are what some tests are about."""


@dataclass
class JwksServer:
    """Where it listens, whose root signs it, what it was asked, and how it behaves."""

    url: str
    root: Path
    behaviour: Behaviour
    requests: list[str] = field(default_factory=list)
    finished: threading.Event = field(default_factory=threading.Event)
    """Set when the test is over: slow behaviours wait for it instead of sleeping."""

    def serve(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.behaviour = lambda handler: handler.answer(body, status, **headers)


def certificate(directory: Path, name: str, *, host: str = "127.0.0.1", hours_ago: int = 0) -> tuple[Path, Path]:
    """A root named `name`, and a server chain with key by it: (root file, chain-and-key file)."""
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours_ago)
    hour = datetime.timedelta(hours=1)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    alternative: x509.GeneralName = x509.DNSName(host)
    if host[0].isdigit():
        alternative = x509.IPAddress(ipaddress.ip_address(host))

    def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(root_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - hour)
            .not_valid_after(now + hour)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        )

    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= {"encipher_only": False, "decipher_only": False}
    root = (
        builder(root_name, root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **usage), critical=True
        )
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        builder(leaf_name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    root_file, chain_file = directory / f"{name}-root.pem", directory / f"{name}-server.pem"
    root_file.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain_file.write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + private)
    return root_file, chain_file


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[JwksServer]:
    """A server with a certificate of a root of its own, until the block ends."""
    root_file, chain_file = certificate(directory, "ours")
    server = _Server(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain_file)
    # The handshake belongs to the connection's own thread, not to the one that accepts.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    owner = JwksServer(f"https://127.0.0.1:{server.server_port}/openid/v1/jwks", root_file, lambda handler: None)
    server.owner = owner
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield owner
    finally:
        owner.finished.set()
        server.shutdown()
        thread.join()
        server.server_close()
