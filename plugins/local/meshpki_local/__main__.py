"""`python -m meshpki_local <state directory>`: the supervisor as a process of its own, in the background."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Step out of the caller's reach, then supervise. Output is where the caller put it: the supervisor's log."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m meshpki_local <state directory>; by hand: meshpki run --platform local\n")
        return 2
    # The caller waits for this first process only; the second is nobody's child, so it leaves no zombie behind.
    if os.fork():
        return 0
    os.chdir("/")

    import contextlib
    import logging

    from meshpki.errors import MeshpkiError
    from meshpki.runtime import logs
    from meshpki_local.layout import Layout
    from meshpki_local.processes import DEBUG, NOTIFY
    from meshpki_local.supervisor import supervise

    def say_so() -> None:
        with contextlib.suppress(OSError):
            os.write(NOTIFY, b"\n")
            os.close(NOTIFY)

    with contextlib.suppress(OSError):  # Nobody waits for word when it was started by hand.
        os.set_inheritable(NOTIFY, False)
    logs.configure("debug" if os.environ.get(DEBUG) == "1" else "info")
    try:
        return supervise(Layout(Path(argv[0])), say_so)
    except MeshpkiError as error:
        logging.getLogger("meshpki_local").error("does not start", extra={"reason": str(error)})  # noqa: TRY400 - no bug
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
