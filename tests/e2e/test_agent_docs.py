"""docs/agent-running.md says what there is: every option, metric, state and fault, and no other."""

from __future__ import annotations

import re
import time

import yaml

from meshpki.agent import observe
from meshpki.agent.bundle import Bundle
from meshpki.agent.failure import FailureKind
from meshpki.agent.keeper import KeeperStatus
from meshpki.hooks import Health
from support.command_line import invoke
from support.doc_pages import ROOT, blocks
from support.snapshots import snapshot

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
        health=Health.FRESH, snapshot=snapshot(1), bundle=Bundle(), renew_at=time.time(), renewals=1, failures={}
    )
    families = [*observe.families([status]), observe.turned_away({"token_expired": 1}), observe.tokens({"serving": 1})]
    shown = {sample.name for family in families for sample in family.samples}
    assert cells("metric") == shown


def test_states_and_faults_are_those_there_are() -> None:
    assert cells("state") == {state.value for state in observe.STATES}
    assert cells("`fault`") == {kind.value for kind in FailureKind}
