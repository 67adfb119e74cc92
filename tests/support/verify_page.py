"""The outputs of `meshpki verify` that docs/verify.md shows: one cluster, a CA by two policies, on a terminal.

PYTHONPATH=tests python -m support.verify_page     # write today's output into the page
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from meshpki.ca.config_clusters import Authentication
from support import ca_server, detect_page, proofs
from support.command_line import on_terminal, plain
from support.doc_pages import COLUMNS, ROOT, blocks

if TYPE_CHECKING:
    from support.kube.api_server import ApiServer

PAGE = ROOT / "docs" / "verify.md"
LANGUAGE = "verify"
SECONDS = re.compile(r"token_pod_gone \(\d+ s\)")
"""How long an API server remembers, and when it was asked: 10 s more or less."""


def shown() -> list[tuple[str, list[str]]]:
    """What the page shows: each command, joined to one line, and the lines behind it."""
    found = []
    for block in blocks(PAGE, LANGUAGE):
        command, _, rest = block.text.replace("\\\n", " ").partition("\n")
        found.append((" ".join(command.split()), rest.splitlines()))
    return found


def run(command: str, how: Authentication, prod: ApiServer, edge: ApiServer) -> list[str]:
    """What comes now, with the exit status if it is not 0."""
    with tempfile.TemporaryDirectory(prefix="mp-") as name:
        home = Path(name)
        (home / ".kube").mkdir()
        config = home / ".kube" / "config"
        config.touch(mode=0o600)
        config.write_text(json.dumps(detect_page._merged({"prod": prod, "edge": edge})))
        with (
            proofs.ca_for(home / "ca", proofs.cluster_settings(prod, home, how)) as ca,
            proofs.token_controller(prod),
        ):
            (home / "roots.pem").write_bytes(ca.roots_pem)
            given = command.replace("ca.example.com:15012", ca.address).replace("roots.pem", f"{home}/roots.pem")
            arguments = [*given.split()[2:], "--ca-server-name", ca_server.SERVER_NAME, "--timeout", "60"]
            env = {"HOME": str(home), "KUBECONFIG": "", "NO_COLOR": "1"}
            ran = on_terminal(*arguments, columns=COLUMNS, env=env)
    lines = [line.rstrip() for line in plain(ran.out).replace(str(home), "~").splitlines()]
    start = next((number for number, line in enumerate(lines) if line.startswith("https://")), 0)
    return [*lines[start:], *([f"(exit status {ran.code})"] if ran.code else [])]


def policy_of(command: str) -> Authentication:
    """The page's second CA goes by keys alone."""
    return Authentication.HYBRID if "--other-context" in command else Authentication.JWKS


def steady(lines: list[str]) -> tuple[str, ...]:
    """Without what differs from run to run, and where lines were broken because of it."""
    from support.doc_pages import normalised

    return normalised((SECONDS.sub("token_pod_gone", " ".join(" ".join(lines).split())),))


def main() -> int:
    from support.kube.pool import ApiServerPool
    from support.kube_assets.releases import Release

    pool = ApiServerPool()
    try:
        prod, edge = pool(Release.MODERN), pool(Release.MIDDLE)
        found = [run(command, policy_of(command), prod, edge) for command, _ in shown()]
    finally:
        pool.close()
    text = PAGE.read_text()
    for block, lines in reversed(list(zip(blocks(PAGE, LANGUAGE), found, strict=True))):
        head = re.match(r"(?:.*\\\n)*.*\n", block.text)
        assert head is not None
        text = text[: block.start] + head[0] + "\n".join(lines) + "\n" + text[block.end :]
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
