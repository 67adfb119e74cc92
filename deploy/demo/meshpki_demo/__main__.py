"""`python -m meshpki_demo`: play the story; exit 0 when all came as told, 1 when not, 130 when interrupted."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING, Final, Never

from meshpki.errors import MachineError, MeshpkiError
from meshpki_demo.envoy import find_envoy
from meshpki_demo.narrate import Narrator
from meshpki_demo.stage import log_tails, stage
from meshpki_demo.story import STEPS

if TYPE_CHECKING:
    from types import FrameType

    from meshpki_demo.stage import Stage

STORY: Final = "A whole mesh on this machine, in under a minute; it removes what it makes, also when interrupted."
INTERRUPTED: Final = 130
OUTPUT_CLOSED: Final = 141
"""Whoever read the story has left, as `head` does."""
STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Play all steps on a fresh stage, and sweep it."""
    argparse.ArgumentParser(prog="meshpki_demo", description=STORY).parse_args()
    for number in STOPPING:
        signal.signal(number, _interrupt)
    tell = Narrator()
    tell.title("meshpki: two Envoys, one machine, identities against trustworthy tokens")
    try:
        find_envoy()
        with stage(tell) as on:
            tell.say(f"Everything below happens in {on.directory} and is removed at the end.")
            status = _play(on)
            _ignore_interrupts()
    except MachineError as error:
        tell.bad(str(error))
        return 1
    except KeyboardInterrupt:
        tell.end("Interrupted; everything was stopped and removed.")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain about it at the end
        return OUTPUT_CLOSED
    tell.end("All as told." if status == 0 else "NOT as told: see above.")
    return status


def _play(on: Stage) -> int:
    for number, step in enumerate(STEPS, 1):
        on.tell.step(number, step.title)
        try:
            step.play(on)
        except KeyboardInterrupt:
            _ignore_interrupts()
            raise
        except MeshpkiError as error:
            on.tell.bad(f"step {number} ({step.title}): {error}")
            on.tell.output("\n".join(error.evidence))
            for name, tail in log_tails(on):
                on.tell.say(f"end of {name}:")
                on.tell.output(tail)
            return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> Never:
    """One is enough: a second Ctrl-C must not cut the clean-up short."""
    _ignore_interrupts()
    raise KeyboardInterrupt


def _ignore_interrupts() -> None:
    """Not by SIG_IGN: programs that are started for the clean-up would inherit that."""
    for number in STOPPING:
        signal.signal(number, _nothing)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    return


if __name__ == "__main__":
    sys.exit(main())
