"""The API server of the cluster that this process runs in, as every pod can find it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.errors import UsageError
from meshpki.kube.access import Access
from meshpki.kube.credentials import NamedFile, TokenFile

if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECTORY: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def load(environment: Mapping[str, str] | None = None, directory: Path = DIRECTORY) -> Access:
    """Read host and port from the environment, the roots from the mounted service account.

    The token rotates: it is read at the first request, and again. Raises UsageError when this is no pod,
    KubeCredentialError when the mounted roots cannot be read.
    """
    environment = os.environ if environment is None else environment
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port.isdecimal():
        raise UsageError(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this process runs in no pod",
            wanted="a process in a pod of the cluster",
            todo="name a kubeconfig instead",
        )
    roots = NamedFile(directory / "ca.crt")
    return Access(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca_pem=roots.read(),
        credential=TokenFile(NamedFile(directory / "token")),
        where="the cluster this pod runs in",
        ca_file=roots,
    )
