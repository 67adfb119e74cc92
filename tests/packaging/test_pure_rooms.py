"""Whoever says of itself that it is pure is held to it by the contract on imports (`make lint`)."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("core", "plugins/local", "cli")
SAYS_SO = re.compile(r"\bPure[.:]")


def modules() -> dict[str, Path]:
    found = {}
    for source in SOURCES:
        for path in (ROOT / source).rglob("*.py"):
            parts = path.relative_to(ROOT / source).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def test_every_module_that_says_it_is_pure_is_in_the_contract() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contract = next(one for one in tools["importlinter"]["contracts"] if one["name"].startswith("Pure rooms"))
    held = tuple(contract["source_modules"])
    say_so = {
        name
        for name, path in modules().items()
        if SAYS_SO.search(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    }
    assert len(say_so) > 20, "they are found"
    assert {name for name in say_so if not any(name == one or name.startswith(f"{one}.") for one in held)} == set()
