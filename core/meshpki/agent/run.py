"""One workload's agent as a process: the rotation core, fed with time, the token file and the CA's answers."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from typing import TYPE_CHECKING, Final, Literal

from meshpki.agent import rotation, status, token_file
from meshpki.agent.acceptance import accept, check_same_identity
from meshpki.agent.ca_client import CaClient
from meshpki.agent.faces import Faces
from meshpki.agent.key_request import new_key_request
from meshpki.agent.reporting import failure_of, report
from meshpki.errors import ExitCode, MachineError
from meshpki.hooks import Health
from meshpki.runtime.files import machine_errors, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.agent.config import AgentConfig

log = logging.getLogger(__name__)

LONGEST_SLEEP_SECONDS: Final = 30.0
"""A sleeping machine and a stepped clock are noticed this soon; timers know nothing of either."""
TOKEN_POLL_SECONDS: Final = 0.5
"""How often the token file is looked at (one stat) while a new token would help, and only then."""


def run_agent(config: AgentConfig) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    Raises MachineError when a face cannot be shown at all. Everything else is waited out.
    """
    return asyncio.run(_run(config))


async def _run(config: AgentConfig) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await Agent(config).run(stopping)
    return ExitCode.DONE


class Agent:
    """The shell around the rotation core. `clock` gives epoch seconds, `chance` numbers in [0, 1)."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._clock = clock
        self._chance = chance
        self._faces = Faces(config.sds_socket, config.files)
        self._ca = CaClient(
            config.ca_address, config.ca_server_name, config.ca_roots, config.cluster, config.call_seconds
        )
        self._state = rotation.start(clock())
        self._attempt: asyncio.Task[rotation.Event] | None = None
        self._token_seen: token_file.Fingerprint | None = None
        self._health = rotation.health(self._state, clock())
        self._status_written = b""

    async def run(self, stopping: asyncio.Event) -> None:
        """Rotate until `stopping` is set, then take the faces away. Raises MachineError at the start only."""
        self._prepare()
        stop = asyncio.create_task(stopping.wait())
        try:
            event: rotation.Event = rotation.Tick()
            while not stop.done():
                await self._advance(event)
                event = await self._next_event(stop)
        finally:
            log.info("stopping")
            stop.cancel()
            if self._attempt is not None:
                self._attempt.cancel()
                await asyncio.gather(self._attempt, return_exceptions=True)
            await self._faces.stop()

    def _prepare(self) -> None:
        self._faces.prepare()
        if self._config.status_file is not None:  # what an earlier run wrote is no longer true
            with machine_errors("could not remove", self._config.status_file):
                self._config.status_file.unlink(missing_ok=True)

    async def _advance(self, event: rotation.Event) -> None:
        now = self._clock()
        self._state, actions = rotation.advance(self._state, event, now=now, chance=self._chance())
        for action in actions:
            match action:
                case rotation.Ask():
                    self._token_seen = token_file.fingerprint(self._config.token_file)
                    self._attempt = asyncio.create_task(self._ask())
                case rotation.Serve(snapshot):
                    await self._faces.serve(snapshot)
                    log.info(
                        "a new certificate is served",
                        extra={
                            "spiffe_id": str(snapshot.spiffe_id),
                            "serial": f"{snapshot.serial:x}",
                            "not_after": snapshot.not_after,
                            "renewal_in_seconds": round(self._state.renew_at - now),
                        },
                    )
                case rotation.Report():
                    report(action, rotation.health(self._state, now), now)
        await self._faces.retry()
        self._tell_health(now)
        self._write_status(now)

    def _tell_health(self, now: float) -> None:
        before, self._health = self._health, rotation.health(self._state, now)
        if self._health is not before and self._health is Health.EXPIRED:
            log.error("the certificate has expired, and there is no other: peers refuse it from now on")

    async def _next_event(self, stop: asyncio.Task[Literal[True]]) -> rotation.Event:
        waiting: set[asyncio.Task[Literal[True]] | asyncio.Task[rotation.Event]] = {stop}
        if self._attempt is not None:
            waiting.add(self._attempt)
        await asyncio.wait(waiting, timeout=self._sleep_seconds(), return_when=asyncio.FIRST_COMPLETED)
        if self._attempt is not None and self._attempt.done():
            attempt, self._attempt = self._attempt, None
            return attempt.result()
        if self._waits_for_token() and token_file.fingerprint(self._config.token_file) != self._token_seen:
            return rotation.TokenChanged()
        return rotation.Tick()

    def _waits_for_token(self) -> bool:
        failure = self._state.failure
        return failure is not None and failure.waits_for_token and not self._state.asking

    def _sleep_seconds(self) -> float:
        if self._waits_for_token():
            return TOKEN_POLL_SECONDS
        now = self._clock()
        return max(0.0, min(rotation.next_wake(self._state, now) - now, LONGEST_SLEEP_SECONDS))

    async def _ask(self) -> rotation.Event:
        """Make one attempt. Whatever goes wrong is an event: an agent that serves a certificate does not die."""
        try:
            token = token_file.read_token(self._config.token_file, now=self._clock())
            request = await asyncio.to_thread(new_key_request, self._config.key_type)
            answer = await self._ca.sign(request.csr_pem, token.value, self._config.ttl_seconds)
            snapshot = accept(answer.cert_chain, request, roots_pem=answer.roots_pem, now=self._clock())
            if self._state.snapshot is not None:
                check_same_identity(self._state.snapshot, snapshot)
        except Exception as error:  # noqa: BLE001 - see above; the kinds are told apart there
            return rotation.Failed(failure_of(error))
        return rotation.Obtained(snapshot)

    def _write_status(self, now: float) -> None:
        if self._config.status_file is None or (self._state.snapshot is None and self._state.failure is None):
            return
        content = status.render(self._state, now)
        if content == self._status_written:
            return
        try:
            write_atomically(self._config.status_file, content)
        except MachineError as error:  # a full disk must not stop a renewal; the next change tries again
            log.debug("the status could not be written", extra={"seen": error.seen})
        else:
            self._status_written = content
