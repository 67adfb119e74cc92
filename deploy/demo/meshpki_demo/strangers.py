"""Callers that have no business here: without a certificate, or with one that says the right name and lies."""

from __future__ import annotations

import datetime
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from meshpki_demo.bootstrap import Address

TIMEOUT_SECONDS: Final = 30.0
REQUEST: Final = b"GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, as PEM files."""

    chain: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Knock:
    """What came of a caller's try: whether any byte of an HTTP answer came back, or else what was met instead."""

    admitted: bool
    met: str


def knock(address: Address, pair: KeyPair | None) -> Knock:
    """Open TLS to a sidecar and ask for a page. The server's certificate is not examined: that is not the question.

    In TLS 1.3 a client's certificate is judged after the client's side of the handshake is over, so the refusal may
    come as an alert or as a closed connection, at any later read or write.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if pair:
        context.load_cert_chain(pair.chain, pair.key)
    try:
        with (
            socket.create_connection((address.host, address.port), TIMEOUT_SECONDS) as plain,
            context.wrap_socket(plain) as tls,
        ):
            tls.sendall(REQUEST)
            answer = tls.recv(64)
    except OSError as error:  # ssl.SSLError is one, too
        return Knock(admitted=False, met=getattr(error, "reason", None) or type(error).__name__)
    return Knock(admitted=bool(answer), met=answer.split(b"\r\n")[0].decode(errors="replace") or "closed")


def impostor(directory: Path, spiffe_id: str) -> KeyPair:
    """Make a certificate for `spiffe_id` that nobody but itself vouches for, valid for an hour, in `directory`."""
    now = datetime.datetime.now(datetime.UTC)
    hour = datetime.timedelta(hours=1)
    key = ec.generate_private_key(ec.SECP256R1())
    nobody = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(nobody)
        .issuer_name(nobody)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - hour)
        .not_valid_after(now + hour)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
        .sign(key, hashes.SHA256())
    )
    pair = KeyPair(directory / "impostor.pem", directory / "impostor-key.pem")
    pair.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pair.key.touch(mode=0o600)
    pair.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pair
