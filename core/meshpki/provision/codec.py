"""Canonical JSON out, strict JSON back in: no unknown, missing or doubled member, no float, nothing coerced. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from meshpki import records
from meshpki.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meshpki.hooks import Params, Value

_T = TypeVar("_T")
Json: TypeAlias = "str | int | bool | list[Json] | dict[str, Json]"


def canonical(value: Json) -> bytes:
    """Encode so that equal values give equal bytes: members sorted, no white space, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Json) -> str:
    """Return `sha256:<hex>` of the canonical encoding."""
    return f"sha256:{hashlib.sha256(canonical(value)).hexdigest()}"


def params_to_json(params: Params) -> Json:
    """Turn parameters into JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in params.items()}


def decode(text: str | bytes) -> Json:
    """Parse one JSON value. Raises InvalidValueError for anything that `canonical` cannot have written."""
    try:
        value: Json = json.loads(
            text, object_pairs_hook=_object, parse_float=_no_float, parse_constant=_no_float, parse_int=_integer
        )
    except RecursionError as error:
        raise InvalidValueError("JSON nested too deep", wanted="what meshpki wrote") from error
    except ValueError as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError(f"no JSON: {error}", wanted="the JSON that meshpki wrote") from error
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        doubled = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise InvalidValueError(f"member {doubled!r:.80} stands twice in one JSON object", wanted="each once")
    return members


def _no_float(text: str) -> Json:
    raise InvalidValueError(f"number {text:.40}", wanted="an integer")


def _integer(text: str) -> int:
    if len(text) > len(str(records.MAX_INTEGER)) + 1:
        raise InvalidValueError(f"an integer of {len(text)} digits", wanted=f"at most {records.MAX_INTEGER}")
    return int(text)


class Reader:
    """Reads the members of one JSON object, each once; `end` refuses those that nobody asked for."""

    def __init__(self, value: Json, where: str) -> None:
        """Raise InvalidValueError when `value` is no object. `where` names it in messages."""
        if not isinstance(value, dict):
            raise InvalidValueError(f"{where} is {_kind(value)}", wanted="a JSON object")
        self._members = dict(value)
        self._where = where

    def take(self, name: str) -> Json:
        """Return the member `name`, whatever it is."""
        try:
            return self._members.pop(name)
        except KeyError as error:
            raise InvalidValueError(f"{self._where} has no member {name!r}", wanted="all members") from error

    def text(self, name: str) -> str:
        """Return a member that is text."""
        return records.check_text(self.take(name), f"{self._where}.{name}")

    def integer(self, name: str) -> int:
        """Return a member that is an integer."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidValueError(f"{self._where}.{name} is {_kind(value)}", wanted="an integer")
        return value

    def flag(self, name: str) -> bool:
        """Return a member that is true or false."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise InvalidValueError(f"{self._where}.{name} is {_kind(value)}", wanted="true or false")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a member that is a list of texts."""
        return self.items(name, records.check_text)

    def items(self, name: str, read: Callable[[Json, str], _T]) -> tuple[_T, ...]:
        """Return a member that is a list, each item read by `read(item, where)`."""
        value = self.take(name)
        if not isinstance(value, list):
            raise InvalidValueError(f"{self._where}.{name} is {_kind(value)}", wanted="a list")
        return tuple(read(item, f"{self._where}.{name}[{index}]") for index, item in enumerate(value))

    def params(self, name: str) -> dict[str, Value]:
        """Return a member that holds parameters."""
        return read_params(self.take(name), f"{self._where}.{name}")

    def end(self) -> None:
        """Raise InvalidValueError if a member was not read."""
        if self._members:
            unknown = ", ".join(repr(name)[:80] for name in sorted(self._members)[:5])
            raise InvalidValueError(f"{self._where} has unknown members: {unknown}", wanted="only those we know")


def read_params(value: Json, where: str) -> dict[str, Value]:
    """Turn JSON back into parameters."""
    if not isinstance(value, dict):
        raise InvalidValueError(f"{where} is {_kind(value)}", wanted="a JSON object")
    plain = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    return records.check_params(plain, where)


def names(values: Iterable[str]) -> str:
    """Join for a sentence; `none` for nothing."""
    return ", ".join(values) or "none"


def _kind(value: object) -> str:
    return {bool: "a truth value", dict: "an object", list: "a list", str: "text", int: "an integer"}.get(
        type(value), "null"
    )
