"""From what went wrong below HTTP to one sentence: who did not answer, why, and what to look at."""

from __future__ import annotations

import errno
import os
import re
import ssl
from typing import TYPE_CHECKING, Final

from urllib3 import exceptions as broken

from meshpki.kube.errors import KubeUnreachableError, Unreachable

if TYPE_CHECKING:
    from meshpki.kube.access import Access

_EXPIRED, _NOT_YET = 10, 9
_NAME_CODES: Final = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})
_CLIENT_ALERT: Final = re.compile(r"ALERT_.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)|CERTIFICATE_REQUIRED")
_SAYS: Final = {
    Unreachable.NAME: ("its name is not known", "check the server's name in the kubeconfig, and this machine's DNS"),
    Unreachable.REFUSED: ("nothing listens there", "check that the API server runs, and its address and port"),
    Unreachable.TIMEOUT: ("", "check the network between here and there: firewalls, VPN, routes"),
    Unreachable.TLS_CA: (
        "its certificate is by an authority that was not named to us",
        "fetch the kubeconfig again; if it is new, somebody else may answer at that address",
    ),
    Unreachable.TLS_NAME: (
        "its certificate is for another name",
        "use a name that is in the certificate, or set tls-server-name in the kubeconfig",
    ),
    Unreachable.TLS_TIME: (
        "its certificate is expired or not valid yet",
        "renew the API server's certificate (kubeadm certs renew), or set this machine's clock",
    ),
    Unreachable.TLS_CLIENT: ("it does not take our client certificate", "log in again, or fetch the kubeconfig again"),
    Unreachable.NO_TLS: ("what answers there speaks no TLS", "check the port: the API server's is 6443 or 443"),
    Unreachable.CUT: ("the connection was cut", "try again; look at the API server's log, and at what is in between"),
    Unreachable.OTHER: ("the connection failed", "check the network between here and there"),
}


def explain(error: Exception, access: Access) -> KubeUnreachableError:
    """Say what an error of urllib3 or of the operating system means for the way to `access`."""
    why = classify(error)
    sentence, todo = _SAYS[why]
    if why in {Unreachable.NAME, Unreachable.REFUSED, Unreachable.TIMEOUT} and _proxied():
        todo += "; HTTPS_PROXY is set, but proxies are not used"
    detail = "" if why is Unreachable.TIMEOUT else _detail(error)
    seen = f"no answer from {access}: {sentence}" if sentence else f"no answer in time from {access}"
    return KubeUnreachableError(seen + (f" ({detail})" if detail else ""), why=why, todo=todo)


def classify(error: BaseException) -> Unreachable:
    """Tell which kind of failure it was."""
    if isinstance(error, TimeoutError):  # our own deadline: what it broke does not matter
        return Unreachable.TIMEOUT
    for cause in _chain(error):
        found = _kind(cause)
        if found is not None:
            return found
    return Unreachable.OTHER


def _kind(error: BaseException) -> Unreachable | None:
    match error:
        case ssl.SSLCertVerificationError():
            return _certificate(error.verify_code)
        case ssl.SSLError():
            return _handshake(error)
        case broken.NameResolutionError():
            return Unreachable.NAME
        case broken.NewConnectionError():  # a TimeoutError by its class; what it was made of says more
            return None
        case broken.TimeoutError() | TimeoutError():
            return Unreachable.TIMEOUT
        case ConnectionRefusedError():
            return Unreachable.REFUSED
        case ConnectionResetError() | BrokenPipeError() | broken.ProtocolError():
            return Unreachable.CUT
        case OSError(errno=errno.ETIMEDOUT):
            return Unreachable.TIMEOUT
    return None


def _certificate(code: int) -> Unreachable:
    if code in {_EXPIRED, _NOT_YET}:
        return Unreachable.TLS_TIME
    return Unreachable.TLS_NAME if code in _NAME_CODES else Unreachable.TLS_CA


def _handshake(error: ssl.SSLError) -> Unreachable | None:
    reason = error.reason or ""
    if reason in _NO_TLS:
        return Unreachable.NO_TLS
    if _CLIENT_ALERT.search(reason):
        return Unreachable.TLS_CLIENT
    return Unreachable.CUT if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) else None


def _chain(error: BaseException) -> list[BaseException]:
    """The error, what it was made of and what it came from, innermost first: urllib3 wraps in all these ways."""
    seen: list[BaseException] = []
    todo: list[object] = [error]
    while todo and len(seen) < 16:
        item = todo.pop(0)
        if isinstance(item, BaseException) and item not in seen:
            seen.append(item)
            todo += [*item.args, item.__cause__, item.__context__]
    return seen[::-1]


def _detail(error: BaseException) -> str:
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return str(cause.verify_message)[:120]
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return cause.reason[:120]
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror[:120]
    return ""


def _proxied() -> bool:
    return any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
