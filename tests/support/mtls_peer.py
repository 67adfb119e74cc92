"""One end of a mutual TLS connection, as a program of its own that gets all it needs from the Workload API.

    SPIFFE_ENDPOINT_SOCKET=unix:///... python -m support.mtls_peer serve                # prints its port
    SPIFFE_ENDPOINT_SOCKET=unix:///... python -m support.mtls_peer call PORT

Each end says whom it met: one line of JSON per connection, with the SPIFFE ID and serial of the peer's certificate.
The names are compared by `ssl` against nothing (SPIFFE IDs are no host names): whom to trust is what the roots say.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import X509Source


def context(source: X509Source, *, server: bool) -> ssl.SSLContext:
    """Load what the source holds now; `ssl` reads keys from files only, so one is made for the moment."""
    held = source.get_x509_context()
    svid = held.default_svid
    bundle = held.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    assert bundle is not None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=b"".join(root.public_bytes(Encoding.DER) for root in bundle.x509_authorities))
    with tempfile.TemporaryDirectory() as directory:
        pair = Path(directory) / "pair.pem"
        key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pair.touch(mode=0o600)
        pair.write_bytes(key + b"".join(certificate.public_bytes(Encoding.PEM) for certificate in svid.cert_chain))
        made.load_cert_chain(pair)
    return made


def tell(connection: ssl.SSLSocket) -> None:
    peer = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
    names = peer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    met = names.get_values_for_type(x509.UniformResourceIdentifier)
    print(json.dumps({"met": met, "serial": f"{peer.serial_number:x}"}), flush=True)


def serve(source: X509Source) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            accepted, _ = listener.accept()
            try:
                with context(source, server=True).wrap_socket(accepted, server_side=True) as connection:
                    tell(connection)
                    connection.sendall(b"hello")
            except OSError as error:  # ssl.SSLError is one
                print(json.dumps({"refused": type(error).__name__}), flush=True)


def call(source: X509Source, port: int) -> None:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context(source, server=False).wrap_socket(plain) as connection,
    ):
        assert connection.recv(5) == b"hello"
        tell(connection)


def main() -> None:
    with X509Source(timeout_in_seconds=20) as source:
        if sys.argv[1] == "serve":
            serve(source)
        else:
            call(source, int(sys.argv[2]))


if __name__ == "__main__":
    main()
