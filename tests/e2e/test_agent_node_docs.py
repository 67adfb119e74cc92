"""docs/agent-node-mode.md as written: its arguments are those of the command."""

from __future__ import annotations

import re

import yaml

from meshpki.agent.node.config import AT_ONCE
from meshpki.agent.socket.connections import affordable, for_node
from support.command_line import invoke
from support.doc_pages import ROOT, blocks

PAGE = ROOT / "docs" / "agent-node-mode.md"


def arguments() -> list[str]:
    (block,) = blocks(PAGE, "yaml")
    return list(yaml.safe_load(block.text)["containers"][0]["args"])


def test_the_arguments_exist() -> None:
    help_text = invoke("agent", "run", "--help").out
    assert arguments()[:2] == ["agent", "run"]
    for argument in arguments()[2:]:
        assert argument.split("=")[0] in help_text


def test_the_limits_on_open_files_are_those_that_are_needed() -> None:
    """The table says of a number of workloads how many files the agent must be allowed to open, with the defaults."""
    table = PAGE.read_text().partition("| workloads |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \|", table, re.MULTILINE)
    assert len(rows) >= 3
    of_an_envoy = for_node(1000) // 1000
    for workloads, limit in rows:
        wanted, files = (int(number.replace(",", "")) for number in (workloads, limit))
        needed = of_an_envoy * wanted
        assert affordable(needed, files, AT_ONCE) == needed
        assert affordable(needed, files - 1, AT_ONCE) < needed
