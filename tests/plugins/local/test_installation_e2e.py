"""A whole installation with its real CA and agents: provisioned, hurt, changed, taken back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from meshpki import plugins
from meshpki.errors import MachineError, OperatorNeededError
from meshpki.hooks import Health, PlanRequest
from meshpki.identity import ServiceAccountRef
from meshpki.provision import facts, plan
from meshpki.provision.engine import Deed
from meshpki.testing import conformance, killed
from meshpki_local import control, processes
from meshpki_local.effects.supervisor import SupervisorProcess
from meshpki_local.layout import Layout
from meshpki_local.ports import read_ports
from meshpki_local.settings import Settings
from support import local_supervisor as support
from support.local_supervisor import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshpki.hooks import Mode, Probe, Value
    from meshpki.provision.engine import Report

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("local-installation")]
A, B = ServiceAccountRef("default", "a"), ServiceAccountRef("other", "b.c")
MOST_MISSED = 5
"""In a row: files that are there are found by then."""
GIVEN: dict[str, Value] = {"workload": (str(A),), "certificate-ttl": "1h"}


@pytest.fixture
def state() -> Iterator[Path]:
    with support.short_directory() as path:
        yield path
        if path.exists():
            control.stop(Layout(path))


def provision(state: Path, **changes: Value) -> Report:
    given = {**GIVEN, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return killed.provision(plugins.load(), "local", state, given, lambda _: None)


def deprovision(state: Path) -> Report:
    return killed.deprovision(plugins.load(), state, lambda _: None)


def deeds(report: Report) -> dict[str, Deed]:
    return {result.id: result.deed for result in report.results}


def probe(state: Path, mode: Mode | None = None) -> Probe:
    loaded = plugins.load()
    found = facts.detect(loaded, "local", state, {})
    request = PlanRequest(state, found.options, found.detection, mode or found.detection.modes[0])
    answer = loaded.propagate("local", request)
    assert not hasattr(answer, "reason")
    return answer.probe


def pids(state: Path) -> dict[str, int]:
    return {found.name: found.ref.pid for found in processes.find(state)}


def without_renewal(config: bytes) -> bytes:
    """ca.yaml as a version wrote it that knew no renewal by certificate."""
    lines = config.splitlines(keepends=True)
    kept = b"".join(line for line in lines if not line.startswith(b"renewal: "))
    assert len(kept) < len(config)
    return kept


def test_an_earlier_installation_gets_renewal_by_certificate_and_lives_on_it_while_its_token_is_gone(
    state: Path,
) -> None:
    layout, ttl = Layout(state), "20s"  # half of it is what a busy machine may take for a renewal
    provision(state, certificate_ttl=ttl)
    layout.ca_config.write_bytes(without_renewal(layout.ca_config.read_bytes()))
    control.stop(layout)
    control.start(layout)
    until(lambda: {"ca", "agent-default.a"} <= set(pids(state)), "the installation as it was")
    until(lambda: not agent_options(layout), "an agent that knows of no renewal")
    before = read_ports(layout.ca_config.read_bytes())

    upgraded = deeds(provision(state, certificate_ttl=ttl))
    assert {name for name, deed in upgraded.items() if deed is Deed.UPDATED} == {"ca.config", "supervisor"}
    ports = read_ports(layout.ca_config.read_bytes())
    assert before is not None
    assert ports is not None
    assert (ports.grpc, ports.http) == (before.grpc, before.http)
    assert agent_options(layout) == {ports.renewal_address}
    assert not provision(state, certificate_ttl=ttl).changed

    record = control.running(layout)
    assert record is not None
    with Watcher(layout).watching(), stopped(record.pid):
        layout.workload(A).token.unlink()
        until(lambda: renewed_by_certificate(layout), "a renewal by certificate", 120)
    until(lambda: all_well(state), "all well with a token again")


def agent_options(layout: Layout) -> set[str]:
    """What the running agent was given as the address of renewals."""
    (agent,) = (found.ref.pid for found in processes.find(layout.state) if found.name != "ca")
    words = Path(f"/proc/{agent}/cmdline").read_text().split("\0")
    return {words[at + 1] for at, word in enumerate(words) if word == "--ca-renewal-address"}


def renewed_by_certificate(layout: Layout) -> bool:
    lines = (layout.audit / "issuance.jsonl").read_text().splitlines()
    return any(json.loads(line).get("renewed_from") for line in lines)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Whoever writes tokens sleeps meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@dataclass
class Watcher:
    """Reads a workload's files all the time, as an application does, and notes whatever is not a valid pair."""

    layout: Layout
    account: ServiceAccountRef = A
    seen: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def look(self) -> None:
        directory = self.layout.workload(self.account).certificates.resolve()
        names = ("cert-chain.pem", "key.pem", "root-cert.pem")
        # Opened together through one resolved directory, as the atomic set promises.
        current = directory / "..data" if (directory / "..data").exists() else directory
        chain, key, _ = ((current.resolve() / name).read_bytes() for name in names)
        leaf = x509.load_pem_x509_certificates(chain)[0]
        own = load_pem_private_key(key, None).public_key()
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if own.public_bytes(*form) != leaf.public_key().public_bytes(*form):
            self.wrong.append("key and certificate do not belong together")
        if leaf.not_valid_after_utc.timestamp() <= time.time():
            self.wrong.append("expired")
        self.seen.add(leaf.serial_number)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        stop = threading.Event()

        def loop() -> None:
            missed = 0
            while not stop.wait(0.02):
                try:
                    self.look()
                    missed = 0
                except FileNotFoundError as error:  # two changes while it looked, as at an agent's start: look again
                    missed += 1
                    if missed > MOST_MISSED:
                        self.wrong.append(repr(error))
                except (OSError, ValueError) as error:
                    self.wrong.append(repr(error))

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert self.wrong == []
        assert self.seen


def all_well(state: Path) -> bool:
    seen = probe(state)
    components = {one.health for one in seen.components()}
    return components == {Health.RUNNING} and {one.health for one in seen.workloads()} == {Health.FRESH}


def test_it_keeps_the_contract_of_changes(state: Path) -> None:
    state.mkdir(mode=0o700)
    conformance.check_changes(plugins.load(), "local", state, GIVEN)
    assert list(state.iterdir()) == []
    assert pids(state) == {}


def test_a_life(state: Path) -> None:
    layout = Layout(state)
    assert set(deeds(provision(state)).values()) == {Deed.MADE}
    assert all_well(state)
    first = pids(state)
    assert set(first) == {"ca", "agent-default.a"}

    assert not provision(state).changed, "a second run changes nothing"
    assert pids(state) == first

    with Watcher(layout).watching():  # One workload more: nothing else is touched.
        assert deeds(provision(state, workload=(str(A), str(B))))["token.issuer"] is Deed.KEPT
        assert {name: pid for name, pid in pids(state).items() if name in first} == first
        assert all_well(state)
        assert [str(one.account) for one in probe(state).workloads()] == ["default/a", "other/b.c"]
        provision(state)  # And one less.
        assert pids(state) == first
        assert not layout.workload(B).directory.exists()

    ports = read_ports(layout.ca_config.read_bytes())
    with Watcher(layout).watching() as _:  # Another life: everything is started anew, on the same ports.
        provision(state, certificate_ttl="30m")
        assert read_ports(layout.ca_config.read_bytes()) == ports
        assert all_well(state)
    # The agents serve at once what they held, and ask for the shorter life beside it.
    until(lambda: 0 < probe(state).workloads()[0].not_after - time.time() <= 1800, "a certificate of the new life")

    deprovision(state)
    assert not state.exists()
    assert processes.find(state) == []


def test_killed_one_by_one_everything_comes_back_and_the_files_stay_valid(state: Path) -> None:
    layout = Layout(state)
    provision(state)
    watcher = Watcher(layout)
    with watcher.watching():
        before = pids(state)
        for name in ("ca", "agent-default.a"):
            os.kill(before[name], signal.SIGKILL)
            until(lambda name=name: pids(state).get(name, before[name]) != before[name], f"{name} is back")  # type: ignore[misc]  # a default binds the loop's value
            until(lambda: all_well(state), "all is well again")
        before = pids(state)
        supervisor = control.running(layout)
        assert supervisor is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        until(lambda: control.running(layout) is None, "the supervisor is gone")
        assert pids(state) == before, "service goes on without it"
        components = {one.name: one for one in probe(state).components()}
        assert components["supervisor"].health is Health.STOPPED
        assert "without a supervisor" in components["ca"].detail
        assert deeds(provision(state))["supervisor"] in {Deed.MADE, Deed.UPDATED}
        assert pids(state) == before, "adopted, not started again"
        assert all_well(state)
    deprovision(state)
    assert pids(state) == {}


@pytest.mark.parametrize(
    "failpoint",
    ["workloads.applied", "supervisor.intended", "supervisor.applied", "supervisor.proven"],
)
def test_provision_killed_on_its_way_is_gone_on_with(state: Path, failpoint: str) -> None:
    assert killed.killed_at(failpoint, "provision", "local", state, GIVEN, plugins="meshpki.plugins:load")
    begun = pids(state)
    provision(state)
    assert all_well(state)
    assert begun.items() <= pids(state).items(), "what ran is adopted"
    point = "supervisor.removal-intended"
    assert killed.killed_at(point, "deprovision", "local", state, GIVEN, plugins="meshpki.plugins:load")
    deprovision(state)
    assert not state.exists()
    assert pids(state) == {}


def test_in_the_foreground_until_ctrl_c(state: Path) -> None:
    provision(state)
    control.stop(Layout(state))
    assert pids(state) == {}
    command = [sys.executable, "-P", "-m", "meshpki_cli", "run", "--platform", "local", "--state-dir", str(state)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        until(lambda: all_well(state), "all is well")
        second = subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=60)
        assert second.returncode == 1
        assert f"pid {process.pid} " in second.stderr.decode()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert b"supervisor stopped" in said
    assert pids(state) == {}


def test_nothing_provisioned_nothing_runs(state: Path) -> None:
    command = [sys.executable, "-P", "-m", "meshpki_cli", "run", "--platform", "local", "--state-dir", str(state)]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 2
    assert b"provision --platform local" in done.stderr
    with pytest.raises(OperatorNeededError, match="provision"):
        probe(state).ca()


def test_a_port_that_was_taken_meanwhile_is_named(state: Path) -> None:
    layout = Layout(state)
    provision(state)
    control.stop(layout)
    ports = read_ports(layout.ca_config.read_bytes())
    assert ports is not None
    with contextlib.closing(socket.create_server(("127.0.0.1", ports.grpc))):
        with pytest.raises(MachineError, match=f"port {ports.grpc} ") as caught:
            provision(state)
        assert "--ca-port" in caught.value.todo
        assert pids(state) == {}


def test_an_asked_port_in_use_changes_nothing(state: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        with pytest.raises(MachineError, match=f"port {port} "):
            provision(state, ca_port=port)
    assert pids(state) == {}
    deprovision(state)
    assert not state.exists()


def test_an_installation_that_does_not_get_well_says_why_with_the_log(state: Path) -> None:
    layout = Layout(state)
    provision(state)
    layout.issuer_key.chmod(0o644)
    os.kill(pids(state)["ca"], signal.SIGKILL)
    settings = Settings(workloads=(A,))
    until(lambda: any(child.failures for child in support.record(layout).children), "it fails", 60)
    until(lambda: "issuer-key.pem" in layout.log("ca").read_text(), "the next one says why", 60)
    with pytest.raises(MachineError, match="not healthy") as caught:
        SupervisorProcess(layout, settings, gate_seconds=3).gate(lambda _: None)
    logged = [line for line in caught.value.evidence if line.startswith("log of ca: ")]
    assert any("issuer-key.pem" in line for line in logged), caught.value.evidence
    assert "PRIVATE" not in str(caught.value.evidence)
    failing = {one.name: one for one in probe(state).components()}["ca"]
    assert failing.health is Health.FAILED
    assert "exit status 1" in failing.detail
    layout.issuer_key.chmod(0o600)


def test_a_plan_is_stable(state: Path) -> None:
    loaded = plugins.load()

    def digest() -> str:
        return plan.make_plan(loaded, facts.detect(loaded, "local", state, GIVEN), state).digest

    before = digest()
    assert digest() == before
    provision(state)
    assert digest() == before, "a saved plan can be gone on with after a run that was broken off"
