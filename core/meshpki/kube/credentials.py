"""By what we are known to an API server. None of these shows a secret when printed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from meshpki.errors import MachineError
from meshpki.kube.errors import KubeCredentialError
from meshpki.runtime.files import read_capped

MAX_FILE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a user named, or that a kubeconfig named and that must then lie below `within`."""

    path: Path
    within: tuple[Path, ...] = ()
    """Empty: wherever it is, the user named it himself."""

    def read(self) -> bytes:
        """Read it again: such files rotate. Raises KubeCredentialError.

        What it is a link to counts, and counts at every reading.
        """
        try:
            real = self.path.resolve(strict=True) if self.within else self.path
            if self.within and not any(real.is_relative_to(root.resolve()) for root in self.within):
                raise KubeCredentialError(
                    f"the kubeconfig names {self.path}" + (f", which is {real}" if real != self.path else ""),
                    wanted=f"files below {' or '.join(map(str, self.within))}, so that nobody's kubeconfig can send "
                    "another's credential",
                    todo="move the file beside the kubeconfig, or embed it: kubectl config view --raw --flatten",
                )
            return read_capped(real, limit=MAX_FILE_BYTES)
        except MachineError as error:
            raise KubeCredentialError(error.seen, wanted=error.wanted, todo=error.todo) from error
        except (OSError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise KubeCredentialError(f"could not read {self.path}: {why}", todo="check the path") from error


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token that stands in the kubeconfig itself."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A token in a file, which is read again as it rotates."""

    file: NamedFile


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate and its key: PEM that stands in the kubeconfig, or files."""

    certificate: bytes | NamedFile = field(repr=False)
    key: bytes | NamedFile = field(repr=False)


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """A program that prints a credential (client.authentication.k8s.io, v1 and v1beta1)."""

    command: Path
    """Absolute, and allowed by the user."""
    api_version: str
    arguments: tuple[str, ...] = field(default=(), repr=False)
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    provide_cluster_info: bool = False


Credential: TypeAlias = TokenText | TokenFile | ClientCertificate | ExecPlugin
