from __future__ import annotations

import json
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from support import ca_server, command_line
from support.tokens import TokenMaker

MAKER = TokenMaker()


def test_init_makes_a_ca_once(tmp_path: Path) -> None:
    place = tmp_path / "ca"
    ran = command_line.invoke("ca", "init", str(place), "--trust-domain", "mesh.local")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Made a CA in {place}.")
    assert stat.S_IMODE((place / "issuer-key.pem").stat().st_mode) == 0o600
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    again = command_line.invoke("ca", "init", str(place), "--trust-domain", "mesh.local", "-o", "json")
    assert again.code == 0
    assert json.loads(again.out)["made"] is False
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize("kind", ["ec-p256", "ec-p384", "rsa-2048"])
def test_show_tells_who_until_when_and_which_digest(tmp_path: Path, kind: str) -> None:
    place = str(tmp_path / "ca")
    command_line.invoke("ca", "init", place, "--trust-domain", "mesh.local", "--key-type", kind)
    ran = command_line.invoke("ca", "show", place)
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(command_line.invoke("ca", "show", place, "-o", "json").out)
    assert document["warnings"] == []
    certificates = document["ca"]["certificates"]
    assert [one["role"] for one in certificates] == ["issuer", "root"]
    for one in certificates:
        assert one["key_kind"] == kind
        for shown in (one["fingerprint"], one["key_id"], one["serial"], one["subject"]):
            assert shown in ran.out
    assert "PRIVATE KEY" not in ran.out


def test_show_takes_a_directory_or_a_configuration(tmp_path: Path) -> None:
    place = tmp_path / "ca"
    command_line.invoke("ca", "init", str(place), "--trust-domain", "mesh.local")
    (tmp_path / "ca.yaml").write_text(yaml.safe_dump(configuration(15012, 15014)))
    (tmp_path / "jwks.json").write_bytes(MAKER.jwks())
    by_name = json.loads(command_line.invoke("ca", "show", str(place), "-o", "json").out)
    by_file = json.loads(command_line.invoke("ca", "show", "--config", str(tmp_path / "ca.yaml"), "-o", "json").out)
    for shown in (by_name, by_file):
        for one in shown["ca"]["certificates"]:
            del one["remaining_seconds"]
    assert by_file == by_name
    for args in ([], [str(place), "--config", str(tmp_path / "ca.yaml")]):
        assert command_line.invoke("ca", "show", *args).code == 2


def test_another_trust_domain_is_refused(tmp_path: Path) -> None:
    place = str(tmp_path / "ca")
    command_line.invoke("ca", "init", place, "--trust-domain", "mesh.local")
    ran = command_line.invoke("ca", "init", place, "--trust-domain", "other.local")
    assert (ran.code, ran.out) == (2, "")
    assert "mesh.local" in ran.err


@pytest.mark.parametrize(
    "args",
    [
        ["--trust-domain", "Not A Domain"],
        ["--trust-domain", "mesh.local", "--key-type", "rsa-1024"],
        [],
    ],
    ids=str,
)
def test_what_cannot_be_a_ca_is_refused(tmp_path: Path, args: list[str]) -> None:
    ran = command_line.invoke("ca", "init", str(tmp_path / "ca"), *args)
    assert ran.code in {1, 2}
    assert ran.err.startswith("error: ")
    assert not (tmp_path / "ca").exists()


def test_show_of_nothing_is_an_error(tmp_path: Path) -> None:
    ran = command_line.invoke("ca", "show", str(tmp_path / "nothing"))
    assert (ran.code, ran.out) == (1, "")
    assert str(tmp_path / "nothing") in ran.err


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_show_fits_the_terminal(tmp_path: Path, columns: int) -> None:
    place = str(tmp_path / "ca")
    command_line.invoke("ca", "init", place, "--trust-domain", "mesh.local")
    shown = command_line.plain(command_line.on_terminal("ca", "show", place, columns=columns).out)
    longest_word = max(len(word) for word in shown.split())
    assert command_line.widest(shown) <= max(columns, longest_word + 4)


def test_serve_says_what_is_wrong_with_its_configuration(tmp_path: Path) -> None:
    config = tmp_path / "ca.yaml"
    config.write_text("trust_domain: mesh.local\nlisten_on: nowhere\n")
    ran = command_line.spawn("ca", "serve", "--config", str(config))
    assert (ran.code, ran.out) == (2, "")
    assert "listen_on" in ran.err


def test_an_agent_without_a_face_is_a_usage_error(tmp_path: Path) -> None:
    ran = command_line.spawn(*agent_arguments(tmp_path, "127.0.0.1:1"))
    assert (ran.code, ran.out) == (2, "")
    assert "--sds-socket" in ran.err


def test_an_unknown_log_level_is_a_usage_error(tmp_path: Path) -> None:
    ran = command_line.spawn("ca", "serve", "--config", str(tmp_path / "x"), "--log-level", "loud")
    assert (ran.code, ran.out) == (2, "")
    assert "loud" in ran.err


def configuration(grpc: int, http: int) -> dict[str, object]:
    return {
        "trust_domain": "mesh.local",
        "listen": f"127.0.0.1:{grpc}",
        "http": f"127.0.0.1:{http}",
        "server_names": ["localhost"],
        "issuer": {
            "certificate": "ca/issuer-cert.pem",
            "key": "ca/issuer-key.pem",
            "root": "ca/root-cert.pem",
        },
        "audit": "audit/issuance.jsonl",
        "clusters": [{"name": "local", "issuer": MAKER.issuer, "jwks": {"file": "jwks.json"}}],
    }


def agent_arguments(place: Path, address: str, *more: str) -> list[str]:
    return [
        *("agent", "run", "--ca-address", address, "--ca-roots", str(place / "ca" / "root-cert.pem")),
        *("--ca-server-name", "localhost", "--token-file", str(place / "token"), *more),
    ]


@contextmanager
def running(*args: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run it as a process; it has to end by itself, with status 0, soon after SIGTERM."""
    with log.open("wb") as file:
        process = subprocess.Popen([*command_line.COMMAND, *args], stderr=file, env=command_line.environment())
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=command_line.BOUND_SECONDS) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + command_line.BOUND_SECONDS
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.e2e
def test_ca_and_agent_from_the_command_line() -> None:
    with tempfile.TemporaryDirectory(prefix="mk") as short:
        place = Path(short)
        command_line.invoke("ca", "init", str(place / "ca"), "--trust-domain", "mesh.local")
        (place / "jwks.json").write_bytes(MAKER.jwks())
        (place / "token").write_bytes(MAKER.token(now=time.time(), name="cart"))
        (place / "token").chmod(0o600)
        (place / "ca.yaml").write_text(yaml.safe_dump(configuration(0, 0)))

        log = place / "ca.log"

        def ready() -> bool:
            try:
                with urlopen(f"http://{ca_server.where(log)['http']}/readyz", timeout=60) as answer:
                    return bool(answer.status == 200)
            except (URLError, OSError):
                return False

        with running("ca", "serve", "--config", str(place / "ca.yaml"), log=log):
            until(lambda: bool(ca_server.where(log)), "the CA does not serve")
            until(ready, "the CA is not ready")
            faces = ["--files", str(place / "certs"), "--status-file", str(place / "status.json")]
            agent = agent_arguments(place, ca_server.where(log)["grpc"], *faces, "--cluster", "local", "--ttl", "1h")
            with running(*agent, log=place / "agent.log"):
                until((place / "certs" / "cert-chain.pem").exists, "the agent has no certificate")
                until((place / "status.json").exists, "the agent says nothing")
            spiffe_id = "spiffe://mesh.local/ns/default/sa/cart"
            assert spiffe_id in command_line.invoke("audit", "tail", str(place / "audit" / "issuance.jsonl")).out
        assert command_line.invoke("audit", "verify", str(place / "audit" / "issuance.jsonl")).code == 0
        for name in ("ca.log", "agent.log"):
            assert "eyJ" not in (place / name).read_text()
