"""TLS as we speak it to an API server: its roots, our certificate, nothing older than 1.2, no key on any disk."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from meshpki.errors import UsageError
from meshpki.kube.errors import KubeCredentialError

if TYPE_CHECKING:
    from meshpki.kube.authenticator import KeyPair


def context(ca_pem: bytes | None, pair: KeyPair | None, where: str) -> ssl.SSLContext:
    """Make the context for one server. Raises UsageError for broken roots, KubeCredentialError for a broken pair."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_pem is None:
        made.load_default_certs()
    else:
        _load_roots(made, ca_pem, where)
    if pair is not None:
        _load_pair(made, pair, where)
    return made


def _load_roots(made: ssl.SSLContext, ca_pem: bytes, where: str) -> None:
    try:
        made.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(
            f"the certificate authority of {where} cannot be read",
            wanted="PEM certificates",
            todo="fetch the kubeconfig again",
        ) from error


def _load_pair(made: ssl.SSLContext, pair: KeyPair, where: str) -> None:
    """Python's ssl takes keys from files only: this one lives in memory and has no name in any file system."""
    descriptor = os.memfd_create("client-key")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(pair.certificate.rstrip() + b"\n" + pair.key)
        # Without a password OpenSSL would ask for one at the terminal.
        made.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    except (ssl.SSLError, OSError, ValueError):
        pass  # raised outside: nothing of the key may hang on the error
    else:
        return
    finally:
        os.close(descriptor)
    raise KubeCredentialError(
        f"the client certificate of {where} cannot be used",
        wanted="PEM of a certificate and of its own key, not encrypted",
        todo="log in again, or fetch the kubeconfig again",
    )
