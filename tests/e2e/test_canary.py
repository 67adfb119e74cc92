"""Tokens and private keys stay where they belong: everything that real processes write at debug level is searched."""

from __future__ import annotations

import contextlib
import shutil
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from meshpki_demo import leftovers
from meshpki_demo.signing_client import SigningClient
from meshpki_demo.wrong_tokens import Forge
from meshpki_local.layout import Layout
from support import ca_server
from support.command_line import COMMAND, environment
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("canary")]
PEM_MARK = b"PRIVATE KEY"
KEY_FILES = {"key.pem", "credential-bundle.pem", "identity.json"}
"""Besides `*-key.pem`: what an agent writes for its workload, and what it keeps over a restart."""
PIECE = 20
"""So many characters in a row of a token's payload or signature are a find; fewer could stand somewhere by chance."""
END_SECONDS = 60


@dataclass
class Canary:
    """What must not be found, and where it may be."""

    tokens: set[str] = field(default_factory=set)
    pieces: set[bytes] = field(default_factory=set)

    def saw(self, token: str) -> None:
        """Remember it in pieces, for a log may hold the middle of it. Headers are the same in all and tell nothing."""
        self.tokens.add(token.strip())
        for part in token.strip().split(".")[1:]:
            self.pieces |= set(windows(part.encode()))

    def found_in(self, name: str, content: bytes, *, token_file: bool = False, key_file: bool = False) -> list[str]:
        found = not token_file and not self.pieces.isdisjoint(windows(content))
        return [f"{name}: a part of a token"] * found + (
            [f"{name}: a private key"] if PEM_MARK in content and not key_file else []
        )

    def search(self, directory: Path) -> list[str]:
        """Every file below a directory, and the journal's side files too. Key and token files must be private."""
        found = []
        for path in sorted(path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()):
            is_key = path.name in KEY_FILES or path.name.endswith("-key.pem")
            is_token = path.name == "token"
            found += self.found_in(str(path), path.read_bytes(), token_file=is_token, key_file=is_key)
            if (is_key or is_token) and stat.S_IMODE(path.stat().st_mode) != 0o600:
                found.append(f"{path}: mode {stat.S_IMODE(path.stat().st_mode):o}")
        return found


def windows(content: bytes) -> Iterator[bytes]:
    """Every `PIECE` bytes in a row."""
    return (content[at : at + PIECE] for at in range(len(content) - PIECE + 1))


@pytest.fixture
def place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="mp-"))
    yield directory
    leftovers.end(directory)
    shutil.rmtree(directory)


def until(holds: Callable[[], bool], what: str, seconds: float = END_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def meshpki(place: Path, *arguments: str, status: int = 0) -> bytes:
    """Run a command in detail: with its log, and with the traceback where it fails."""
    done = subprocess.run(
        [*COMMAND, "--debug", *arguments], cwd=place, capture_output=True, env=environment(), check=False, timeout=90
    )
    assert done.returncode == status, (done.stdout + done.stderr).decode()
    return done.stdout + done.stderr


@contextlib.contextmanager
def process(place: Path, log: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with (place / log).open("wb") as stream:
        started = subprocess.Popen(
            [*COMMAND, *arguments, "--log-level", "debug"],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environment(),
        )
    try:
        yield started
    finally:
        started.terminate()
        started.wait(END_SECONDS)


@pytest.mark.parametrize("agent", ["workload", "node"])
def test_a_whole_local_installation(place: Path, agent: str) -> None:
    """Provision, status, verify, a plan, a report, a journal, logs, wrong tokens, failures, deprovision; in detail."""
    canary, layout = Canary(), Layout(place / "state")
    state = ("--state-dir", "state")
    own = ("provision", "--platform", "local", "--agent", agent, *state)
    said = [meshpki(place, *own, "--plan-out", "plan.json", status=3), meshpki(place, "apply", "plan.json", "--yes")]
    for path in layout.workloads.glob("*/token"):
        canary.saw(path.read_text())
    assert canary.tokens
    said += [meshpki(place, "status", *state, "-o", form) for form in ("table", "json", "yaml")]
    said.append(meshpki(place, "verify", *state, "-o", "json"))
    token = next(iter(layout.workloads.glob("*/token")))
    said.append(meshpki(place, "token", "inspect", token.as_posix(), status=1))
    _knock_with_wrong_tokens(layout, canary)
    said.append(meshpki(place, "audit", "tail", str(layout.audit / "issuance.jsonl"), "-n", "100"))
    said += _failures(place, layout, own)
    assert canary.search(place) == []
    for log in layout.logs.iterdir():
        assert b'"level": "debug"' in log.read_bytes(), f"{log} is not in detail"
    said.append(meshpki(place, "deprovision", *state, "--yes"))
    assert canary.found_in("what the commands said", b"\n".join(said)) == []
    assert canary.search(place) == []


def _failures(place: Path, layout: Layout, own: tuple[str, ...]) -> list[bytes]:
    """Commands that fail while they have tokens and keys in their hands; all is well again afterwards."""
    said = []
    port = yaml.safe_load(layout.ca_config.read_text())["listen"].rpartition(":")[2]
    token = next(iter(layout.workloads.glob("*/token")))
    key, text = layout.token_key.read_bytes(), token.read_text()
    layout.token_key.write_bytes(key[: len(key) // 2])
    said.append(meshpki(place, "verify", "--state-dir", "state", status=1))
    said.append(meshpki(place, *own, "--ca-port", port, "--certificate-ttl", "2h", "--yes", status=3))
    layout.token_key.write_bytes(key)
    said.append(meshpki(place, "audit", "verify", token.as_posix(), status=1))
    (place / "token").write_text(text)
    (place / "token").chmod(0o600)
    for wrong in (place / "token", layout.token_key):
        said.append(meshpki(place, "apply", str(wrong), "--yes", status=2))
        said.append(meshpki(place, "ca", "serve", "--config", str(wrong), status=2))
    assert sum(b"Traceback" in one for one in said) >= 5
    return said


def _knock_with_wrong_tokens(layout: Layout, canary: Canary) -> None:
    config = yaml.safe_load(layout.ca_config.read_text())
    roots = layout.root_certificate.read_bytes()
    workload = next(iter(layout.workloads.iterdir()))
    forge = Forge.open(workload / "token", layout.token_key)
    with SigningClient(config["listen"], server_name="localhost", roots_pem=roots) as ca:
        for wrong in forge.all():
            canary.saw(wrong.token or "")
            verdict = ca.ask(wrong.token)
            assert verdict.status == "UNAUTHENTICATED"
            assert canary.found_in("the CA's answer", verdict.message.encode()) == []


def test_ca_and_agent_at_debug_level(place: Path) -> None:
    """As processes of their own, fed with every kind of broken token."""
    canary, maker = Canary(), TokenMaker()
    (place / "jwks.json").write_bytes(maker.jwks())
    token = maker.token(now=time.time()).decode()
    canary.saw(token)
    (place / "token").write_text(token)
    (place / "token").chmod(0o600)
    said = [meshpki(place, "ca", "init", "ca", "--trust-domain", "mesh.local")]
    (place / "ca.yaml").write_text(
        yaml.safe_dump(
            {
                "trust_domain": "mesh.local",
                "listen": "127.0.0.1:0",
                "http": "127.0.0.1:0",
                "server_names": ["localhost"],
                "issuer": {
                    "certificate": "ca/issuer-cert.pem",
                    "key": "ca/issuer-key.pem",
                    "root": "ca/root-cert.pem",
                },
                "audit": "audit/issuance.jsonl",
                "clusters": [{"name": "test", "issuer": maker.issuer, "jwks": {"file": "jwks.json"}}],
            }
        )
    )
    with process(place, "ca.log", "ca", "serve", "--config", "ca.yaml"):
        until(lambda: bool(ca_server.where(place / "ca.log")), "the CA serves")
        address = ca_server.where(place / "ca.log")["grpc"]
        agent = (
            *("agent", "run", "--ca-address", address, "--ca-roots", "ca/root-cert.pem"),
            *("--ca-server-name", "localhost", "--token-file", "token", "--files", "certs"),
            *("--sds-socket", "sds/sds.sock", "--status-file", "status.json"),
        )
        with process(place, "agent.log", *agent):
            until((place / "certs" / "key.pem").exists, "the agent has a certificate")
        roots = (place / "ca" / "root-cert.pem").read_bytes()
        with SigningClient(address, server_name="localhost", roots_pem=roots) as ca:
            for broken in maker.broken(time.time()):
                text = broken.token.decode("latin-1")
                if not text.isascii() or "\n" in text:
                    continue  # gRPC's own client would not send it
                canary.saw(text)
                assert ca.ask(text).status != "OK", broken.name
    assert (place / "ca.log").stat().st_size > 0
    assert (place / "agent.log").stat().st_size > 0
    assert b'"level": "debug"' in (place / "ca.log").read_bytes() + (place / "agent.log").read_bytes()
    assert canary.search(place) == []
    assert canary.found_in("what the commands said", b"".join(said)) == []


def test_the_search_finds_what_it_is_for(place: Path) -> None:
    canary = Canary()
    canary.saw(TokenMaker().token(now=time.time()).decode())
    header, payload, signature = next(iter(canary.tokens)).split(".")
    (place / "a.log").write_text(f"bearer {payload}")
    (place / "b.db").write_bytes(b"\x00" + signature.encode() + b"\x00")
    (place / "c.log").write_text("-----BEGIN EC PRIVATE KEY-----")
    (place / "issuer-key.pem").write_text("-----BEGIN EC PRIVATE KEY-----")
    (place / "d.log").write_text(header)
    (place / "e.log").write_text(f"seen: {payload[60 : 60 + PIECE]}...")
    (place / "f.log").write_text(payload[: PIECE - 1])
    (place / "issuer-key.pem").chmod(0o644)
    found = [line.rpartition("/")[2] for line in canary.search(place)]
    assert found == [
        "a.log: a part of a token",
        "b.db: a part of a token",
        "c.log: a private key",
        "e.log: a part of a token",
        "issuer-key.pem: mode 644",
    ]
