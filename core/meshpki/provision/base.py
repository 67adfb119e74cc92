"""What a plan rests on: what stood by our doing when it was made. On anything else it is stale. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from meshpki import records
from meshpki.errors import InvalidValueError, OperatorNeededError
from meshpki.hooks import Mode
from meshpki.provision import codec, compare

if TYPE_CHECKING:
    from meshpki.hooks import Params
    from meshpki.provision.codec import Json
    from meshpki.provision.journal import History


@dataclass(frozen=True, slots=True)
class Part:
    """One change that stood; `proven` is False where the run that made it was broken off."""

    id: str
    kind: str
    title: str
    params: Params
    proven: bool


@dataclass(frozen=True, slots=True)
class Base:
    """All that a journal says and a plan depends on. Runs that changed nothing of it do not make a plan stale."""

    mode: str = ""
    """That of the last run that finished; empty for none."""
    by: str = ""
    """Who chose it (`mode.ChosenBy`)."""
    made: tuple[Part, ...] = ()

    @classmethod
    def of(cls, history: History) -> Self:
        """Take it from a journal."""
        made = tuple(Part(one.id, one.kind, one.title, one.params, one.proven) for one in history.made)
        choice = history.installed
        return cls(choice.mode.value, choice.by.value, made) if choice else cls(made=made)

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the canonical JSON."""
        return codec.digest(to_json(self))


def to_json(base: Base) -> Json:
    """Turn a base into JSON; the inverse of `from_json`."""
    return {
        "mode": base.mode,
        "by": base.by,
        "made": [
            {
                "id": part.id,
                "kind": part.kind,
                "title": part.title,
                "params": codec.params_to_json(part.params),
                "proven": part.proven,
            }
            for part in base.made
        ],
    }


def from_json(value: Json) -> Base:
    """Read a base back. Raises InvalidValueError for whatever `to_json` cannot have written."""
    reader = codec.Reader(value, "base")
    base = Base(reader.text("mode"), reader.text("by"), reader.items("made", _read_part))
    reader.end()
    if base.mode and base.mode not in set(Mode):
        raise InvalidValueError(f"base.mode is {base.mode!r:.40}", wanted=f"one of {codec.names(Mode)}")
    return base


def _read_part(value: Json, where: str) -> Part:
    reader = codec.Reader(value, where)
    part = Part(
        id=records.check_identifier(reader.take("id"), f"{where}.id"),
        kind=records.check_identifier(reader.take("kind"), f"{where}.kind"),
        title=reader.text("title"),
        params=reader.params("params"),
        proven=reader.flag("proven"),
    )
    reader.end()
    return part


def moved(base: Base, history: History) -> tuple[str, ...]:
    """Say what stands otherwise than `base` says, one line each, and which run came last; empty when nothing does."""
    lines = tuple(str(difference) for difference in compare.between(_in_words(base), _in_words(Base.of(history))))
    return (*_last_run(history), *lines) if lines else ()


def _in_words(base: Base) -> Json:
    made = to_json(base)
    assert isinstance(made, dict)
    mode: dict[str, Json] = {"mode": f"{base.mode}, by {base.by}"} if base.mode else {}
    return {**mode, "made": made["made"]}


def _last_run(history: History) -> tuple[str, ...]:
    if not history.runs:
        return ("the last run: none is in the journal",)
    last = history.runs[-1]
    return (f"the last run: {last.kind}, {last.outcome}, of the plan {last.digest}",)


def refuse_moved(base: Base, history: History, what: str = "the plan was shown") -> None:
    """Raise OperatorNeededError, with every difference as evidence, unless all stands as `base` says."""
    if lines := moved(base, history):
        raise OperatorNeededError(
            f"another run changed what stands since {what}",
            wanted="what stood there then, for that is what was agreed to",
            todo="run the same command again, and look at what it shows",
            evidence=lines,
        )
