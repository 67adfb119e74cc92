"""Whom to talk to, whose certificate to believe, and by which credential: one value, without a secret in its repr."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from meshpki.errors import UsageError
from meshpki.kube.credentials import NamedFile, TokenFile

if TYPE_CHECKING:
    from meshpki.kube.credentials import Credential

_HOST: Final = re.compile(r"[A-Za-z0-9_.:-]{1,253}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Access:
    """The way to one API server. Raises UsageError for what is no https address or no PEM."""

    server: str
    """https://HOST[:PORT][/PREFIX], without a slash at the end."""
    ca_pem: bytes | None = field(repr=False)
    """PEM roots that sign the server's certificate; None: those of the system."""
    credential: Credential
    tls_server_name: str = ""
    """The name to find in the server's certificate instead of the host's."""
    where: str = ""
    """What named all this, for messages: `context prod of ~/.kube/config`."""
    context: str = ""
    """The name of the kubeconfig's context; empty when there is none."""
    kubeconfig: str = ""
    """The kubeconfig, or all that were put together, with colons between them."""
    ca_file: NamedFile | None = None
    """Where `ca_pem` came from; read again when the server's certificate does not fit any more."""

    def __post_init__(self) -> None:
        """Check what can be checked without the network."""
        object.__setattr__(self, "server", https_address(self.server, self.where))
        if self.ca_pem is not None:
            _check_roots(self.ca_pem, self.where or self.server)

    def __str__(self) -> str:
        return f"{self.server} ({self.where})" if self.where else self.server


def _check_roots(pem: bytes, where: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(
            f"the certificate authority of {where} is no PEM of certificates",
            wanted="the roots that sign the API server's certificate",
            todo="fetch the kubeconfig again",
        ) from error


def https_address(url: str, where: str) -> str:
    """Check an API server's address, and strip the slash at its end. Raises UsageError."""
    shown = ascii(url[:200])
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{where} names the server {shown}", wanted="https://HOST[:PORT]") from error
    if parts.scheme == "http":
        raise UsageError(
            f"{where} names the server {shown}, without TLS",
            wanted="an https address: over http anybody on the way reads the credential",
            todo="use the https address of the API server; `kubectl proxy` is no substitute",
        )
    plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    if parts.scheme != "https" or not _HOST.fullmatch(parts.hostname or "") or not plain:
        raise UsageError(f"{where} names the server {shown}", wanted="https://HOST[:PORT]")
    if "@" in parts.netloc:
        raise UsageError(f"{where} names a server with a user in its address", wanted="https://HOST[:PORT]")
    if parts.query or parts.fragment or ".." in parts.path.split("/"):
        raise UsageError(f"{where} names the server {shown}", wanted="https://HOST[:PORT][/PREFIX] and no more")
    return url.rstrip("/")


def explicit(url: str, ca_file: Path, token_file: Path) -> Access:
    """An API server named piece by piece, as in a configuration file. Raises UsageError, KubeCredentialError.

    The token file is read at the first request, and again as it rotates.
    """
    roots = NamedFile(ca_file)
    return Access(
        server=url,
        ca_pem=roots.read(),
        credential=TokenFile(NamedFile(token_file)),
        where=f"the API server {url[:200]!a}",
        ca_file=roots,
    )
