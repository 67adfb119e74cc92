"""What differs between two plans, in words. Complete: plans without a difference have the same digest. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.provision import codec
from meshpki.provision import plan as plans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshpki.provision.codec import Json
    from meshpki.provision.plan import Plan

    Where = tuple[str, ...]

MAX_SHOWN: Final = 120
_BEFORE: Final = 30
"""Characters that are shown of what two long values have in common."""


@dataclass(frozen=True, slots=True)
class _Records:
    """A list whose items are told by a name of their own, not by their place."""

    noun: str
    nouns: str
    name: str
    summary: str
    """The member that says in a word what one is that is there on one side only."""


_RECORDS: Final[dict[Where, _Records]] = {
    ("facts", "evidence"): _Records("evidence", "evidence", "question", "answer"),
    ("changes",): _Records("change", "changes", "id", "title"),
    ("removals",): _Records("removal", "removals", "id", "title"),
    ("made",): _Records("made", "what was made", "id", "title"),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not what it was. `old` or `new` is empty where it was not, or is no longer, there."""

    what: str
    old: str
    new: str

    def __str__(self) -> str:
        if not self.old:
            return f"{self.what}: now {self.new}"
        if not self.new:
            return f"{self.what}: no longer {self.old}"
        return f"{self.what}: {self.old} -> {self.new}"


def differences(old: Plan, new: Plan) -> tuple[Difference, ...]:
    """List what changed from `old` to `new`, in the order of a plan's parts."""
    return between(plans.to_json(old), plans.to_json(new))


def between(old: Json, new: Json) -> tuple[Difference, ...]:
    """List what differs between two documents that hold no null."""
    return tuple(_differences((), old, new))


def _differences(path: Where, old: Json | None, new: Json | None) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _differences((*path, name), old.get(name), new.get(name))
    elif path in _RECORDS:
        yield from _records(_RECORDS[path], old, new)
    elif _bytes(old) != _bytes(new):
        yield Difference(", ".join(path), *_shown(old, new))


def _records(told: _Records, old: Json | None, new: Json | None) -> Iterator[Difference]:
    before, after = _by_name(told, old), _by_name(told, new)
    for name in dict.fromkeys([*before, *after]):
        one, other = before.get(name), after.get(name)
        if one is not None and other is not None:
            yield from _differences((f"{told.noun} {name}",), one, other)
        else:
            summaries = (None if record is None else record[told.summary] for record in (one, other))
            yield Difference(f"{told.noun} {name}", *_shown(*summaries))
    first: list[Json] = [name for name in before if name in after]
    then: list[Json] = [name for name in after if name in before]
    if first != then:
        yield Difference(f"order of {told.nouns}", *_shown(first, then))


def _by_name(told: _Records, items: Json | None) -> dict[str, dict[str, Json]]:
    """The records under their names, without it; a name that comes again is numbered."""
    found: dict[str, dict[str, Json]] = {}
    assert isinstance(items, list)
    for item in items:
        assert isinstance(item, dict)
        name = free = str(item[told.name])
        number = 1
        while free in found:
            number += 1
            free = f"{name} ({number})"
        found[free] = {member: item[member] for member in item if member != told.name}
    return found


def _bytes(value: Json | None) -> bytes:
    """Tell apart what Python holds equal: 1 and true."""
    return b"" if value is None else codec.canonical(value)


def _shown(old: Json | None, new: Json | None) -> tuple[str, str]:
    """Show two values, each on one line of at most 120 characters, so that it is seen where they differ."""
    texts = _text(old), _text(new)
    if texts[0] == texts[1]:  # a number, and a text of the same digits
        texts = _bytes(old).decode(), _bytes(new).decode()
    if max(map(len, texts)) <= MAX_SHOWN or not all(texts):
        return _cut(texts[0]), _cut(texts[1])
    same = next((at for at, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), min(map(len, texts)))
    begin = same - _BEFORE
    return _cut(texts[0], begin), _cut(texts[1], begin)


def _text(value: Json | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) and value.isprintable() and value else codec.canonical(value).decode()


def _cut(text: str, begin: int = 0) -> str:
    """The part of a text from `begin` on, with an ellipsis where something is left out."""
    part = text if begin <= 1 else "…" + text[begin:]
    return part if len(part) <= MAX_SHOWN else part[: MAX_SHOWN - 1] + "…"
