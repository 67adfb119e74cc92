"""Ctrl-C and SIGTERM at any moment of a start: the program ends by them, or as asked, and never with a traceback."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from meshpki_cli import early_signals
from support import ca_server, command_line
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

_ANNOUNCED = """
import os
from meshpki_cli import early_signals, entry

begin = early_signals.leave_at_once

def and_say_so():
    begin()
    os.write(1, b"x")
    os.read(0, 1)  # until the test lets it go on

early_signals.leave_at_once = and_say_so
entry.main()
"""
"""The program as its script starts it; a byte says that the interpreter is up, whose own start is none of ours.

It goes on when its standard input ends.
"""
TRIES = 7
FIRST_SECONDS = 0.5
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    at = tmp_path_factory.mktemp("early")
    (at / "token").write_text("no token")
    agent = ["agent", "run", "--ca-address", "127.0.0.1:1", "--ca-roots", str(at / "roots.pem")]
    agent += ["--ca-server-name", "localhost"]
    return {
        "agent": [*agent, "--token-file", str(at / "token"), "--files", str(at / "certs")],
        "agent-node": [*agent, "--node", "--sds-socket", str(at / "node" / "s.sock")],
        "ca": ["ca", "serve", "--config", str(ca_file(at))],
        "run": ["run", "--platform", "local", "--state-dir", str(at / "none")],  # ends by itself: nothing is there
    }


def ca_file(at: Path) -> Path:
    made = ca_server.make_config(at, TokenMaker())
    config: dict[str, object] = {
        "trust_domain": str(made.trust_domain),
        "listen": "127.0.0.1:0",
        "http": "127.0.0.1:0",
        "server_names": ["localhost"],
        "issuer": {name: str(getattr(made.issuer, name)) for name in ("certificate", "key", "root")},
        "audit": str(at / "issuance.jsonl"),
        "clusters": [{"name": "c", "issuer": made.clusters[0].issuer, "jwks": {"file": str(at / "jwks-0.json")}}],
    }
    path = at / "ca.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextlib.contextmanager
def announced(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _ANNOUNCED, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=command_line.environment(),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"x"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("name", ["agent", "agent-node", "ca", "run"])
def test_at_any_moment_of_the_start(commands: dict[str, list[str]], name: str, number: signal.Signals) -> None:
    moments = random.Random(f"{name} {number}")
    ended = []
    for delay in [None, *(moments.uniform(0, FIRST_SECONDS) for _ in range(TRIES))]:
        with announced(commands[name]) as process:
            if delay is not None:
                assert process.stdin is not None
                process.stdin.close()
                time.sleep(delay)  # the moment under test
            process.send_signal(number)
            process.wait(60)
            assert process.stderr is not None
            said = process.stderr.read()
        assert b"Traceback" not in said, said.decode()
        assert b"Exception ignored" not in said, said.decode()
        ended.append(process.returncode)
    allowed = {-number, 0} | ({2} if name == "run" else set())
    assert set(ended) <= allowed
    assert ended[0] == -number, "nothing has begun"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_first_process_of_a_container_leaves_too(number: signal.Signals) -> None:
    """Its own signal does not end it; nor does one that is blocked."""
    script = f"""
import signal
from meshpki_cli import early_signals
early_signals.leave_at_once()
handler = signal.getsignal({int(number)})
signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])
handler({int(number)}, None)
"""
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, b"", b"")


def test_what_is_ignored_or_handled_stays_so() -> None:
    def mine(*_: object) -> None: ...

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, mine)
        early_signals.leave_at_once()
        assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_IGN, mine]
        early_signals.usual()
        assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_IGN, mine]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_once_a_command_has_begun_it_is_told_of_ctrl_c_as_ever() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        early_signals.leave_at_once()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert command_line.invoke("version").code == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
