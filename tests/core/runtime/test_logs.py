"""The log: one form for machines, one for people, and no secret in either."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshpki.errors import UsageError
from meshpki.runtime.logs import JsonFormatter, TextFormatter, configure, redact
from support.tokens import TokenMaker, rsa_key

if TYPE_CHECKING:
    pass

TOKEN = TokenMaker().token().decode()
KEY = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(stream: io.StringIO, level: str = "info") -> logging.Logger:
    configure(level, stream=stream)
    return logging.getLogger("meshpki.test")


def test_machines_get_json_lines() -> None:
    stream = io.StringIO()
    logged(stream).info("certificate issued", extra={"serial": "ab", "seconds": 2})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "meshpki.test",
        "message": "certificate issued",
        "serial": "ab",
        "seconds": 2,
    }


def test_people_get_short_lines() -> None:
    stream = Terminal()
    logged(stream).warning("disk nearly full", extra={"free": "3 MB"})
    assert stream.getvalue().rstrip().endswith("warning disk nearly full free=3 MB")


def test_a_traceback_is_one_field() -> None:
    stream = io.StringIO()
    logged(stream).error("failed", exc_info=ValueError("oh"))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert "ValueError: oh" in json.loads(lines[0])["error"]


def test_levels() -> None:
    stream = io.StringIO()
    logger = logged(stream, "warning")
    logger.info("hidden")
    logger.error("shown")
    assert stream.getvalue().count("\n") == 1
    with pytest.raises(UsageError, match="loud"):
        configure("loud")


SECRETS = {"jwt": TOKEN, "key": KEY, "cut jwt": TOKEN[:60], "header": f"Bearer {TOKEN}", "cut key": KEY[:200]}


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_never_comes_out(formatter: logging.Formatter, secret: str) -> None:
    def render(said: str = "", **values: object) -> str:
        record = logging.LogRecord("x", logging.INFO, "f", 1, "said %s", (said,), None)
        vars(record).update(values)
        return formatter.format(record)

    error = ValueError(secret)
    raised = (ValueError, error, None)
    for text in (
        render(said=secret),
        render(extra_field=secret),
        render(nested={"a": [secret]}),
        render(exc_info=raised),
    ):
        assert "redacted" in text
        assert secret.partition(".")[0][-40:] not in text
        assert "MII" not in text


def test_what_is_no_secret_stays() -> None:
    for text in ("spiffe://mesh.local/ns/default/sa/web", "eye", "-----BEGIN CERTIFICATE-----\nMIIB\n", "a.b.c"):
        assert redact(text) == text
