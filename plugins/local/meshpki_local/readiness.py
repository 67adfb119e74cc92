"""Whether the CA serves: its own word at /readyz."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshpki_local.ports import Ports

_TIMEOUT = 0.5


def is_ready(ports: Ports) -> bool:
    """Ask /readyz once, for at most half a second. Whatever is no 200 is a no."""
    connection = http.client.HTTPConnection(ports.http_address, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
