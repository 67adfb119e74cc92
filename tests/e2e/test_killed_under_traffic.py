"""kill -9 of agents, supervisor and everything at once, while requests go through two Envoys: none fails."""

from __future__ import annotations

import io
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from meshpki_demo import story
from meshpki_demo.narrate import Narrator
from meshpki_demo.stage import CLIENT, STATE, Stage, stage
from meshpki_demo.traffic import Traffic
from meshpki_local import run_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400), pytest.mark.xdist_group("killed")]
BOUND_SECONDS = 90.0
CERTIFICATE_TTL = "60s"
"""Half of it is what the repair may take, on any machine."""
PROVISION = ("provision", "--platform", "local", "--state-dir", STATE, "--certificate-ttl", CERTIFICATE_TTL)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(story, "CERTIFICATE_TTL", CERTIFICATE_TTL)
    with stage(Narrator(io.StringIO())) as ready:
        story.provision(ready)
        story.start_envoys(ready)
        yield ready


def processes(on: Stage) -> dict[str, int]:
    """Ids by name, as the supervisor last said; none while it has not spoken."""
    record = run_file.read(on.layout.run_file)
    return {"supervisor": record.pid, **{child.name: child.pid for child in record.children}} if record else {}


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + BOUND_SECONDS
    while not holds():
        assert time.monotonic() < end, f"not within {BOUND_SECONDS:.0f} s: {what}"
        time.sleep(0.05)


def wait_for_rotation(traffic: Traffic) -> None:
    seen = set(traffic.tally.serials)
    until(lambda: not set(traffic.tally.serials) <= seen, "a new certificate is in use")
    traffic.wait_sent(20)


def assert_none_failed(traffic: Traffic) -> None:
    assert traffic.tally.failed == 0, traffic.tally.failures
    assert traffic.tally.sent > 100


def test_agents(on: Stage) -> None:
    """Envoy keeps what it has; the next agent serves the stream that Envoy opens anew."""
    before = processes(on)
    agents = [name for name in before if name.startswith("agent-")]
    assert len(agents) == 2
    with Traffic(on.envoys[CLIENT].listener()) as traffic:
        traffic.wait_sent(20)
        for name in agents:
            os.kill(before[name], signal.SIGKILL)
        until(lambda: all(processes(on).get(name) not in {None, 0, before[name]} for name in agents), "agents are back")
        wait_for_rotation(traffic)
    assert_none_failed(traffic)
    assert on.meshpki.run("status", "--state-dir", STATE).status == 0


def test_supervisor(on: Stage) -> None:
    """Its children live on; the next one adopts them, by the command that anybody would try."""
    before = processes(on)
    with Traffic(on.envoys[CLIENT].listener()) as traffic:
        traffic.wait_sent(20)
        os.kill(before["supervisor"], signal.SIGKILL)
        until(lambda: on.meshpki.run("status", "--state-dir", STATE).status != 0, "status says that something is wrong")
        on.meshpki.check(*PROVISION, "--yes")
        after = processes(on)
        wait_for_rotation(traffic)
    assert_none_failed(traffic)
    assert after["supervisor"] != before["supervisor"]
    children = set(before) - {"supervisor"}
    assert {name: after[name] for name in children} == {name: before[name] for name in children}
    assert on.meshpki.run("status", "--state-dir", STATE).status == 0


def test_everything_at_once(on: Stage) -> None:
    before = processes(on)
    with Traffic(on.envoys[CLIENT].listener()) as traffic:
        wait_for_rotation(traffic)  # so that the certificates are fresh: half of their life is left for the repair
        for pid in processes(on).values():
            os.kill(pid, signal.SIGKILL)
        on.meshpki.check(*PROVISION, "--yes")
        wait_for_rotation(traffic)
    assert_none_failed(traffic)
    assert set(processes(on)) == set(before)
    assert on.meshpki.run("audit", "verify", f"{STATE}/audit/issuance.jsonl").status == 0
