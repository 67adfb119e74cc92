"""Pod mode as a process: roots that change beneath it, restarts while the CA is away, health over HTTP, its log."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from support import crowd
from support.agent_process import AgentFiles, AgentProcess, wait_until
from support.crowd import files_serial
from support.fake_ca import SERVER_NAME, FakeAuthority, FakeCa

if TYPE_CHECKING:
    from meshpki.agent.process.config import AgentConfig

pytestmark = pytest.mark.e2e

NEW = FakeAuthority()


def caching(files: AgentFiles, ca: FakeCa) -> AgentConfig:
    return replace(files.config(ca), cache=files.directory / "cache")


def state(files: AgentFiles) -> object:
    return files.read_status().get("state")


def serial(files: AgentFiles) -> str:
    return str(files.read_status().get("serial", ""))


def roots(files: AgentFiles) -> set[x509.Certificate]:
    return set(x509.load_pem_x509_certificates((files.certs / "root-cert.pem").read_bytes()))


def put_roots(files: AgentFiles, content: bytes) -> None:
    passing = files.directory / "roots.new"
    passing.write_bytes(content)
    passing.replace(files.roots)


def test_other_roots_reach_the_files_within_a_second_and_the_ca_hears_nothing(ca: FakeCa, files: AgentFiles) -> None:
    old, new = ca.authority.root.certificate, NEW.root.certificate
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: state(files) == "fresh", "fresh")
        before = files_serial(files.certs)
        took = []
        for wanted in ({old, new}, {old}) * 2 + ({old, new},):
            began = time.monotonic()
            put_roots(files, ca.authority.roots_pem + (NEW.roots_pem if new in wanted else b""))
            wait_until(lambda: roots(files) == wanted, "what the file says")  # noqa: B023 - called here
            took.append(time.monotonic() - began)
        assert statistics.median(took) < 1, "the machine of the tests may stand still now and then, but not each time"
        files.roots.write_bytes(ca.authority.roots_pem[:200])  # half of it, in place
        wait_until(lambda: "no good" in files.log.read_text(), "a word about it")
        assert roots(files) == {old, new}
        files.roots.write_bytes(ca.authority.roots_pem)
        wait_until(lambda: roots(files) == {old}, "the new one gone again")
        assert files_serial(files.certs) == before
        assert len(ca.calls) == 1


def test_a_ca_moves_to_another_root_and_the_agent_follows(ca: FakeCa, files: AgentFiles) -> None:
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: state(files) == "fresh", "fresh")
        before = serial(files)
        put_roots(files, ca.authority.roots_pem + NEW.roots_pem)
        wait_until(lambda: len(roots(files)) == 2, "both")
        ca.stop()
        ca.authority = NEW
        ca.start()
        put_roots(files, NEW.roots_pem)  # what is held is trusted no more: asked at once, not at half of its life
        wait_until(lambda: serial(files) != before and state(files) == "fresh", "a certificate of the new root")
        assert roots(files) == {NEW.root.certificate}


def test_restarted_without_a_ca_and_without_a_token_it_serves_at_once_what_is_valid(
    ca: FakeCa, files: AgentFiles
) -> None:
    agent = AgentProcess(caching(files, ca), files.log)
    with agent:
        wait_until(lambda: state(files) == "fresh", "fresh")
        before = serial(files)
        agent.kill()
    ca.stop()
    files.token.unlink()
    files.socket.unlink()
    with agent:
        wait_until(lambda: state(files) == "fresh" and files.socket.is_socket(), "fresh")
        assert serial(files) == before
        assert f"{files_serial(files.certs):x}" == before
        assert "of an earlier run" in files.log.read_text()


def test_a_cache_of_another_trust_is_not_served(ca: FakeCa, files: AgentFiles) -> None:
    agent = AgentProcess(caching(files, ca), files.log)
    with agent:
        wait_until(lambda: state(files) == "fresh", "fresh")
    ca.stop()
    put_roots(files, NEW.roots_pem)
    files.status.unlink()
    with agent:
        wait_until(lambda: state(files) == "failed", "failed")
        assert not files.socket.exists()
        assert '"reason": "unknown_root"' in files.log.read_text()


API = "spiffe://mesh.test/ns/default/sa/api"


def left_by_web(ca: FakeCa, files: AgentFiles) -> AgentProcess:
    """An agent that has run for `web`, and is to start again while the CA is away."""
    agent = AgentProcess(caching(files, ca), files.log)
    with agent:
        wait_until(lambda: state(files) == "fresh", "fresh")
    ca.stop()
    files.status.unlink()
    return agent


def test_a_cache_of_another_workload_is_not_served(ca: FakeCa, files: AgentFiles) -> None:
    """The volume was used again, or the pod has another service account now."""
    agent = left_by_web(ca, files)
    files.write_token(expires_at=time.time() + 3600, account="default:api")
    with agent:
        wait_until(lambda: state(files) == "failed", "failed")
        assert not files.socket.exists()
        assert "another account's" in files.log.read_text()
        ca.uri = API
        ca.start()
        wait_until(lambda: state(files) == "fresh", "fresh")
        assert files.read_status()["spiffe_id"] == API


def test_served_without_a_token_it_ends_when_the_token_that_comes_is_anothers(ca: FakeCa, files: AgentFiles) -> None:
    agent = left_by_web(ca, files)
    files.token.unlink()
    with agent:
        wait_until(lambda: state(files) == "fresh" and files.socket.is_socket(), "served from the cache")
        files.write_token(expires_at=time.time() + 3600, account="default:api")
        assert agent.process is not None
        assert agent.process.wait(60) != 0
        assert not files.socket.exists()
        assert "the token that has come is another account's" in files.log.read_text()
    files.status.unlink()
    with agent:
        wait_until(lambda: state(files) == "failed", "failed")
        assert not files.socket.exists()


def test_served_without_a_token_it_goes_on_when_its_own_comes(ca: FakeCa, files: AgentFiles) -> None:
    agent = left_by_web(ca, files)
    files.token.unlink()
    with agent:
        wait_until(lambda: state(files) == "fresh" and files.socket.is_socket(), "served from the cache")
        files.write_token(expires_at=time.time() + 3600)
        with pytest.raises(subprocess.TimeoutExpired):
            assert agent.process is not None
            agent.process.wait(2)
        assert files.socket.is_socket()


def test_a_cache_of_another_ca_is_not_served(ca: FakeCa, files: AgentFiles) -> None:
    """Of the same root even: whose trust domain it was made for, only that CA says."""
    left_by_web(ca, files)
    with AgentProcess(replace(caching(files, ca), ca_address="127.0.0.1:1"), files.log):
        wait_until(lambda: state(files) == "failed", "failed")
        assert not files.socket.exists()
        assert "it is of another CA" in files.log.read_text()


def test_a_directory_that_can_hold_no_cache_stops_nothing(ca: FakeCa, files: AgentFiles) -> None:
    (files.directory / "cache").write_text("in the way")
    with AgentProcess(caching(files, ca), files.log):
        wait_until(lambda: state(files) == "fresh", "fresh")
        assert "the cache could not be written" in files.log.read_text()


def page(files: AgentFiles, path: str) -> tuple[int, str]:
    port = re.findall(r'"port": (\d+)', files.log.read_text())[-1]
    return crowd.page(int(port), path)


def test_readiness_tells_the_truth_from_before_the_first_certificate_to_its_end(ca: FakeCa, files: AgentFiles) -> None:
    ca.stop()
    ca.life = 15
    with AgentProcess(replace(files.config(ca), http="127.0.0.1:0"), files.log) as agent:
        wait_until(lambda: state(files) == "failed", "failed")
        assert page(files, "/livez") == (200, "ok\n")
        assert page(files, "/readyz") == (503, "no certificate yet: failed\n")
        ca.start()
        wait_until(lambda: page(files, "/readyz") == (200, "ok\n"), "ready")
        text = page(files, "/metrics")[1]
        assert (
            'meshpki_agent_certificate_state{spiffe_id="spiffe://mesh.test/ns/default/sa/web",state="fresh"} 1.0'
            in text
        )
        assert "PRIVATE KEY" not in text
        ca.stop()
        wait_until(lambda: page(files, "/readyz")[0] == 503, "ready no more")
        assert "expired" in page(files, "/readyz")[1]
        assert files.socket.is_socket(), "what has expired is served on"
        assert page(files, "/livez")[0] == 200
        assert agent.stop() == 0


def test_every_line_of_the_command_is_json_whatever_grpc_meets(ca: FakeCa, files: AgentFiles) -> None:
    """A CA with another root: each failed handshake used to be a line of gRPC's own."""
    put_roots(files, NEW.roots_pem)
    argv = [sys.executable, "-m", "meshpki_cli", "agent", "run", "--ca-address", ca.address]
    argv += ["--ca-roots", str(files.roots), "--ca-server-name", SERVER_NAME, "--token-file", str(files.token)]
    argv += ["--files", str(files.certs), "--status-file", str(files.status)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            wait_until(lambda: "last_failure" in files.read_status(), "a failure")
            time.sleep(0.2)  # for the lines of gRPC's own threads
        finally:
            process.terminate()
        out, err = process.communicate(timeout=60)
    assert out == b""
    lines = [json.loads(line) for line in err.splitlines()]
    assert any("the CA gave no answer" in line["message"] for line in lines)
