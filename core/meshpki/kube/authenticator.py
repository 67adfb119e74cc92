"""What to present to the API server now: the credential, read again as it rotates."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from meshpki.errors import UsageError
from meshpki.kube import exec_plugin
from meshpki.kube.credentials import ClientCertificate, ExecPlugin, NamedFile, TokenFile, TokenText
from meshpki.kube.errors import KubeCredentialError
from meshpki.kube.kubeconfig_user import token_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.kube.access import Access

logger = logging.getLogger(__name__)
LOOK_SECONDS: Final = 1.0
"""Files are read again at most this often, and at once after a 401."""
_EARLY_SECONDS: Final = 10.0
_PLUGIN_PAUSE_SECONDS: Final = 10.0


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

    def __init__(
        self,
        access: Access,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives epoch seconds: plugins say in them until when a credential is good."""
        self._access = access
        self._monotonic = monotonic
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Presented | None = None
        self._looked_at = 0.0
        self._expires_at: float | None = None
        self._failure: KubeCredentialError | None = None

    def presented(self) -> Presented:
        """What is presented now. Raises KubeCredentialError while there is none."""
        with self._lock:
            if self._last is None or self._is_due():
                self._last = self._refreshed()
            return self._last

    def renewed(self, refused: Presented) -> bool:
        """Read anew after a 401; true if there is now something else to present than what was `refused`.

        A plugin is not run again for every request that a server refuses.
        """
        with self._lock:
            if self._last == refused and not (self._is_plugin() and self._lately()):
                self._last = self._refreshed()
            return self._last != refused

    def _is_plugin(self) -> bool:
        return isinstance(self._access.credential, ExecPlugin)

    def _is_due(self) -> bool:
        if self._is_plugin():
            return self._expires_at is not None and self._clock() >= self._expires_at - _EARLY_SECONDS
        return self._monotonic() - self._looked_at >= LOOK_SECONDS

    def _refreshed(self) -> Presented:
        """Read or run; what was good is kept when that fails, as long as it has not expired."""
        if self._failure is not None and self._is_plugin() and self._lately():
            return self._kept(self._failure)
        try:
            presented, self._failure = self._read(), None
        except KubeCredentialError as error:
            if self._failure is None or str(error) != str(self._failure):
                logger.warning("no fresh credential", extra={"why": str(error)})
            self._failure = error
            return self._kept(error)
        finally:
            self._looked_at = self._monotonic()
        return presented

    def _kept(self, error: KubeCredentialError) -> Presented:
        expired = self._expires_at is not None and self._clock() >= self._expires_at
        if self._last is None or expired:
            raise KubeCredentialError(error.seen, wanted=error.wanted, todo=error.todo) from error
        return self._last

    def _lately(self) -> bool:
        return self._monotonic() - self._looked_at < _PLUGIN_PAUSE_SECONDS

    def _read(self) -> Presented:
        match self._access.credential:
            case TokenText(token):
                return Presented(token=token)
            case TokenFile(file):
                return Presented(token=_token(file))
            case ClientCertificate(certificate, key):
                return Presented(pair=KeyPair(_bytes(certificate), _bytes(key)))
            case ExecPlugin() as plugin:
                return self._run(plugin)

    def _run(self, plugin: ExecPlugin) -> Presented:
        answer = exec_plugin.run(plugin, self._access)
        if answer.expires_at is not None and answer.expires_at <= self._clock():
            raise KubeCredentialError(
                f"{plugin.command} gave a credential that is expired already",
                todo="log in again with that tool, or set this machine's clock",
            )
        self._expires_at = answer.expires_at
        pair = KeyPair(answer.certificate, answer.key) if answer.certificate else None
        return Presented(answer.token, pair)


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
