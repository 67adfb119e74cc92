"""docs/agent-node-mode.md as written: its arguments are those of the command."""

from __future__ import annotations

import yaml

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
