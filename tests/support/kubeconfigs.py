"""Kubeconfigs for tests: a good one, and the same with one thing other."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.kube.api_server import ApiServer

SECRET = "canary-5f1e0c37-secret"
"""Stands wherever a kubeconfig has a secret; no message, repr or log may ever show it."""
CA_PEM = """-----BEGIN CERTIFICATE-----
MIIBNzCB3qADAgECAgEBMAoGCCqGSM49BAMCMBoxGDAWBgNVBAMMD2Egcm9vdCBv
ZiB0ZXN0czAgFw0yNjAxMDEwMDAwMDBaGA8yMTI2MDEwMTAwMDAwMFowGjEYMBYG
A1UEAwwPYSByb290IG9mIHRlc3RzMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
RFBulydGSAMa8G7A03/qNU4gLYO6LE3kwbEIZ5zec2vXEBm7BAT2FHcOsxizjEM6
od2DHxF8kiOjCg4zrHpeZqMTMBEwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQD
AgNIADBFAiEAu5id/hP18PLBd2WzlCs7pZ6GTzyNr8pi1aX1ZO0h5WACIG9hjNzK
060X5l6MyIG6XABzBDLLuYEfbQ32JxAeY05U
-----END CERTIFICATE-----
"""
"""A root whose key nobody has."""


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def expired(server: ApiServer, directory: Path, kind: str) -> Path:
    """The administrator's way to a real server, with a "certificate" or a "token" that was good until lately."""
    config = json.loads(server.kubeconfig("late", user="late").read_text())
    user = config["users"][0]["user"]
    if kind == "certificate":
        pair = server.client_certificate("late")
        late = server.cluster.authority.expired(pair.certificate.read_bytes())
        user["client-certificate-data"] = encoded(late)
    else:
        user.clear()
        user["token"] = ".".join(
            base64.urlsafe_b64encode(part).rstrip(b"=").decode()
            for part in (b'{"alg":"RS256"}', b'{"exp":1700000000,"iss":"https://idp.test"}', b"signed")
        )
    return write(directory / f"expired-{kind}", config)


def document(
    *,
    cluster: Mapping[str, object] | None = None,
    user: Mapping[str, object] | None = None,
    context: Mapping[str, object] | None = None,
    **whole: object,
) -> dict[str, object]:
    """A good kubeconfig; the arguments are merged into its parts, None takes a key away."""
    good: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "prod",
        "preferences": {},
        "clusters": [_named("c1", "cluster", {"server": "https://10.0.0.1:6443", **_CA}, cluster)],
        "users": [_named("u1", "user", {"token": SECRET}, user)],
        "contexts": [_named("prod", "context", {"cluster": "c1", "user": "u1"}, context)],
    }
    return _merged(good, whole)


_CA = {"certificate-authority-data": encoded(CA_PEM)}


def _named(name: str, kind: str, good: dict[str, object], changes: Mapping[str, object] | None) -> dict[str, object]:
    return {"name": name, kind: _merged(good, changes or {})}


def _merged(good: dict[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    merged = copy.deepcopy(good) | dict(changes)
    return {key: value for key, value in merged.items() if value is not None}


def write(path: Path, content: Mapping[str, object] | str | bytes) -> Path:
    data = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path
