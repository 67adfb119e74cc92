"""Pod mode: the agent of one workload as a process, one keeper and the faces that show what it holds."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from meshpki.agent.pod.faces import Faces
from meshpki.agent.process.config import listen_address
from meshpki.agent.process.status_file import StatusFile
from meshpki.agent.process.until_stopped import serve_until_signal, until_stopped
from meshpki.agent.renewal.bundle_report import BundleReporter, held_of
from meshpki.agent.renewal.ca_client import CaClient
from meshpki.agent.renewal.cache_owner import speaks_for, subject_in
from meshpki.agent.renewal.keeper import Keeper, Wish
from meshpki.agent.renewal.ledger import Ledger
from meshpki.agent.renewal.renewing_source import RenewingSource
from meshpki.agent.renewal.roots_file import RootsFile
from meshpki.agent.renewal.token_source import TokenFileSource
from meshpki.agent.rotation import status
from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.files import FileReader, SecretFiles
from meshpki.errors import ExitCode, MachineError
from meshpki.runtime.open_files import allow_all
from meshpki.runtime.watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshpki.agent.files.face import FilesFace
    from meshpki.agent.files.standing import FilesStanding
    from meshpki.agent.process.config import AgentConfig
    from meshpki.agent.process.observe import Observer
    from meshpki.agent.renewal.cache import Cache
    from meshpki.agent.renewal.credential import CredentialSource
    from meshpki.agent.renewal.keeper import Held
    from meshpki.agent.rotation.snapshot import Snapshot

log = logging.getLogger(__name__)

ARM_SECONDS: Final = 0.2
"""Files are watched a moment after the start: by then the CA has been asked, and a cached certificate is served."""


def run_agent(config: AgentConfig) -> int:
    """Serve until SIGTERM, SIGINT or the end of the terminal; returns the exit status.

    Raises MachineError when a face cannot be shown at all. Everything else is waited out.
    """
    agent = Agent(config)
    serve_until_signal(agent.run, agent.look)
    return ExitCode.DONE


class Agent:
    """One workload's agent. `clock` gives epoch seconds, `chance` numbers in [0, 1)."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._clock = clock
        self._feed = Feed()
        self._watcher = Watcher(arm_seconds=ARM_SECONDS)
        self._faces = Faces(
            config.sds_socket,
            _files(config, self._feed, clock),
            self._feed,
            SecretFiles(FileReader(config.secret_files), self._watcher),
            shared_directory=config.shared_socket_directory,
        )
        self._roots = RootsFile(config.ca_roots, self._watcher)
        self._roots.reload()
        self._cache = _cache(config)
        self._ledger = Ledger()
        tokens = self._credentials()
        self._renewing = tokens if isinstance(tokens, RenewingSource) else None
        ca = CaClient(
            config.ca_address,
            config.ca_server_name,
            self._roots,
            config.cluster,
            config.call_seconds,
            config.ca_renewal_address,
        )
        self._keeper = Keeper(
            Wish(config.ttl_seconds, config.key_type),
            authority=ca,
            credentials=tokens,
            feed=self._feed,
            roots=self._roots,
            held=self._held(),
            ledger=self._ledger,
            clock=clock,
            chance=chance,
        )
        self._reporter = BundleReporter(
            ca,
            credentials=self._credentials(quiet=True),
            feed=self._feed,
            held=lambda: held_of(self._keeper.bundle),
            clock=clock,
            chance=chance,
        )
        self._shown: Snapshot | None = None
        self._status = StatusFile(config.status_file) if config.status_file is not None else None

    async def run(self, stopping: asyncio.Event) -> None:
        """Rotate and show until `stopping` is set, then take the faces away. Raises MachineError."""
        self._prepare()
        observer = self._observe()
        try:
            works = (self._keeper.run(), self._roots.run(), self._present(), self._reporter.run(), self._meet_token())
            await until_stopped(stopping, *works)
        finally:
            await self._faces.stop()
            self._watcher.close()
            if observer is not None:
                await asyncio.to_thread(observer.close)

    def look(self) -> None:
        """Look at the files that are followed now, and not only when inotify or the clock says so."""
        self._watcher.look()

    def _held(self) -> Held | None:
        """What an earlier run left, unless it was another workload's."""
        if self._cache is None:
            return None
        return self._cache.load(self._roots.current, self._clock(), subject_in(self._config.token_file))

    async def _meet_token(self) -> None:
        """Look at the first token that comes after a start without one: what is served may be another workload's.

        Raises MachineError then. There is no word for "no longer" on any face but the agent's end; the next run knows.
        """
        resumed = self._feed.current
        if resumed is not None:
            said = await self._first_subject()
            now = self._feed.current or resumed
            if not speaks_for(said, now.spiffe_id):
                raise MachineError(
                    f"what an earlier run left is {now.spiffe_id}'s, and the token that has come is another account's",
                    todo="start the agent again: it asks the CA for its own",
                )
        await asyncio.get_running_loop().create_future()

    async def _first_subject(self) -> str:
        watch = self._watcher.watch(self._config.token_file)
        try:
            while True:
                changed = watch.changes()
                if (said := subject_in(self._config.token_file)) is not None:
                    return said
                await asyncio.wait([changed])
        finally:
            watch.close()

    def _credentials(self, *, quiet: bool = False) -> CredentialSource:
        """A source of its own for whoever asks: each remembers which token it has seen."""
        tokens = TokenFileSource(self._config.token_file, self._watcher)
        return RenewingSource(tokens, quiet=quiet) if self._config.ca_renewal_address else tokens

    def _prepare(self) -> None:
        allow_all()
        self._faces.prepare()
        if self._status is not None:
            self._status.begin()

    def _observe(self) -> Observer | None:
        """Show health and metrics, if it is wanted. Raises MachineError when the port cannot be had."""
        if not self._config.http:
            return None
        from meshpki.agent.process.observe import Observer  # here: the metrics library is not for those who show none

        host, port = listen_address(self._config.http)
        observer = Observer(
            host,
            port,
            statuses=lambda: (self._keeper.status(self._clock()),),
            counts=self._ledger.counts,
            unready=self.unready,
            files=lambda: self._faces.files,
            token_fault=lambda: self._renewing.fault if self._renewing is not None else None,
        )
        log.info("health and metrics are shown", extra={"address": host, "port": observer.port})
        return observer

    def unready(self) -> tuple[str, ...]:
        """Say why no valid certificate is served, on the socket or in the files, a line each; nothing when one is."""
        from meshpki.agent.process.observe import not_serving

        now = self._clock()
        if wrong := not_serving(self._keeper.status(now), now):
            return wrong
        if self._shown is None:
            return ("the certificate is not shown yet",)
        if (files := self._faces.files) is None:
            return ()
        from meshpki.agent.files.standing import not_written

        return not_written(files, now)

    async def _present(self) -> None:
        """Show each new snapshot, keep it, and only then say in the status that it is served."""
        while True:
            stepped = self._keeper.steps()
            snapshot = self._feed.current
            if snapshot is not None and snapshot is not self._shown:
                await self._faces.show(snapshot)
                self._shown = snapshot
            if self._cache is not None and (held := self._keeper.held()) is not None:
                await asyncio.to_thread(self._cache.store, held)
            if self._feed.current is self._shown:
                self._write_status()
                await asyncio.wait([stepped])

    def _write_status(self) -> None:
        state = self._keeper.state
        if self._status is not None and (state.snapshot is not None or state.failure is not None):
            said = {**status.fields(state, self._clock()), **_files_fields(self._faces.files)}
            self._status.write(status.as_json(said))


def _files_fields(standing: FilesStanding | None) -> Mapping[str, object]:
    if standing is None:
        return {}
    from meshpki.agent.files import standing as of_files

    return {"files": of_files.fields(standing)}


# What not every agent has is not loaded by every agent: a start is mostly imports.
def _cache(config: AgentConfig) -> Cache | None:
    if config.cache is None:
        return None
    from meshpki.agent.renewal.cache import Cache

    return Cache(config.cache, " ".join((config.ca_address, config.ca_server_name, config.cluster)))


def _files(config: AgentConfig, feed: Feed, clock: Callable[[], float]) -> FilesFace | None:
    if config.files is None:
        return None
    from meshpki.agent.files.face import FilesFace
    from meshpki.agent.files.set import FileSet
    from meshpki.agent.files.teller import Teller

    notice = config.files_notice
    teller = Teller(notice, config.files) if notice is not None else None
    return FilesFace(FileSet(config.files, config.files_access), feed, teller, clock=clock)
