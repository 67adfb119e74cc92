"""Values that are made for every certificate: frozen to the type checker, and made as quickly as Python can."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[_Class]) -> type[_Class]:
    """A dataclass with slots, compared and hashed by its fields, to which mypy lets nobody assign.

    `frozen=True` has every field of every new object set through `object.__setattr__`, so that it takes two and a half
    times as long. For one certificate some seventy fields are set: a twentieth of what it takes (ADR 0024). So this is
    for what is made for each call and stays in code that mypy has read; everything else, and whatever a plugin gets to
    see, is frozen at run time too.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
