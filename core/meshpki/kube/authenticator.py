"""What to present to the API server now: the credential, read again as it rotates."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from meshpki.errors import UsageError
from meshpki.kube.credentials import ClientCertificate, ExecPlugin, NamedFile, TokenFile, TokenText
from meshpki.kube.errors import KubeCredentialError
from meshpki.kube.kubeconfig_user import token_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.kube.access import Access

logger = logging.getLogger(__name__)
LOOK_SECONDS: Final = 1.0
"""Files are read again at most this often, and at once after a 401."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A client certificate (with those above it) and its key, PEM."""

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Presented:
    """A bearer token, or a client certificate, or both."""

    token: str = field(default="", repr=False)
    pair: KeyPair | None = None


class Authenticator:
    """Keeps what is presented fresh. Safe for many threads: one reads or runs, the others wait for it."""

    def __init__(self, access: Access, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._access = access
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Presented | None = None
        self._read_at = 0.0
        self._failure = ""

    def presented(self) -> Presented:
        """What is presented now. Raises KubeCredentialError while there is none."""
        with self._lock:
            if self._last is None or self._clock() - self._read_at >= LOOK_SECONDS:
                self._last = self._refreshed()
            return self._last

    def renewed(self, refused: Presented) -> bool:
        """Read anew after a 401; true if there is now something else to present than what was `refused`."""
        with self._lock:
            if self._last == refused:
                self._last = self._refreshed()
            return self._last != refused

    def _refreshed(self) -> Presented:
        try:
            presented = self._read()
        except KubeCredentialError as error:
            if self._last is None:
                raise
            if str(error) != self._failure:
                logger.warning("the credential is kept as it was", extra={"why": str(error)})
            self._failure = str(error)
            presented = self._last
        else:
            self._failure = ""
        self._read_at = self._clock()
        return presented

    def _read(self) -> Presented:
        match self._access.credential:
            case TokenText(token):
                return Presented(token=token)
            case TokenFile(file):
                return Presented(token=_token(file))
            case ClientCertificate(certificate, key):
                return Presented(pair=KeyPair(_bytes(certificate), _bytes(key)))
            case ExecPlugin():
                raise KubeCredentialError("exec plugins come soon")


def _token(file: NamedFile) -> str:
    try:
        return token_text(file.read().decode("ascii").strip(), f"the token in {file.path}")
    except UnicodeDecodeError:
        pass  # raised outside: the decoder's error holds the whole file
    except UsageError as error:
        raise KubeCredentialError(error.seen, wanted=error.wanted) from None
    raise KubeCredentialError(f"{file.path} is no token", wanted="one token and nothing else")


def _bytes(source: bytes | NamedFile) -> bytes:
    return source.read() if isinstance(source, NamedFile) else source
