"""What a watch knows of a collection, and how a listing and each event change it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from meshpki.kube.answer import Answer, mapping_at, read_object, text_at
from meshpki.kube.errors import KubeAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meshpki.kube.answer import JsonObject
    from meshpki.kube.listing import Listing

Key: TypeAlias = tuple[str, str]
"""Namespace (empty for what has none) and name."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All objects as they are known, and those that changed since the last look: level, not edge.

    Whoever acts on `objects` alone is right, however many changes were put together, missed or seen twice.
    """

    objects: Mapping[Key, JsonObject]
    resource_version: str
    changed: frozenset[Key] = frozenset()
    """Keys that are new, gone or other than before."""


NOTHING = Observed(MappingProxyType({}), "")


class WatchFailedError(Exception):
    """An ERROR event: the watch is over. `answer` is what a request would have been answered."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer.status))
        self.answer = answer


def after_listing(before: Observed, listing: Listing) -> Observed:
    """What is known after everything was listed; what is not in the listing is gone."""
    objects = {key_of(item): item for item in listing.items}
    changed = {key for key in objects.keys() | before.objects.keys() if objects.get(key) != before.objects.get(key)}
    return Observed(MappingProxyType(objects), listing.resource_version, frozenset(changed))


def after_events(before: Observed, lines: Iterable[bytes]) -> Observed:
    """What is known after some events, one JSON object in each line.

    Raises KubeAnswerError for anything else, WatchFailedError for an ERROR event; then none of `lines` counts.
    """
    objects = dict(before.objects)
    version = before.resource_version
    changed: set[Key] = set()
    for line in lines:
        event = read_object(line, "an event of a watch")
        item = mapping_at(event, "object")
        kind = text_at(event, "type")
        if kind == "ERROR":
            raise _failed(item)
        version = text_at(mapping_at(item, "metadata"), "resourceVersion") or version
        if kind == "BOOKMARK":
            continue
        key = key_of(item)
        changed.add(key)
        if kind == "DELETED":
            objects.pop(key, None)
        elif kind in {"ADDED", "MODIFIED"}:
            objects[key] = item
        else:
            raise KubeAnswerError("an event of a watch has a type that is not known", wanted="the API's event types")
    return Observed(MappingProxyType(objects), version, frozenset(changed))


def key_of(item: JsonObject) -> Key:
    """Namespace and name. Raises KubeAnswerError for an object without a name."""
    metadata = mapping_at(item, "metadata")
    name = text_at(metadata, "name")
    if not name:
        raise KubeAnswerError("an object without a name", wanted="objects as the API defines them")
    return text_at(metadata, "namespace"), name


def _failed(status: JsonObject) -> WatchFailedError:
    code = status.get("code")
    return WatchFailedError(Answer(code if isinstance(code, int) else 500, json.dumps(status).encode(), {}))
