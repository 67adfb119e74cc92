"""The command line of an API server: what every age needs, what one age needs, what a test wants instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from support.kube_assets.releases import Release

DEFAULT_ISSUER = "https://kubernetes.default.svc.cluster.local"
"""What kubeadm sets: not unique, and the reason why an issuer alone names no cluster."""


@dataclass(frozen=True, slots=True)
class Files:
    """What the server reads."""

    ca: Path
    certificate: Path
    key: Path
    tokens: Path
    account_public_key: Path
    account_private_key: Path
    work: Path


def command_line(
    release: Release, port: int, etcd: str, files: Files, issuers: Sequence[str], extra: Iterable[str]
) -> list[str]:
    """All flags. One that is named in `extra` is the test's own: ours of that name are left out.

    The first of `issuers` signs. None at all: a server without TokenRequest, as 1.13 is by default (later ages refuse).
    """
    wanted = list(extra)
    names = {_name(flag) for flag in wanted}
    ours = [*_common(port, etcd, files), *_of_age(release), *_token_request(files, issuers)]
    return [flag for flag in ours if _name(flag) not in names] + wanted


def _name(flag: str) -> str:
    return flag.partition("=")[0]


def _common(port: int, etcd: str, files: Files) -> list[str]:
    return [
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={files.work}",
        f"--tls-cert-file={files.certificate}",
        f"--tls-private-key-file={files.key}",
        f"--client-ca-file={files.ca}",
        f"--token-auth-file={files.tokens}",
        f"--service-account-key-file={files.account_public_key}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--endpoint-reconciler-type=none",  # three servers on one address would take the endpoint from each other
        "--profiling=false",
    ]


def _of_age(release: Release) -> list[str]:
    if release.minor < 20:
        return ["--insecure-port=0"]  # else it also serves 8080, without asking who comes
    return []


def _token_request(files: Files, issuers: Sequence[str]) -> list[str]:
    if not issuers:
        return []
    return [
        *(f"--service-account-issuer={issuer}" for issuer in issuers),
        f"--service-account-signing-key-file={files.account_private_key}",
        # As Istio asks of a 1.13, and what later ages take by default.
        f"--api-audiences={','.join(issuers)}",
    ]
