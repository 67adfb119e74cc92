"""Requests through the calling sidecar: one at a time, or without a pause while something else goes on."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from meshpki.errors import UnavailableError
from meshpki_demo.app import XFCC

if TYPE_CHECKING:
    from types import TracebackType

    from meshpki_demo.bootstrap import Address

HTTP_OK: Final = 200
TIMEOUT_SECONDS: Final = 40.0
"""Longer than Envoy's own: what it has to say of a request that fails is heard."""
PAUSE_SECONDS: Final = 0.005
KEPT_FAILURES: Final = 5


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request brought back: who each side proved to be, and with which certificate."""

    caller: str
    """SPIFFE ID of the caller, as the answering sidecar verified it."""
    server: str
    """SPIFFE ID of the server, as the calling sidecar verified it."""
    caller_serial: str
    """Serial number (hex) of the caller's certificate."""
    tls: str
    xfcc: str


def ask(sidecar: Address) -> Reply:
    """Send one request through the calling sidecar. Raises UnavailableError when it brings no good answer."""
    connection = http.client.HTTPConnection(sidecar.host, sidecar.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"no answer through {sidecar}: {error!r}") from error
    finally:
        connection.close()
    if response.status != HTTP_OK:
        raise UnavailableError(f"status {response.status} through {sidecar}: {body[:200].decode(errors='replace')}")
    told: dict[str, str] = json.loads(body)
    return Reply(
        caller=told["x-peer-uri"],
        server=response.headers.get("x-upstream-uri", ""),
        caller_serial=told["x-peer-serial"].lstrip("0"),
        tls=told["x-tls-version"],
        xfcc=told[XFCC],
    )


@dataclass(slots=True)
class Tally:
    """What has come back so far. `serials` maps each serial number of the caller to its number of requests."""

    sent: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    serials: dict[str, int] = field(default_factory=dict)
    """In the order in which they were first seen."""


class Traffic:
    """Requests one after another from a thread, with hardly a pause, until the `with` block ends."""

    def __init__(self, sidecar: Address) -> None:
        self.tally = Tally()
        self._sidecar = sidecar
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._once()
            self._stop.wait(PAUSE_SECONDS)

    def _once(self) -> None:
        tally = self.tally
        try:
            serial = ask(self._sidecar).caller_serial
        except UnavailableError as error:
            tally.failed += 1
            if len(tally.failures) < KEPT_FAILURES:
                tally.failures.append(str(error))
        else:
            tally.serials[serial] = tally.serials.get(serial, 0) + 1
        tally.sent += 1

    def wait_sent(self, more: int, seconds: float = 60.0) -> None:
        """Return when `more` further requests have been sent. Raises UnavailableError when that takes too long."""
        goal, end = self.tally.sent + more, time.monotonic() + seconds
        while self.tally.sent < goal:
            if time.monotonic() > end:
                raise UnavailableError(f"fewer than {more} requests in {seconds:.0f} s")
            time.sleep(PAUSE_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
