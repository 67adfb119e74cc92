"""Records as JSON or YAML documents: stable keys, one document, nothing that a record hides from its own repr."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from typing import Final, TypeAlias

Plain: TypeAlias = str | int | float | bool | list["Plain"] | dict[str, "Plain"] | None
"""What JSON can say."""
EXACT: Final = 2**53 - 1
"""Larger integers do not survive every JSON reader (RFC 8259 section 6); ours are serial numbers: hexadecimal text."""


def plain(value: object) -> Plain:
    """Turn a record of ours into what JSON can say.

    A field that a dataclass keeps out of its repr holds a secret or a cache: it is left out here too. An object that
    is no dataclass and no container is written as its `str`.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, int) and abs(value) > EXACT:
        return f"{value:x}"
    if value is None or isinstance(value, str | int | float):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value).__str__ is not object.__str__:
            return str(value)
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    return str(value)


def as_json(value: object) -> str:
    """One JSON document, indented, without a closing newline."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False)


def as_json_line(value: object) -> str:
    """One JSON document on one line."""
    return json.dumps(plain(value), ensure_ascii=False)


def as_yaml(value: object) -> str:
    """One YAML document, in block style, keys in the order of the record."""
    import yaml

    text: str = yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text.rstrip("\n")
