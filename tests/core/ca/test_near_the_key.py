"""Who may touch the signing key, and who makes what is signed: read off the source."""

from __future__ import annotations

import ast
from pathlib import Path

from meshpki import ca

ROOM = Path(ca.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text()) for path in sorted(ROOM.rglob("*.py"))}


def callers(name: str) -> set[str]:
    """The modules of the room that call something of that name, as a function or as a method."""
    return {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and name in {getattr(node.func, "attr", None), getattr(node.func, "id", None)}
    }


def importers(name: str) -> set[str]:
    return {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}
    }


def test_sign_is_called_by_issue_alone() -> None:
    # Beside `issue`: the signer's own primitive; the library's builders, which take throw-away keys or new ones.
    assert callers("sign") == {"issue", "signer", "hierarchy", "self_check"}
    assert callers("sign_probe") == {"issuer"}


def test_only_prepare_makes_what_issue_takes() -> None:
    assert callers("Prepared") == {"prepare"}
    assert callers("spend") == {"issue", "self_check"}


def test_the_pure_modules_read_no_clock_and_no_randomness() -> None:
    pure = ("der", "pem", "csr", "keys", "template", "lifetime", "lint", "prepare", "authorize", "chain", "profile")
    for module in pure:
        names = {
            alias.name.partition(".")[0]
            for node in ast.walk(MODULES[module])
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not names & {"os", "random", "secrets", "socket", "pathlib", "threading"}, module
        assert not callers_in(MODULES[module], {"time", "time_ns", "now", "utcnow", "open", "urandom"}), module


def callers_in(tree: ast.Module, names: set[str]) -> set[str]:
    return {
        found
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for found in (getattr(node.func, "attr", None), getattr(node.func, "id", None))
        if found in names
    }


def test_no_server_module_knows_the_root_key() -> None:
    holders = {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "ROOT_KEY"
    }
    assert holders == {"material"}
    assert importers("ROOT_KEY") == set()
