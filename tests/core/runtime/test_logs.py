"""The log: one form for machines, one for people, and no secret in either."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshpki.errors import UsageError
from meshpki.runtime import logs
from meshpki.runtime.logs import JsonFormatter, TextFormatter, configure, redact
from support.tokens import TokenMaker, rsa_key

if TYPE_CHECKING:
    from collections.abc import Iterator

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


STEERING = {
    "newline": "\n",
    "carriage return": "\r",
    "tab": "\t",
    "escape": "\x1b[2J",
    "delete": "\x7f",
    "c1 next line": "\x85",
    "c1 csi": "\x9b2J",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "bidi override": "\u202e",
    "bidi isolate": "\u2066",
    "zero width": "\u200b",
    "tag": "\U000e0041",
    "half a pair": "\udc80",
}


def rendered(formatter: logging.Formatter, text: str) -> str:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "said %s", (text,), None)
    vars(record).update(value=text, nested={"a": [text], text: 1})
    return formatter.format(record)


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
@pytest.mark.parametrize("mark", STEERING.values(), ids=STEERING.keys())
def test_no_name_of_a_clients_makes_a_line_or_steers_a_terminal(formatter: logging.Formatter, mark: str) -> None:
    line = rendered(formatter, f"web{mark}12:00:00 error   forged")
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    line.encode()  # any stream can take it


@pytest.mark.parametrize("mark", STEERING.values(), ids=STEERING.keys())
def test_json_says_the_very_same_text(mark: str) -> None:
    said = json.loads(rendered(JsonFormatter(), f"a{mark}b"))
    assert said["message"] == f"said a{mark}b"
    assert (said["value"], said["nested"]["a"]) == (f"a{mark}b", [f"a{mark}b"])


def test_letters_of_any_script_stay_as_they_are() -> None:
    for formatter in (JsonFormatter(), TextFormatter()):
        assert "Grüße, мир, 世界" in rendered(formatter, "Grüße, мир, 世界")


def test_what_an_error_quotes_cannot_pass_for_a_line() -> None:
    stream = Terminal()
    logged(stream).error("failed", exc_info=ValueError("oh\n12:00:00 info    all is well\u202812:00:01 info    fine"))
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("error   failed")
    assert others
    assert all(line.startswith("    ") for line in others)
    assert others[-1] == "    12:00:00 info    all is well\\u202812:00:01 info    fine"


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_json_with_a_secret_in_any_place_is_json(secret: str) -> None:
    """A key that was cut off ends nowhere: cut out of the whole line it would take the rest of that along."""
    record = logging.LogRecord("x", logging.INFO, "f", 1, "said %s", (secret,), None)
    vars(record).update(
        first=secret, nested={secret: [secret, {"deep": secret}]}, error=ValueError(secret), last="here"
    )
    record.exc_info = (ValueError, ValueError(secret), None)
    line = JsonFormatter().format(record)
    said = json.loads(line)
    assert said["last"] == "here"
    assert "redacted" in said["message"]
    assert "redacted" in said["first"]
    assert secret not in line
    assert "MII" not in line


def test_numbers_that_json_has_no_word_for() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "wait", (), None)
    vars(record).update(seconds=float("inf"), share=float("nan"), half=0.5, none=None, yes=True)
    said = json.loads(JsonFormatter().format(record), parse_constant=pytest.fail)
    assert [said[name] for name in ("seconds", "share", "half", "none", "yes")] == ["inf", "nan", 0.5, None, True]


GRPC = "grpc._cython.cygrpc"


@pytest.fixture
def quiet() -> Iterator[None]:
    before = logging.getLogger(GRPC).filters[:]
    logs.quiet_grpc()
    yield
    logging.getLogger(GRPC).filters[:] = before


class ExecuteBatchError(Exception):
    """As gRPC calls what it raises when a client has left."""


@pytest.mark.usefixtures("quiet")
def test_what_grpc_says_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    for error in (None, ValueError("a fault")):
        logging.getLogger(GRPC).error("said", exc_info=error)
    assert [(record.levelname, bool(record.exc_info)) for record in caplog.records] == [
        ("ERROR", False),
        ("ERROR", True),
    ]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("level", "said"), [(logging.INFO, []), (logging.DEBUG, [("DEBUG", False)])])
def test_but_of_a_client_that_left_at_debug_level_and_without_a_traceback(
    caplog: pytest.LogCaptureFixture, level: int, said: list[tuple[str, bool]]
) -> None:
    with caplog.at_level(level, GRPC):
        logging.getLogger(GRPC).error("raised in core", exc_info=ExecuteBatchError())
    assert [(record.levelname, bool(record.exc_info)) for record in caplog.records] == said
