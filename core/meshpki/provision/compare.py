"""What differs between two plans, in words. Complete: plans without a difference have the same digest. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.provision import codec
from meshpki.provision import plan as plans

if TYPE_CHECKING:
    from meshpki.provision.codec import Json
    from meshpki.provision.plan import Plan

MAX_SHOWN: Final = 120
_LISTS_BY_ID: Final = {"changes": "change", "removals": "removal"}


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
    before, after = _flat(plans.to_json(old)), _flat(plans.to_json(new))
    return tuple(
        Difference(what, _show(before.get(what)), _show(after.get(what)))
        for what in dict.fromkeys([*before, *after])
        if _bytes(before.get(what)) != _bytes(after.get(what))
    )


def _bytes(value: Json | None) -> bytes:
    """Tell apart what Python holds equal: 1 and true."""
    return b"" if value is None else codec.canonical(value)


def _flat(plan: Json) -> dict[str, Json]:
    """Give every leaf of a plan a name that a person understands."""
    leaves: dict[str, Json] = {}
    assert isinstance(plan, dict)
    for part, value in plan.items():
        if part in _LISTS_BY_ID:
            _flatten_records(_LISTS_BY_ID[part], value, leaves)
        else:
            _flatten(part, value, leaves)
    return leaves


def _flatten_records(noun: str, items: Json, leaves: dict[str, Json]) -> None:
    assert isinstance(items, list)
    order: list[Json] = []
    for item in items:
        assert isinstance(item, dict)
        order.append(item["id"])
        _flatten(f"{noun} {item['id']}", {name: item[name] for name in item if name != "id"}, leaves)
    leaves[f"order of {noun}s"] = order


def _flatten(name: str, value: Json, leaves: dict[str, Json]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten(f"{name}, {key}", inner, leaves)
    else:
        leaves[name] = value


def _show(value: Json | None) -> str:
    """Show a leaf on one line, cut at 120 characters; empty for one that is not there."""
    if value is None:
        return ""
    text = value if isinstance(value, str) and value.isprintable() and value else codec.canonical(value).decode()
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
