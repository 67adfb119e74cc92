"""`--agent node`: one agent for all workloads, put in place of theirs and taken back, and asked with their tokens."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import UsageError
from meshpki.hooks import EffectState, Health, Mode
from meshpki.identity import ServiceAccountRef
from meshpki_local import installation, planning, specs, statuses
from meshpki_local.effects.workloads import Workloads
from meshpki_local.layout import NODE_AGENT, Layout
from meshpki_local.ports import Ports
from meshpki_local.settings import OPTIONS, Agents, Settings, settle
from support import ca_server
from support.agent_process import wait_until
from support.command_line import spawn
from support.node_agent import NodeAgentProcess
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshpki.hooks import Params

A, B = (ServiceAccountRef("default", name) for name in "ab")
BESIDE = Settings(workloads=(A, B))
NODE = Settings(workloads=(A, B), agent=Agents.NODE)
DEFAULTS: Params = {option.name: option.default for option in OPTIONS}


@pytest.fixture
def layout() -> Iterator[Layout]:
    path = Path(tempfile.mkdtemp(prefix="mpl-", dir="/tmp"))
    yield Layout(path)
    shutil.rmtree(path)


def test_the_place_is_chosen_kept_and_written_down() -> None:
    chosen = settle({**DEFAULTS, "agent": "node"}, Mode.SDS, BESIDE)
    assert chosen == NODE
    assert settle(DEFAULTS, Mode.SDS, chosen) == NODE
    assert settle({**DEFAULTS, "agent": "workload"}, Mode.SDS, chosen) == BESIDE
    assert installation.parse(installation.render(NODE)) == NODE
    assert Settings.from_params(NODE.params()) == NODE


@pytest.mark.parametrize(("place", "mode"), [("pod", Mode.SDS), ("Node", Mode.SDS), ("node", Mode.FILE_MOUNT)])
def test_a_place_that_is_none_is_refused(place: str, mode: Mode) -> None:
    with pytest.raises(UsageError):
        settle({**DEFAULTS, "agent": place}, mode, None)


def test_one_agent_runs_without_a_token_of_its_own(layout: Layout) -> None:
    layout.ca.mkdir()
    for path in (layout.ca_config, layout.issuer_certificate, layout.root_certificate):
        path.write_bytes(b"x")
    ca, agent = specs.wanted_children(layout, NODE, Ports(1, 2))
    assert (ca.name, agent.name) == ("ca", NODE_AGENT)
    assert "--node" in agent.argv
    assert str(layout.node_socket) in agent.argv
    assert "--token-file" not in agent.argv
    assert {specs.agent_of(account, NODE) for account in (A, B)} == {NODE_AGENT}
    assert "+ 1 agent for all workloads" in planning.supervisor(NODE).diff


def test_agents_beside_workloads_leave_nothing_that_is_no_longer_served(layout: Layout) -> None:
    Workloads(layout, BESIDE).apply(lambda _: None)
    for account in (A, B):
        paths = layout.workload(account)
        paths.token.write_text("token")
        paths.status.write_text("{}")
        for file in (paths.certificates / "..set-0" / "key.pem", paths.cache / "identity.json"):
            file.parent.mkdir(mode=0o700, parents=True)
            file.write_text("key")
        paths.certificates.chmod(0o700)
    there = Workloads(layout, NODE)
    assert there.observe().state is EffectState.DIFFERENT
    there.apply(lambda _: None)
    assert there.observe().state is EffectState.DONE
    left = sorted(str(path.relative_to(layout.workloads)) for path in layout.workloads.rglob("*"))
    assert left == ["default.a", "default.a/token", "default.b", "default.b/token"]


def test_and_back(layout: Layout) -> None:
    Workloads(layout, NODE).apply(lambda _: None)
    layout.node.mkdir(mode=0o750)
    back = Workloads(layout, BESIDE)
    assert back.observe().state is EffectState.DIFFERENT
    back.apply(lambda _: None)
    assert not layout.node.exists()
    assert back.observe().state is EffectState.DONE
    assert layout.workload(A).sds.is_dir()


def test_taking_it_all_back_takes_the_nodes_socket_too(layout: Layout) -> None:
    effect = Workloads(layout, NODE)
    record = effect.undo_record()
    effect.apply(lambda _: None)
    layout.node.mkdir(mode=0o750)
    effect.undo(record, lambda _: None)
    assert list(layout.state.iterdir()) == []


@pytest.mark.e2e
def test_each_workload_is_asked_for_with_its_own_token(layout: Layout, tmp_path: Path) -> None:
    with ca_server.running(tmp_path) as ca:
        agent = NodeAgentProcess(layout.state, ca.server.address)
        agent.roots.write_bytes(ca.authority.root_pem)
        for account, maker in ((A, ca.maker), (B, TokenMaker(slot=5))):
            paths = layout.workload(account)
            paths.directory.mkdir(parents=True)
            paths.token.touch(mode=0o600)
            paths.token.write_bytes(maker.token(now=time.time(), name=account.name))
        assert statuses.read(layout, NODE, A) is None
        with agent:
            assert agent.socket == layout.node_socket
            wait_until(lambda: statuses.read(layout, NODE, A) and statuses.read(layout, NODE, B), "an answer for each")
            a, b = (statuses.read(layout, NODE, account) for account in (A, B))
            assert a is not None
            assert b is not None
            assert (a.health, a.spiffe_id) == (Health.FRESH, "spiffe://mesh.local/ns/default/sa/a")
            assert 3500 < a.not_after - time.time() <= 3600
            assert (b.health, b.spiffe_id) == (Health.DENIED, "")
            assert "not accepted" in b.failure
            layout.workload(A).token.unlink()
            assert statuses.read(layout, NODE, A) is None


@pytest.mark.e2e
def test_it_is_put_in_place_of_the_others_and_back_while_all_runs(layout: Layout) -> None:
    state = ("--platform", "local", "--state-dir", str(layout.state / "s"), "--yes")
    try:
        for place, checks in (("workload", 12), ("node", 11), ("workload", 12)):
            done = spawn("provision", *state, "--agent", place)
            assert done.code == 0, done.err
            assert f"{checks} of {checks} checks passed" in done.out
        assert not (layout.state / "s" / "node").exists()
        wait_until(lambda: spawn("status", "--state-dir", str(layout.state / "s")).code == 0, "all is well")
        again = spawn("provision", *state)
        assert "Nothing to change" in again.out
    finally:
        assert spawn("deprovision", "--state-dir", str(layout.state / "s"), "--yes").code == 0
