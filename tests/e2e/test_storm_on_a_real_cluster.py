"""Thousands of distinct tokens at once, of a CA as it is shipped, while its API server is killed and started again."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from meshpki.ca.config_clusters import Authentication
from support.authority import make_authority, make_csr
from support.ca_server import CallFailedError, CaProcess
from support.many_tokens import Signer
from support.reviewed_clusters import settings
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from support.kube.pool import ApiServerPool

TOKENS = 2000
CALLERS = 48
"""More than the CA has threads; their calls share one connection, as those behind a proxy do."""
BEFORE = 500
REFUSED = 300
"""Refused calls that a connection has to bear: HTTP/2 peers allow each other 100 to 128 streams at once."""
AFTER = 500
BOUND_SECONDS = 120.0
PAUSE_SECONDS = 0.05
CATCHES_UP = 0.05
"""Which part of so many calls may still be told to try again when all is well; on a busy machine that takes a while."""


class Storm:
    """So many callers; each takes a token and asks until it has a certificate, as agents do."""

    def __init__(self, ca: CaProcess, tokens: Iterator[bytes], allowed: set[str]) -> None:
        self._ca = ca
        self._allowed = allowed
        self._made = tokens
        self._csr = make_csr()
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._calls: list[Future[None]] = []
        self.last = threading.Event()
        """Set: whoever has a certificate takes no other token."""
        self.ends: list[tuple[float, str]] = []
        """Of each call: when it began, and `issued` or the reason."""
        self.tokens = self.issued = 0

    def count(self, end: str, since: float = 0.0) -> int:
        return sum(found == end and began >= since for began, found in list(self.ends))

    def call(self) -> None:
        """One caller."""
        while not self.last.is_set():
            with self._lock:
                token = next(self._made)
                self.tokens += 1
            while not self._served(token) and not self._given_up.wait(PAUSE_SECONDS):
                pass

    def _served(self, token: bytes) -> bool:
        began, end = time.monotonic(), "issued"
        try:
            self._ca.client.sign(token, self._csr)
        except CallFailedError as error:
            end = error.reason if error.code.name == "UNAVAILABLE" else f"{error.code.name} {error.reason}"
        with self._lock:
            self.ends.append((began, end))
            self.issued += end == "issued"
        return end == "issued"

    def is_over(self) -> bool:
        last = [end for _, end in self.ends[-AFTER:]]
        return len(last) - last.count("issued") <= CATCHES_UP * AFTER

    @contextmanager
    def raging(self) -> Iterator[None]:
        with ThreadPoolExecutor(CALLERS) as pool:
            self._calls = [pool.submit(self.call) for _ in range(CALLERS)]
            try:
                yield
                self.last.set()
                self.until(lambda: all(call.done() for call in self._calls))
            finally:
                self.last.set()
                self._given_up.set()
        for call in self._calls:
            call.result()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it; fail at once when a call ends as none may."""
        deadline, waiting = time.monotonic() + BOUND_SECONDS, threading.Event()
        while not condition():
            said = Counter(end for _, end in self.ends[-100:])
            assert set(said) <= self._allowed, said
            assert time.monotonic() < deadline, said
            waiting.wait(0.02)


@pytest.mark.xdist_group("kube-137")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", Authentication)
def test_an_api_server_killed_and_started_again_in_a_storm(
    api_server: ApiServerPool, tmp_path: Path, how: Authentication
) -> None:
    """In between only UNAVAILABLE; afterwards every token gets its certificate, of the same process and connection.

    Whoever goes by keys alone notices nothing.
    """
    server = api_server()
    asks = how is not Authentication.JWKS
    allowed = {"issued", "review_unavailable", "review_busy"} if asks else {"issued"}
    ca = CaProcess(tmp_path, make_authority(), TokenMaker(), clusters=[settings(server, how, tmp_path)])
    storm = Storm(ca, Signer(server).tokens(), allowed)
    try:
        storm.until(lambda: ca.http("/readyz")[0] == 200)
        with storm.raging():
            storm.until(lambda: storm.issued >= BEFORE)
            server.kill()
            killed, issued = time.monotonic(), storm.issued
            if asks:
                storm.until(lambda: storm.count("review_unavailable", killed) >= REFUSED)
            else:
                storm.until(lambda: storm.issued >= issued + AFTER)
            down = time.monotonic()
            server.start()
            storm.until(lambda: storm.count("issued", down) > 0)
            healed = time.monotonic()
            storm.until(lambda: storm.count("issued", healed) >= AFTER and storm.issued >= TOKENS)
            storm.until(storm.is_over)
        assert {end for _, end in storm.ends} <= allowed
        while_down = {end for began, end in storm.ends if killed < began < down}
        assert ("review_unavailable" if asks else "issued") in while_down
        assert ("issued" in while_down) is not asks
        assert storm.issued == storm.tokens >= TOKENS
        assert ca.process.poll() is None
    finally:
        assert ca.end(signal.SIGTERM) == 0
