"""`python -m support.fuzz [TARGET ...] [--seconds N]`: targets under libFuzzer (atheris), a process for each."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("token", "csr", "sds", "fetching", "reflection", "http2", "files")
CRASHES = Path("fuzz-crashes")


def main() -> int:
    """1 when a target was broken; the input that did it is then below `fuzz-crashes/`."""
    parser = argparse.ArgumentParser(prog="python -m support.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"which: {', '.join(NAMES)} (all)")
    parser.add_argument("--seconds", type=int, default=30, help="for each (30)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    known, rest = parser.parse_known_args()
    if unknown := sorted(set(known.targets) - set(NAMES)):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if known.child:
        fuzz(known.targets[0], rest)
    broken = [name for name in known.targets or NAMES if not survives(name, known.seconds)]
    print("broken: " + ", ".join(broken) if broken else "none was broken")
    return 1 if broken else 0


def survives(name: str, seconds: int) -> bool:
    from support.fuzz_targets import seeds

    print(f"{name}: {seconds} s ...", flush=True)
    CRASHES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds(name)):
            (Path(corpus) / str(number)).write_bytes(seed)
        limits = (f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-verbosity=0", "-print_final_stats=1")
        command = [sys.executable, "-m", "support.fuzz", name, "--child", *limits]
        done = subprocess.run([*command, f"-artifact_prefix={CRASHES}/{name}-", corpus], check=False)
    if not any(CRASHES.iterdir()):
        CRASHES.rmdir()
    return done.returncode == 0


def fuzz(name: str, arguments: list[str]) -> None:
    """Does not return."""
    import atheris

    logging.disable()  # what a stranger does wrong is logged, and here there are a million of them

    with atheris.instrument_imports(include=["meshpki"]):
        from support.fuzz_targets import TARGETS

    assert tuple(TARGETS) == NAMES
    target = TARGETS[name]
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
