"""Runs `meshpki detect` and halts it at one request, before it is sent or after its answer, until stdin is closed.

    python -m support.detect_halted before|after "POST /api/v1/namespaces/default/serviceaccounts" -- detect ...

It writes `halted` to stdout when it is there.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from meshpki.kube.client import KubeClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshpki.kube.client import Answer

HALTED = "halted"


def main() -> None:
    moment, wanted, _, *arguments = sys.argv[1:]
    send = KubeClient.request
    reached: list[str] = []

    def halt(call: str) -> None:
        if call == wanted and not reached:
            reached.append(call)
            print(HALTED, file=sys.__stdout__, flush=True)  # sys.stdout is not for what others print meanwhile
            sys.stdin.read()

    # Any: the other arguments are passed on as they are.
    def request(
        self: KubeClient, method: str, path: str, body: Mapping[str, object] | None = None, **rest: object
    ) -> Answer:
        if moment == "before":
            halt(f"{method} {path}")
        answer = send(self, method, path, body, **rest)  # type: ignore[arg-type]
        if moment == "after":
            halt(f"{method} {path}")
        return answer

    KubeClient.request = request  # type: ignore[method-assign]
    from meshpki_cli.app import main as run

    sys.argv[:] = ["meshpki", *arguments]
    run()


if __name__ == "__main__":
    main()
