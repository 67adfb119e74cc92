"""A node's agent killed and started again with the real CA down: its workloads are served, and nobody else is."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import grpc
import pytest

from meshpki.ca.config_values import HostPort
from meshpki.ca.server.ca_server import CaServer
from support import ca_server
from support.agent_process import wait_until
from support.authority import TestAuthority, make_authority
from support.node_agent import NodeAgentProcess, Stream, free_ports, leaf_of, spiffe_id_of, with_token
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("node-cache")]

MAKER = TokenMaker()
FORGER = TokenMaker(slot=1)
BRIEF_SECONDS = 15
WAITING = grpc.StatusCode.DEADLINE_EXCEEDED
REFUSED = grpc.StatusCode.UNAUTHENTICATED


@dataclass(frozen=True)
class Got:
    """What one stream was given."""

    spiffe_id: str = ""
    serial: int = 0
    code: grpc.StatusCode | None = None


def ask(streams: dict[str, Stream]) -> dict[str, Got]:
    """The first answer of each."""
    return {name: _first(stream) for name, stream in streams.items()}


def _first(stream: Stream) -> Got:
    with stream:
        try:
            secret = stream.secrets()["default"]
        except grpc.RpcError as error:
            return Got(code=error.code())
        return Got(spiffe_id_of(secret), leaf_of(secret).serial_number)


def open_all(agent: NodeAgentProcess, tokens: dict[str, bytes], seconds: float) -> dict[str, Stream]:
    return {name: Stream(agent.socket, with_token(token), "default", seconds=seconds) for name, token in tokens.items()}


def claims(name: str, **changes: object) -> dict[str, object]:
    return MAKER.claims(now=time.time(), name=name, pod=f"{name}-0", **changes)  # type: ignore[arg-type]  # as token()


@dataclass
class Record:
    """What happened."""

    tokens: dict[str, bytes]
    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    before: dict[str, Got] = field(default_factory=dict)
    away: dict[str, Got] = field(default_factory=dict)
    standing: list[dict[str, Any]] = field(default_factory=list)  # Any: JSON
    back: dict[str, Got] = field(default_factory=dict)
    log: str = ""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    import shutil
    import tempfile
    from pathlib import Path as RealPath

    path = RealPath(tempfile.mkdtemp(prefix="mpc-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def record(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    authority = make_authority()
    listen = HostPort("127.0.0.1", free_ports(1)[0])
    cache = directory / "cache"
    agent = NodeAgentProcess(directory, f"127.0.0.1:{listen.port}", options=("--cache", str(cache)))
    agent.roots.write_bytes(authority.root_pem)
    one = claims("one")
    mine = {"one": MAKER.sign(one), "two": MAKER.sign(claims("two"))}
    mine |= {"garbled": MAKER.sign(claims("garbled"))}
    head, _, signature = mine["one"].rpartition(b".")
    strangers = {
        "forged": FORGER.sign(one),
        "turned": head + b"." + (b"B" if signature[:1] == b"A" else b"A") + signature[1:],
        "unsigned": head + b".",
        "re-signed": MAKER.sign(one, {"kid": MAKER.kid, "alg": "RS256"}),
        "fresher": MAKER.sign({**one, "exp": one["exp"] + 60}),  # type: ignore[operator]  # an int
        "other pod": MAKER.token(now=time.time(), name="one", pod="one-1"),
        "other": MAKER.sign(claims("other")),
    }
    made = Record(dict(strangers))
    with ca_server.running(tmp_path_factory.mktemp("ca"), authority=authority, listen=listen), agent_killed(agent):
        mine["expired"] = MAKER.sign(claims("brief", lifetime=BRIEF_SECONDS))
        brief_ends = time.time() + BRIEF_SECONDS
        made.tokens |= mine
        made.before = ask(open_all(agent, mine, 60))
        wait_until(lambda: len(list(cache.glob("*.json"))) == len(mine), "entries")
    made.files = {file.name: (stat.S_IMODE(file.stat().st_mode), file.read_bytes()) for file in cache.iterdir()}
    _garble(cache / f"{_name(mine['garbled'])}.json")
    wait_until(lambda: time.time() > brief_ends + 1, "the end of the brief token")
    with agent:
        made.away = ask(open_all(agent, {name: mine[name] for name in ("one", "two", "expired")}, 60))
        made.away |= ask(open_all(agent, {"garbled": mine["garbled"]} | strangers, 3))
        wait_until(lambda: len(agent.status().get("identities", ())) == 2, "the status")
        made.standing = agent.status()["identities"]
        with ca_server.running(tmp_path_factory.mktemp("ca2"), authority=authority, listen=listen):
            made.back = ask(open_all(agent, made.tokens, 60))
    made.log = agent.log.read_text()
    return made


@contextlib.contextmanager
def agent_killed(agent: NodeAgentProcess) -> Iterator[None]:
    agent.start()
    try:
        yield
    finally:
        agent.kill()
        agent.socket.unlink()  # the dead one's: whoever waits for the next agent would find it
        agent.status_file.unlink(missing_ok=True)


def _garble(file: Path) -> None:
    """Turn a bit as a bad disk does, which leaves the file's time as it is."""
    content, times = bytearray(file.read_bytes()), file.stat()
    content[-400] ^= 1
    file.write_bytes(content)
    os.utime(file, (times.st_atime, times.st_mtime))


def _name(token: bytes) -> str:
    import hashlib

    return hashlib.sha256(token).hexdigest()


def test_the_two_are_served_at_once_what_they_had(record: Record) -> None:
    for name in ("one", "two"):
        assert record.before[name].spiffe_id == f"spiffe://mesh.local/ns/default/sa/{name}"
        assert record.away[name] == record.before[name]
    assert record.before["one"].serial != record.before["two"].serial
    assert [(one["from_cache"], one["state"]) for one in record.standing] == [(True, "fresh")] * 2


@pytest.mark.parametrize("name", ["forged", "turned", "unsigned"])
def test_a_wrong_token_of_the_same_claims_waits_and_is_refused(record: Record, name: str) -> None:
    assert record.away[name] == Got(code=WAITING)
    assert record.back[name] == Got(code=REFUSED)


@pytest.mark.parametrize("name", ["re-signed", "fresher", "other pod", "other", "garbled"])
def test_a_good_token_that_the_ca_has_not_accepted_waits_for_it(record: Record, name: str) -> None:
    assert record.away[name] == Got(code=WAITING)
    assert record.back[name].spiffe_id
    assert record.back[name].serial not in {got.serial for got in record.before.values()}


def test_an_expired_token_is_refused(record: Record) -> None:
    assert record.before["expired"].spiffe_id
    assert record.away["expired"] == record.back["expired"] == Got(code=REFUSED)


def test_what_is_kept_is_private_named_by_digests_and_holds_no_token(record: Record) -> None:
    assert set(record.files) == {f"{_name(record.tokens[name])}.json" for name in record.before}
    for mode, content in record.files.values():
        assert mode == 0o600
        assert b"eyJ" not in content
        for token in record.tokens.values():
            assert not any(part and part in content for part in token.split(b"."))


def test_what_was_not_used_is_said_and_nothing_secret(record: Record) -> None:
    lines = [json.loads(line) for line in record.log.splitlines() if "cache is not used" in line]
    assert [line["seen"] for line in lines if line["level"] == "warning"] == ["its digest is not that of its content"]
    assert "PRIVATE" not in record.log
    assert "eyJ" not in record.log
    assert "Traceback" not in record.log


@pytest.fixture
def authority() -> TestAuthority:
    return make_authority()


def test_a_token_that_the_ca_refuses_later_is_not_served_by_the_next_run(
    short_dir: Path, tmp_path_factory: pytest.TempPathFactory, authority: TestAuthority
) -> None:
    """While its certificate is valid still: only the entry could serve it."""
    listen = HostPort("127.0.0.1", free_ports(1)[0])
    cache = short_dir / "cache"
    agent = NodeAgentProcess(short_dir, f"127.0.0.1:{listen.port}", ttl="40s", options=("--cache", str(cache)))
    agent.roots.write_bytes(authority.root_pem)
    token = {"one": MAKER.token(now=time.time())}
    with agent_killed(agent):
        with ca_server.running(tmp_path_factory.mktemp("ca"), authority=authority, listen=listen):
            before = ask(open_all(agent, token, 60))["one"]
            wait_until(lambda: list(cache.glob("*.json")), "the entry")
            obtained = time.time()
        strict = ca_server.make_config(tmp_path_factory.mktemp("strict"), FORGER, authority=authority)
        with CaServer(replace(strict, listen=listen)):
            wait_until(lambda: not list(cache.glob("*.json")), "the entry's end")
    with agent:
        assert ask(open_all(agent, token, 2))["one"] == Got(code=WAITING)
    assert before.serial
    assert time.time() < obtained + 40


def test_without_the_option_nothing_is_written(short_dir: Path, tmp_path: Path, authority: TestAuthority) -> None:
    with ca_server.running(tmp_path, authority=authority) as ca:
        agent = NodeAgentProcess(short_dir, ca.server.address)
        agent.roots.write_bytes(authority.root_pem)
        with agent:
            assert ask(open_all(agent, {"one": MAKER.token(now=time.time())}, 30))["one"].spiffe_id
    assert {file.name for file in short_dir.rglob("*") if file.is_file()} <= {"roots.pem", "node.json", "node.log"}
