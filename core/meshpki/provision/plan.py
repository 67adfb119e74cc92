"""The plan: everything that provisioning will do, as data that can be shown, saved, compared and told by its digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from meshpki import records
from meshpki.errors import InvalidValueError, OperatorNeededError, PluginError
from meshpki.hooks import Change, Detection, Evidence, Mode, NotPossible, PlanRequest
from meshpki.provision import codec
from meshpki.provision import mode as modes
from meshpki.provision.facts import absolute
from meshpki.provision.mode import ChosenBy, ModeChoice

if TYPE_CHECKING:
    from meshpki.plugins import PluginSet
    from meshpki.provision.codec import Json
    from meshpki.provision.facts import Facts
    from meshpki.provision.journal import History

SCHEMA: Final = 1

_A = TypeVar("_A")


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that an earlier run made and that this plan has no place for: it is undone, after the changes."""

    id: str
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found and what will be done. Equal plans have equal digests; the digest is the plan's name."""

    platform: str
    origin: str
    api_version: int
    state_dir: str
    """Absolute."""
    options: dict[str, str | int | bool | tuple[str, ...]]
    detection: Detection
    choice: ModeChoice
    changes: tuple[Change, ...]
    removals: tuple[Removal, ...] = ()

    @property
    def mode(self) -> Mode:
        """The rung of the ladder of trust."""
        return self.choice.mode

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the canonical JSON."""
        return codec.digest(to_json(self))

    @property
    def request(self) -> PlanRequest:
        """What the planning hooks were asked with."""
        return PlanRequest(Path(self.state_dir), self.options, self.detection, self.mode)


def make_plan(
    plugins: PluginSet, facts: Facts, state_dir: Path, *, word: Mode | None = None, history: History | None = None
) -> Plan:
    """Choose the mode and ask the platform for its changes; changes nothing.

    `word` is the rung that the operator asked for, `history` what the journal says is there. Raises
    OperatorNeededError when the mode or a hook needs the operator, PluginError for a broken plugin.
    """
    state_dir = absolute(state_dir)
    choice = modes.choose(facts.detection, word=word, installed=history.installed if history else None)
    request = PlanRequest(state_dir, facts.options, facts.detection, choice.mode)
    name = facts.platform
    changes = (
        *_possible(plugins.plan_token_projection(name, request), "trustworthy tokens").changes,
        *_possible(plugins.signer(name, request), "signing").changes,
        *_possible(plugins.propagate(name, request), "propagation").changes,
    )
    ids = [change.id for change in changes]
    if len(set(ids)) != len(ids):
        doubled = next(one for one in ids if ids.count(one) > 1)
        raise PluginError(f"plugin {name!r} of {facts.origin} plans the change {doubled!r} twice", wanted="each once")
    for change in changes:
        plugins.effect(name, change.kind, state_dir, change.params)
    made = history.made if history else ()
    removals = tuple(Removal(item.id, item.kind, item.title) for item in reversed(made) if item.id not in set(ids))
    return Plan(
        platform=name,
        origin=facts.origin,
        api_version=facts.api_version,
        state_dir=str(state_dir),
        options=dict(facts.options),
        detection=facts.detection,
        choice=choice,
        changes=changes,
        removals=removals,
    )


def _possible(answer: _A | NotPossible, what: str) -> _A:
    if isinstance(answer, NotPossible):
        raise OperatorNeededError(
            f"{what}: not possible here: {answer.reason}",
            wanted="one of the ways out, by the operator's word",
            todo=" or ".join(answer.ways_out),
        )
    return answer


def to_json(plan: Plan) -> Json:
    """Turn a plan into JSON; the inverse of `from_json`."""
    found = plan.detection
    return {
        "schema": SCHEMA,
        "platform": plan.platform,
        "plugin": {"origin": plan.origin, "api_version": plan.api_version},
        "state_dir": plan.state_dir,
        "options": codec.params_to_json(plan.options),
        "facts": {
            "version": found.version,
            "emulated_version": found.emulated_version,
            "distribution": found.distribution,
            "node_versions": list(found.node_versions),
            "modes": [mode.value for mode in found.modes],
            "evidence": [
                {"question": item.question, "answer": item.answer, "source": item.source} for item in found.evidence
            ],
            "facts": codec.params_to_json(found.facts),
        },
        "mode": {"mode": plan.mode.value, "by": plan.choice.by.value, "reason": plan.choice.reason},
        "changes": [_change_to_json(change) for change in plan.changes],
        "removals": [{"id": item.id, "kind": item.kind, "title": item.title} for item in plan.removals],
    }


def _change_to_json(change: Change) -> Json:
    return {
        "id": change.id,
        "kind": change.kind,
        "title": change.title,
        "why": change.why,
        "params": codec.params_to_json(change.params),
        "diff": list(change.diff),
        "precondition": change.precondition,
        "undo": change.undo,
        "gate": change.gate,
    }


def from_json(value: Json) -> Plan:
    """Read a plan back. Raises InvalidValueError for whatever `to_json` cannot have written."""
    reader = codec.Reader(value, "plan")
    if (schema := reader.integer("schema")) != SCHEMA:
        raise InvalidValueError(f"plan of schema {schema}", wanted=f"schema {SCHEMA}", todo="make the plan anew")
    plugin = codec.Reader(reader.take("plugin"), "plan.plugin")
    plan = Plan(
        platform=records.check_name(reader.take("platform"), "plan.platform"),
        origin=plugin.text("origin"),
        api_version=plugin.integer("api_version"),
        state_dir=reader.text("state_dir"),
        options=reader.params("options"),
        detection=_read_detection(reader.take("facts")),
        choice=_read_choice(reader.take("mode")),
        changes=reader.items("changes", _read_change),
        removals=reader.items("removals", _read_removal),
    )
    plugin.end()
    reader.end()
    ids = [*(change.id for change in plan.changes), *(item.id for item in plan.removals)]
    if len(set(ids)) != len(ids):
        raise InvalidValueError("the plan names a change twice", wanted="each once")
    if not Path(plan.state_dir).is_absolute():
        raise InvalidValueError(f"state_dir {plan.state_dir!r:.200}", wanted="an absolute path")
    return plan


def _read_detection(value: Json) -> Detection:
    reader = codec.Reader(value, "plan.facts")
    detection = Detection(
        version=reader.text("version"),
        emulated_version=reader.text("emulated_version"),
        distribution=reader.text("distribution"),
        node_versions=reader.texts("node_versions"),
        modes=reader.items("modes", _read_mode),
        evidence=reader.items("evidence", _read_evidence),
        facts=reader.params("facts"),
    )
    reader.end()
    return records.check_detection(detection)


def _read_mode(value: Json, where: str) -> Mode:
    for mode in Mode:
        if mode.value == value:
            return mode
    raise InvalidValueError(f"{where} is {value!r:.40}", wanted=f"one of {codec.names(Mode)}")


def _read_evidence(value: Json, where: str) -> Evidence:
    reader = codec.Reader(value, where)
    evidence = Evidence(reader.text("question"), reader.text("answer"), reader.text("source"))
    reader.end()
    return evidence


def _read_choice(value: Json) -> ModeChoice:
    reader = codec.Reader(value, "plan.mode")
    by = reader.text("by")
    if by not in set(ChosenBy):
        raise InvalidValueError(f"plan.mode.by is {by!r:.40}", wanted=f"one of {codec.names(ChosenBy)}")
    choice = ModeChoice(_read_mode(reader.take("mode"), "plan.mode.mode"), ChosenBy(by), reader.text("reason"))
    reader.end()
    return choice


def _read_change(value: Json, where: str) -> Change:
    reader = codec.Reader(value, where)
    change = Change(
        id=records.check_identifier(reader.take("id"), f"{where}.id"),
        kind=records.check_identifier(reader.take("kind"), f"{where}.kind"),
        title=reader.text("title"),
        why=reader.text("why"),
        params=reader.params("params"),
        diff=reader.texts("diff"),
        precondition=reader.text("precondition"),
        undo=reader.text("undo"),
        gate=reader.text("gate"),
    )
    reader.end()
    return change


def _read_removal(value: Json, where: str) -> Removal:
    reader = codec.Reader(value, where)
    removal = Removal(
        records.check_identifier(reader.take("id"), f"{where}.id"),
        records.check_identifier(reader.take("kind"), f"{where}.kind"),
        reader.text("title"),
    )
    reader.end()
    return removal
