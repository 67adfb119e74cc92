"""An HTTP answer as bytes, and as the JSON object that it should be. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from meshpki.kube.errors import KubeAnswerError

if TYPE_CHECKING:
    from collections.abc import Mapping

JsonObject: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, whatever its status."""

    status: int
    body: bytes = field(repr=False)
    """May hold a secret: TokenRequest answers with one."""
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""


def read_object(body: bytes, what: str) -> JsonObject:
    """Read one JSON object. Raises KubeAnswerError that says what `what` was instead, and shows nothing of it."""
    try:
        value = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        value = None  # raised below: the decoder's error holds the whole text
    if not isinstance(value, dict):
        raise KubeAnswerError(
            f"{what} is no JSON object ({len(body)} bytes)",
            wanted="the answer of a Kubernetes API server",
            todo="check that the address is an API server's, and what stands before it: a login page, a proxy",
        )
    return value


def mapping_at(value: JsonObject, key: str) -> JsonObject:
    """The object at `key`, empty if there is none or something else."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def text_at(value: JsonObject, key: str) -> str:
    """The text at `key`, empty if there is none or something else."""
    found = value.get(key)
    return found if isinstance(found, str) else ""


def objects_at(value: JsonObject, key: str, what: str) -> list[JsonObject]:
    """The list of objects at `key`; null and nothing are an empty one. Raises KubeAnswerError for another shape."""
    found = value.get(key)
    items = [] if found is None else found
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise KubeAnswerError(f"{what} has {key!r} that is no list of objects", wanted="a list as the API defines it")
    return items


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)
