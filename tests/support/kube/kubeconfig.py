"""kubeconfig files for tests."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from support.kube.authority import KeyPair


def write(path: Path, server: str, ca_file: Path, *, token: str | None = None, client: KeyPair | None = None) -> Path:
    """One cluster, one user, one context, all of the file's own name; files are embedded. JSON is YAML."""
    name = path.stem
    user: dict[str, object] = {}
    if token is not None:
        user["token"] = token
    if client is not None:
        user |= {"client-certificate-data": _embedded(client.certificate), "client-key-data": _embedded(client.key)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": _embedded(ca_file)}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=1))
    return path


def _embedded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
