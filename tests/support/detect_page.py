"""The outputs of `meshpki detect` that docs/detect.md shows: four clusters under four contexts, on a terminal.

PYTHONPATH=tests python -m support.detect_page     # write today's output into the page
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from support.command_line import on_terminal, plain
from support.doc_pages import COLUMNS, ROOT, blocks
from support.kube.flags import DEFAULT_ISSUER
from support.kube_assets.releases import Release

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.kube.api_server import ApiServer
    from support.kube.pool import ApiServerPool

PAGE = ROOT / "docs" / "detect.md"
LANGUAGE = "detect"
COMMAND = "$ meshpki detect --context "
OPEN = f"--api-audiences={DEFAULT_ISSUER},istio-ca"
"""What older guides told their readers to set."""


def servers(pool: ApiServerPool) -> dict[str, ApiServer]:
    """The clusters of the page by the names of their contexts."""
    return {
        "as-it-came": pool(Release.FOUNDING, issuers=()),
        "with-flags": pool(Release.FOUNDING, issuers=("kubernetes.default.svc",)),
        "modern": pool(Release.MODERN),
        "careless": pool(Release.MODERN, OPEN),
    }


def shown() -> dict[str, list[str]]:
    """What the page shows, by context: the lines behind the command."""
    found = {}
    for block in blocks(PAGE, LANGUAGE):
        first, *rest = block.text.splitlines()
        found[first.removeprefix(COMMAND)] = rest
    return found


def run(contexts: Mapping[str, ApiServer]) -> dict[str, list[str]]:
    """What comes now, by context, with the exit status if it is not 0."""
    with tempfile.TemporaryDirectory(prefix="mp-") as name:
        home = Path(name)
        (home / ".kube").mkdir()
        config = home / ".kube" / "config"
        config.touch(mode=0o600)
        config.write_text(json.dumps(_merged(contexts)))
        return {context: _run(context, home) for context in contexts}


def _run(context: str, home: Path) -> list[str]:
    env = {"HOME": str(home), "KUBECONFIG": "", "NO_COLOR": "1"}
    # What is told of a step that takes long is on the terminal too, and is gone when it is done.
    # Patience alone is not on the page: the machine that runs the tests may be busy.
    ran = on_terminal("detect", "--context", context, "--timeout", "60", columns=COLUMNS, env=env)
    lines = [line.rstrip() for line in plain(ran.out).replace(str(home), "~").splitlines()]
    start = next((number for number, line in enumerate(lines) if "https://" in line), 0)
    return [*lines[start:], *([f"(exit status {ran.code})"] if ran.code else [])]


def _merged(contexts: Mapping[str, ApiServer]) -> dict[str, object]:
    merged: dict[str, list[object]] = {"clusters": [], "users": [], "contexts": []}
    for name, server in contexts.items():
        document = json.loads(server.admin_kubeconfig.read_text())
        merged["clusters"].append({**document["clusters"][0], "name": name})
        merged["users"].append({**document["users"][0], "name": name})
        merged["contexts"].append({"name": name, "context": {"cluster": name, "user": name}})
    return {"apiVersion": "v1", "kind": "Config", **merged}


def main() -> int:
    from support.kube.pool import ApiServerPool

    pool = ApiServerPool()
    try:
        found = run(servers(pool))
    finally:
        pool.close()
    text = PAGE.read_text()
    for block in reversed(blocks(PAGE, LANGUAGE)):
        first = block.text.splitlines()[0]
        new = "\n".join([first, *found[first.removeprefix(COMMAND)]]) + "\n"
        text = text[: block.start] + new + text[block.end :]
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
