"""Logging without secrets: JSON lines for machines, short lines on a terminal, tokens and keys cut out of both."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Final, TextIO

from meshpki.errors import UsageError
from meshpki.runtime.log_stream import PatientHandler

LEVELS: Final = ("debug", "info", "warning", "error")
_SECRET: Final = re.compile(
    r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,2}"  # a JWT, whole or cut: base64url of '{"'
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_STANDARD: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "taskName",
}


def redact(text: str) -> str:
    """Replace whatever looks like a JWT or a private key. The last net: nothing of ours logs one knowingly."""
    return _SECRET.sub("[redacted]", text)


def fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    """The values given by `extra=`, in the order in which they were given."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def plain(text: str) -> str:
    """Spell out what would break a line or steer a terminal: control characters, separators, marks of direction.

    As JSON does, so that a value of a client's is one line in every reader's eyes, and looks the same in both forms.
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    return json.dumps(char)[1:-1]


def _fit(value: object) -> object:
    """What JSON can hold of a value, each text redacted by itself: a cut across two of them would spoil the line."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping():
            return {redact(str(key)): _fit(inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_fit(inner) for inner in value]
        case _:
            return redact(str(value))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, then the `extra` fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render the record; the traceback, if any, goes into `error`."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        # What JSON leaves as it is and a terminal does not stands inside of strings only: there it can be spelled out.
        return plain(json.dumps(_fit(line), ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """For a person: time of day, level, message, then the `extra` fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Render the record on one line, followed by its traceback, if any."""
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        extra = "".join(f" {key}={redact(str(value))}" for key, value in fields_of(record).items())
        lines = [f"{moment} {record.levelname.lower():7} {redact(record.getMessage())}{extra}"]
        if record.exc_info:  # indented: what an error quotes cannot pass for a line of ours
            lines += [f"    {line}" for line in redact(self.formatException(record.exc_info)).split("\n")]
        return "\n".join(map(plain, lines))


def quiet_grpc() -> None:
    """Keep gRPC's native library from writing lines of its own to stderr, where our log is. Before its import.

    Every failed handshake of a stranger is such a line. What concerns us comes back as a status and is logged by us.
    Who looks for a fault of gRPC's sets GRPC_VERBOSITY in the environment, which has the last word.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.getLogger("grpc._cython.cygrpc").addFilter(_client_left)


def _client_left(record: logging.LogRecord) -> bool:
    """Let gRPC say at debug level, not as an error with a traceback, that a client left in the middle of its answer."""
    error = record.exc_info[1] if record.exc_info else None
    if type(error).__name__ != "ExecuteBatchError":  # a name that gRPC does not export
        return True
    record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
    record.exc_info = None
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


def configure(level: str = "info", *, stream: TextIO | None = None) -> None:
    """Send this process's log to `stream` (stderr): text on a terminal, JSON lines elsewhere.

    Raises UsageError for an unknown level.
    """
    if level not in LEVELS:
        raise UsageError(f"log level {level!r}", wanted=f"one of {', '.join(LEVELS)}")
    target = stream or sys.stderr
    handler = PatientHandler(target) if _is_a_file(target) else logging.StreamHandler(target)
    handler.setFormatter(TextFormatter() if target.isatty() else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _is_a_file(stream: TextIO) -> bool:
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError):  # a text in memory, or closed
        return False
