"""The releases of Kubernetes that the tests run on, and the cache directory that holds their programs."""

from __future__ import annotations

import os
import platform
from enum import StrEnum
from pathlib import Path
from typing import Final

PROGRAM: Final = "kube-apiserver"
CACHE_VARIABLE: Final = "MESHPKI_KUBE_ASSETS"


class Release(StrEnum):
    """One release per age of service account tokens."""

    FOUNDING = "v1.13.0"
    """The first one whose TokenRequest can be relied on; no OIDC discovery, an empty kid, no jti."""
    MIDDLE = "v1.30.14"
    """Bound tokens are the rule, Secrets are no longer made; the node is in the token behind a gate."""
    MODERN = "v1.37.2"
    """Pod certificates and trust bundles are on by default."""

    @property
    def minor(self) -> int:
        """The number that tells the ages apart."""
        return int(self.split(".")[1])


def cache_directory() -> Path:
    """Where the programs are kept: `$MESHPKI_KUBE_ASSETS`, else below the user's cache directory."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "meshpki" / "kube"


def program(release: Release) -> Path:
    """The place of that release's API server, whether it is there or not."""
    return cache_directory() / release / PROGRAM


def present(release: Release) -> bool:
    """Whether the program is in its place. It is put there whole and tried, or not at all."""
    return os.access(program(release), os.X_OK)


def architecture() -> str:
    """This machine's, as Kubernetes spells it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
