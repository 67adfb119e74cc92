"""docs/agent-running.md says what there is: every option, metric, state and fault, and no other."""

from __future__ import annotations

import re
import signal
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from meshpki.agent.files.standing import FilesStanding
from meshpki.agent.process import observe
from meshpki.agent.renewal.keeper import KeeperStatus
from meshpki.agent.renewal.renewing_source import TokenFault
from meshpki.agent.rotation.bundle import Bundle
from meshpki.agent.rotation.failure import Failure, FailureKind
from meshpki.hooks import Health
from support.agent_process import wait_until
from support.command_line import invoke
from support.doc_pages import ROOT, blocks
from support.node_crowd import NodeCa, agent_of
from support.snapshots import snapshot

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PAGE = ROOT / "docs" / "agent-running.md"


def cells(first: str) -> set[str]:
    """The first cells, in backquotes, of the table whose heading begins so."""
    table = PAGE.read_text().partition(f"| {first} |")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE))


def test_the_options_are_the_commands() -> None:
    (block,) = blocks(PAGE, "yaml")
    arguments = yaml.safe_load(block.text)["containers"][0]["args"]
    help_text = invoke("agent", "run", "--help").out
    assert arguments[:2] == ["agent", "run"]
    for argument in arguments[2:]:
        assert re.search(rf"{re.escape(argument.partition('=')[0])}\b", help_text), argument


def test_the_metrics_are_those_that_are_shown() -> None:
    status = KeeperStatus(
        health=Health.OVERDUE,
        snapshot=snapshot(1),
        bundle=Bundle(),
        renew_at=time.time(),
        failure=Failure(FailureKind.NETWORK, "unavailable", "away"),
        failing_since=time.time(),
    )
    families = [
        *observe.families([status], {}),
        observe.turned_away({"token_expired": 1}),
        observe.tokens({"serving": 1}),
        *observe.of_files(FilesStanding(ends=1)),
        observe.of_token(TokenFault("token_expired", 1)),
    ]
    shown = {sample.name for family in families for sample in family.samples}
    assert cells("metric") == shown


def test_states_and_faults_are_those_there_are() -> None:
    assert cells("state") == {state.value for state in observe.STATES}
    assert cells("`fault`") == {kind.value for kind in FailureKind}


def statuses() -> dict[str, int]:
    """What the page says of how the agent ends: the number in each row."""
    table = PAGE.read_text().partition("| what happens | exit status |")[2].partition("\n\n")[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines() if row and "---" not in row]
    return {what: int(re.findall(r"\d+", status)[0]) for what, status in rows}


def by_shell(status: int) -> int:
    """As a shell has it: 128 and the number of the signal that ended it."""
    return status if status >= 0 else 128 - status


@pytest.mark.e2e
def test_it_ends_as_the_page_says() -> None:
    """Signals while the program loads are tried in tests/cli/test_early_signals.py, terminals in test_hangup.py."""
    said = statuses()
    assert said.pop("the terminal that it was started from closes (`SIGHUP`)") == 0
    with tempfile.TemporaryDirectory(prefix="mpd-", dir="/tmp") as directory, NodeCa() as ca:
        agents = {number: agent_of(ca, Path(directory) / number.name) for number in SIGNALS}
        for agent in agents.values():
            agent.launch()
        ended = {}
        for number, agent in agents.items():
            assert agent.process is not None
            wait_until(agent.socket.is_socket, "a socket")
            if number is signal.SIGTERM:
                second = agent_of(ca, agent.directory)
                second.log_name = "second.log"
                second.launch()
                assert second.process is not None
                assert second.process.wait(60) == said.pop("the socket's path, or the port for `--http`, cannot be had")
            agent.process.send_signal(number)
            ended[number] = by_shell(agent.process.wait(60))
    serving = said.pop("`SIGTERM` or `SIGINT` while it serves")
    assert ended == {signal.SIGTERM: serving, signal.SIGINT: serving}
    assert invoke("agent", "run").code == said.pop("options that cannot be meant")
    assert said == {
        "`SIGTERM` while the program is still loading": by_shell(-signal.SIGTERM),
        "`SIGINT` while the program is still loading": by_shell(-signal.SIGINT),
    }
