"""`meshpki agent run` as a user starts it, with the project's own CA, while what stands above it goes and comes."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from meshpki.ca.config_clusters import ClusterSettings, JwksSettings
from meshpki.ca.config_values import HostPort
from meshpki.ca.server.ca_server import CaServer
from meshpki.tokens import jwks
from meshpki.tokens.jwks_cache import CachePolicy
from meshpki.tokens.reasons import UnjudgedReason
from support import ca_server, jwks_server
from support.agent_process import AgentFiles
from support.crowd import Numbers, Watch, numbers_in, page, until
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

pytestmark = pytest.mark.e2e


@dataclass
class Cli:
    """The agent's process, and its pages."""

    files: AgentFiles
    address: str
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> Self:
        argv = [sys.executable, "-m", "meshpki_cli", "agent", "run", "--http", "127.0.0.1:0", *self.options]
        argv += ["--ca-address", self.address, "--ca-server-name", ca_server.SERVER_NAME]
        argv += ["--ca-roots", str(self.files.roots), "--token-file", str(self.files.token)]
        argv += ["--sds-socket", str(self.files.socket), "--status-file", str(self.files.status)]
        with self.files.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.files.log.read_text().splitlines() if line.startswith("{")]

    def faults(self) -> list[str]:
        return [f"{line['fault']}/{line['reason']}" for line in self.lines() if "fault" in line]

    @property
    def port(self) -> int:
        shown = [line for line in self.lines() if line["message"] == "health and metrics are shown"]
        return int(str(shown[-1]["port"])) if shown else 0

    def ready(self) -> int:
        return page(self.port, "/readyz")[0] if self.port else 0

    def numbers(self) -> Numbers:
        return numbers_in(page(self.port, "/metrics")[1])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(60) == 0


@pytest.fixture
def files() -> Iterator[AgentFiles]:
    with tempfile.TemporaryDirectory(prefix="mpo-", dir="/tmp") as directory:
        yield AgentFiles(Path(directory))


def put_token(files: AgentFiles, maker: TokenMaker) -> None:
    passing = files.directory / "token.new"
    passing.write_bytes(maker.token(**maker.claims(now=time.time())))
    passing.replace(files.token)


def state(files: AgentFiles) -> str:
    return str(files.read_status().get("state", ""))


def test_the_clusters_keys_away_at_the_start_and_when_it_signs_with_another_one(
    tmp_path: Path, files: AgentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API server that rolls: the CA says that it cannot tell now, never that the token is bad; nobody is refused."""
    patience = functools.partial(CachePolicy, unknown_kid_seconds=0.5, retry_seconds=0.5)
    monkeypatch.setattr(jwks, "CachePolicy", patience)
    first = TokenMaker()
    second = replace(first, kid="the-next-key", slot=1)
    with jwks_server.serving(tmp_path) as keys:
        keys.serve(b"rolling", status=503)
        cluster = ClusterSettings("far", first.issuer, JwksSettings(url=keys.url, ca_file=keys.root))
        with ca_server.running(tmp_path, clusters=(cluster,)) as ca:
            files.roots.write_bytes(ca.authority.root_pem)
            put_token(files, first)
            with Cli(files, ca.server.address, ("--ttl", "30s")) as agent:
                until(agent.faults, "a first failure")
                until(lambda: state(files) == "failed", "the status says so")
                assert agent.ready() == 503
                keys.serve(first.jwks())
                until(lambda: state(files) == "fresh", "fresh")
                with Watch({"agent": files.socket}) as watch:
                    until(lambda: watch.of("agent"), "a look")
                    assert agent.ready() == 200
                    keys.serve(b"rolling", status=503)
                    put_token(files, second)
                    until(lambda: state(files) == "overdue", "overdue")
                    assert agent.ready() == 200
                    assert agent.numbers().of("certificate_state", state="overdue") == 1
                    keys.serve(first.jwks(second))
                    until(lambda: len(watch.serials("agent")) > 1, "renewed")
                    assert watch.gaps("agent") == []
                unjudged = {UnjudgedReason.KEYS, UnjudgedReason.KEY_NOT_SEEN_YET}
                assert set(agent.faults()) <= {f"network/{reason.value}" for reason in unjudged}, "in the CA's own word"
                assert agent.numbers().of("renewal_failures_total", kind="verdict") == 0


def test_a_ca_that_rolls_again_and_again_is_not_noticed(tmp_path: Path, files: AgentFiles) -> None:
    """Each time another process would listen on the same address, with another serving certificate of the same root."""
    with ca_server.running(tmp_path) as ca:
        host, port = ca.server.address.rsplit(":", 1)
        config = replace(ca.config, listen=HostPort(host, int(port)))
        files.roots.write_bytes(ca.authority.root_pem)
        put_token(files, ca.maker)
        with Cli(files, ca.server.address, ("--ttl", "16s")) as agent:
            until(lambda: state(files) == "fresh", "fresh")
            with Watch({"agent": files.socket}) as watch:
                ca.server.stop()
                for roll in range(2, 5):
                    with CaServer(config):
                        until(functools.partial(_has_seen, watch, roll), f"certificate {roll}")
                assert watch.gaps("agent") == []
            assert set(agent.faults()) <= {"network/unavailable"}
            assert agent.ready() == 200


def test_restarted_with_everything_away_it_serves_what_it_had(tmp_path: Path, files: AgentFiles) -> None:
    with ca_server.running(tmp_path) as ca:
        files.roots.write_bytes(ca.authority.root_pem)
        put_token(files, ca.maker)
        agent = Cli(files, ca.server.address, ("--cache", str(files.directory / "cache"), "--ttl", "1h"))
        with agent:
            until(lambda: state(files) == "fresh", "fresh")
            serial = files.read_status()["serial"]
            until(lambda: list((files.directory / "cache").glob("*.json")), "a cache")
            assert agent.process is not None
            agent.process.kill()
            agent.process.wait(10)
            ca.server.stop()
            files.token.unlink()
            files.status.unlink()
            agent.start()
            with Watch({"agent": files.socket}, every=0.05) as watch:
                until(lambda: watch.of("agent") and watch.of("agent")[-1].valid, "served")
                assert [f"{found:x}" for found in watch.serials("agent")] == [serial]
            until(lambda: state(files) == "fresh", "says so")
            assert agent.ready() == 200
            assert agent.numbers().of("renewals_total") == 0


def _has_seen(watch: Watch, certificates: int) -> bool:
    return len(watch.serials("agent")) >= certificates
