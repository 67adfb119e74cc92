"""A whole collection, read in pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.kube.answer import JsonObject, mapping_at, objects_at, text_at
from meshpki.kube.errors import KubeAnswerError, KubeGoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PAGE: Final = 500
MAX_OBJECTS: Final = 200_000


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a collection as they were at one moment."""

    items: tuple[JsonObject, ...]
    resource_version: str
    """That moment, as a watch begins at it."""


def read_all(get: Callable[[Mapping[str, str]], JsonObject], limit: int, what: str) -> Listing:
    """Read all pages by `get`, which takes the query of one page. Raises KubeError, KubeAnswerError for garbage.

    A server forgets where we were when reading takes long (410, KubeGoneError): then all is read again at once.
    """
    try:
        return _pages(get, limit, what)
    except KubeGoneError:
        return _pages(get, 0, what)


def _pages(get: Callable[[Mapping[str, str]], JsonObject], limit: int, what: str) -> Listing:
    items: list[JsonObject] = []
    token = ""
    while True:
        page = get({"limit": str(limit)} | ({"continue": token} if token else {}) if limit else {})
        items += objects_at(page, "items", what)
        metadata = mapping_at(page, "metadata")
        following = text_at(metadata, "continue")
        if not following:
            return Listing(tuple(items), text_at(metadata, "resourceVersion"))
        if following == token or len(items) > MAX_OBJECTS:
            raise KubeAnswerError(f"{what} does not end", wanted=f"pages that end, at most {MAX_OBJECTS} objects")
        token = following
