"""What a credential plugin is told and what it answers (client.authentication.k8s.io, v1 and v1beta1). Pure."""

from __future__ import annotations

import base64
import datetime
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from meshpki.errors import UsageError
from meshpki.kube.answer import mapping_at, text_at
from meshpki.kube.errors import KubeCredentialError
from meshpki.kube.kubeconfig_user import token_text

if TYPE_CHECKING:
    from meshpki.kube.access import Access
    from meshpki.kube.answer import JsonObject
    from meshpki.kube.credentials import ExecPlugin

_PEM: Final = "-----BEGIN "


@dataclass(frozen=True, slots=True)
class ExecCredential:
    """A plugin's answer: a token, or a certificate with its key, or both; until when."""

    token: str = field(default="", repr=False)
    certificate: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    expires_at: float | None = None
    """Epoch seconds; None: until the server says 401."""


def exec_info(plugin: ExecPlugin, access: Access) -> str:
    """The value of KUBERNETES_EXEC_INFO: never interactive, the cluster only if the kubeconfig wants it told."""
    spec: JsonObject = {"interactive": False}
    if plugin.provide_cluster_info:
        cluster: JsonObject = {"server": access.server}
        if access.ca_pem is not None:
            cluster["certificate-authority-data"] = base64.b64encode(access.ca_pem).decode()
        if access.tls_server_name:
            cluster["tls-server-name"] = access.tls_server_name
        spec["cluster"] = cluster
    return json.dumps({"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec})


def read(output: bytes, plugin: ExecPlugin) -> ExecCredential:
    """Read what a plugin printed. Raises KubeCredentialError that shows nothing of it."""
    what = f"what {plugin.command} printed"
    try:
        value = json.loads(output)
    except (ValueError, RecursionError):
        value = None  # raised below: the decoder's error holds the whole text
    if not isinstance(value, dict) or value.get("kind") != "ExecCredential":
        raise KubeCredentialError(f"{what} is no ExecCredential", wanted="one JSON object of that kind, nothing else")
    if value.get("apiVersion") != plugin.api_version:
        raise KubeCredentialError(
            f"{what} is of another apiVersion than the kubeconfig says",
            wanted=plugin.api_version,
            todo="let the tool that wrote the kubeconfig write it again",
        )
    status = mapping_at(value, "status")
    token, certificate, key = (text_at(status, name) for name in ("token", *_PAIR))
    _check(token, certificate, key, what)
    return ExecCredential(token, certificate.encode(), key.encode(), _moment(status, what))


_PAIR: Final = ("clientCertificateData", "clientKeyData")


def _check(token: str, certificate: str, key: str, what: str) -> None:
    if not token and not certificate:
        raise KubeCredentialError(f"{what} has no credential", wanted="a token, or a certificate with its key")
    if bool(certificate) != bool(key):
        raise KubeCredentialError(f"{what} has only one half of a pair", wanted=" and ".join(_PAIR))
    if certificate and not (certificate.startswith(_PEM) and key.startswith(_PEM)):
        raise KubeCredentialError(f"{what} has a certificate that is no PEM", wanted="PEM in " + " and ".join(_PAIR))
    if token:
        try:
            token_text(token, f"the token in {what}")
        except UsageError as error:
            raise KubeCredentialError(error.seen, wanted=error.wanted) from None


def _moment(status: JsonObject, what: str) -> float | None:
    text = status.get("expirationTimestamp")
    if text is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise KubeCredentialError(f"{what} has an expirationTimestamp that is no time", wanted="RFC 3339, with a zone")
    return moment.timestamp()
