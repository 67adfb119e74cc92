"""Runs the `console` blocks of a documentation page and compares what comes out with what the page shows.

A `demo` block holds what `make demo` says. All other blocks of a page run in their order, in one fresh directory
that is their home, with `meshpki` on the path. A line that begins with `$ ` is a command; the lines behind it, up to
the next command, are its output. A line of three dots stands for any lines. Times, digests, serials, ports and
process ids are not compared.

    PYTHONPATH=tests:deploy/demo python -m support.doc_pages docs/try-it.md     # write today's output into a page
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ANY = "..."
COLUMNS = 100
TIMEOUT_SECONDS = 120
VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?( UTC)?"), "<time>"),
    (re.compile(r"\b\d+:[0-9a-f]{64}\b"), "<end of log>"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "<hex>"),
    (re.compile(r"\b([0-9A-Fa-f]{2}:){7,31}[0-9A-Fa-f]{2}\b"), "<hex>"),
    (re.compile(r"\b\d+ requests"), "<n> requests"),
    (re.compile(r"kill -9 \d+"), "kill -9 <n>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:<port>"),
    (re.compile(r"\b(pid|process|Port|port) \d+"), r"\1 <n>"),
    (re.compile(r"(\b\d+(\.\d+)? ?(ms|s|m|h|d)\b ?)+"), "<duration> "),
    (re.compile(r"serialNumber=\d+"), "serialNumber=<n>"),
    (re.compile(r"/tmp/[\w./-]+"), "<path>"),
    (re.compile(r"^( *\| )\d+ +(?=<time>)"), r"\1<n> "),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"[─━-]{4,}"), "<rule>"),
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, and where its text stands in the page."""

    language: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Command:
    """A command as a reader would type it, and the output that the page shows."""

    line: str
    shown: tuple[str, ...]


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], found.start(2), found.end(2))
        for found in FENCE.finditer(text)
        if found[1] in languages
    ]


def commands(block: Block) -> Iterator[Command]:
    lines = block.text.splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
    assert starts[:1] == [0], f"a console block begins with a command: {block.text[:60]!r}"
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        stop = start
        while lines[stop].endswith("\\"):
            stop += 1
        yield Command("\n".join(lines[start : stop + 1])[2:], tuple(lines[stop + 1 : end]))


def normalised(lines: tuple[str, ...]) -> tuple[str, ...]:
    result = []
    for line in lines:
        text = line
        for pattern, stand_in in VOLATILE:
            text = pattern.sub(stand_in, text)
        result.append(text.strip())
    return tuple(result)


def matches(shown: tuple[str, ...], real: tuple[str, ...]) -> bool:
    """Whether the output is the shown one, `...` standing for any number of lines."""
    if not shown:
        return not real
    if shown[0] == ANY:
        return any(matches(shown[1:], real[start:]) for start in range(len(real) + 1))
    return bool(real) and shown[0] == real[0] and matches(shown[1:], real[1:])


@dataclass(slots=True)
class Shell:
    """Where a page's commands run."""

    directory: Path

    def run(self, line: str) -> tuple[str, ...]:
        """Run a command; give the lines of its output, errors among them, and its exit status if it is not 0."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
            env={
                "HOME": str(self.directory),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "COLUMNS": str(COLUMNS),
                "NO_COLOR": "1",
                "LANG": "C.UTF-8",
            },
        )
        output = [text.rstrip() for text in done.stdout.replace(str(self.directory), "~").splitlines()]
        return (*output, *([f"(exit status {done.returncode})"] if done.returncode else []))


def run_demo() -> str:
    """Play the demonstration; give what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "meshpki_demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": "deploy/demo"},
    )
    return done.stdout


def update(page: Path, shell: Shell) -> None:
    """Write today's output into the page's console blocks; parts that the page leaves out by `...` are not kept."""
    text = page.read_text(encoding="utf-8")
    replaced = []
    for block in blocks(page, "console", "demo"):
        lines: list[str] = []
        if block.language == "demo":
            told = run_demo()
            kept = matches(normalised(tuple(block.text.splitlines())), normalised(tuple(told.splitlines())))
            replaced.append((block, block.text if kept else told))
            continue
        for command in commands(block):
            real = shell.run(command.line)
            keep = command.shown if matches(normalised(command.shown), normalised(real)) else real
            lines += [*f"$ {command.line}".splitlines(), *keep]
        replaced.append((block, "\n".join(lines) + "\n"))
    for block, new in reversed(replaced):
        text = text[: block.start] + new + text[block.end :]
    page.write_text(text, encoding="utf-8")


def main() -> int:
    import shutil
    import tempfile

    from meshpki_demo import leftovers

    for name in sys.argv[1:]:
        directory = Path(tempfile.mkdtemp(prefix="mp-"))
        try:
            update(Path(name), Shell(directory))
        finally:
            leftovers.end(directory)
            shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
