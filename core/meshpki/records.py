"""What a plugin may answer: every record is checked here before the rest of core sees it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from meshpki.errors import InvalidValueError
from meshpki.hooks import (
    API_VERSION,
    Change,
    Detection,
    Evidence,
    Mode,
    NotPossible,
    Option,
    OptionKind,
    Platform,
)

if TYPE_CHECKING:
    from meshpki.hooks import Params, Value

_T = TypeVar("_T")

OLDEST_API_VERSION: Final = 1
"""The oldest contract that this core still speaks."""
MAX_INTEGER: Final = 2**53 - 1
"""Larger integers do not survive every JSON reader (RFC 8259 section 6)."""
MAX_TEXT: Final = 64 * 1024
MAX_CHANGES: Final = 1000
RESERVED_OPTIONS: Final = frozenset({
    "help", "version", "verbose", "quiet", "log-level", "platform", "state-dir", "strict-plugins",
    "yes", "dry-run", "plan-out", "output", "fallback", "timeout", "force",
})  # fmt: skip
"""Names that the command line keeps for itself; a platform's option may not take one."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_DOTTED = re.compile(r"[a-z0-9][A-Za-z0-9_-]*([./:][A-Za-z0-9_-]+)*", re.ASCII)
MAX_NAME: Final = 63
MAX_ID: Final = 200


def check_name(name: object, what: str) -> str:
    """Return `name` if it is lower case words joined by `-`, at most 63 characters. Raises InvalidValueError."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise _wrong(f"{what} {name!r:.80}", "lower case words joined by '-', at most 63 characters")
    return name


def check_identifier(name: object, what: str) -> str:
    """Return `name` if it is a change's id or kind: words joined by `.`, `/` or `:`. Raises InvalidValueError."""
    if not isinstance(name, str) or len(name) > MAX_ID or not _DOTTED.fullmatch(name):
        raise _wrong(f"{what} {name!r:.80}", "words of A-Z a-z 0-9 _ - joined by '.', '/' or ':'")
    return name


def check_text(text: object, what: str, *, empty: bool = True) -> str:
    """Return `text` if it is a string that UTF-8 can carry. Raises InvalidValueError."""
    if not isinstance(text, str) or len(text) > MAX_TEXT or not (text or empty):
        raise _wrong(f"{what} is {type(text).__name__}", f"{'' if empty else 'non-empty '}text, at most {MAX_TEXT}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(f"{what} holds a lone surrogate", "text that UTF-8 can carry") from error
    return text


def check_value(value: object, what: str) -> Value:
    """Return `value` if JSON can say it without nesting: text, integer, truth value, tuple of texts."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise _wrong(f"{what} is {value}", f"an integer of at most {MAX_INTEGER}")
        return int(value)
    if isinstance(value, str):
        return check_text(value, what)
    if isinstance(value, tuple):
        return tuple(check_text(item, f"{what}[{index}]") for index, item in enumerate(value))
    raise _wrong(f"{what} is {type(value).__name__}", "text, an integer, a truth value or a tuple of texts")


def check_params(params: object, what: str) -> dict[str, Value]:
    """Return a copy of `params`, sorted by name, if it maps non-empty texts to plain values."""
    if not isinstance(params, Mapping):
        raise _wrong(f"{what} is {type(params).__name__}", "a mapping")
    checked = {check_text(key, f"a name in {what}", empty=False): params[key] for key in params}
    return {key: check_value(checked[key], f"{what}.{key}") for key in sorted(checked)}


def check_platform(answer: object, *, name: str) -> Platform:
    """Return the answer of `platform()` if it can be worked with. Its API version is checked apart."""
    platform = _instance(answer, Platform, "the answer of platform()")
    check_name(platform.name, "platform name")
    if platform.name != name:
        raise _wrong(
            f"the plugin calls its platform {platform.name!r} and its entry point {name!r}", "one name for both"
        )
    check_text(platform.summary, "the platform's summary", empty=False)
    options = _tuple(platform.options, Option, "options")
    for option in options:
        _check_option(option)
    _unique((option.name for option in options), "option")
    if not isinstance(platform.effects, Mapping):
        raise _wrong(f"effects is {type(platform.effects).__name__}", "a mapping from kind to factory")
    for kind, factory in platform.effects.items():
        check_identifier(kind, "kind of change")
        if not callable(factory):
            raise _wrong(f"effects[{kind!r}] is {type(factory).__name__}", "a factory that can be called")
    return platform


def api_version_problem(platform: Platform) -> str:
    """Say why this core cannot work with a plugin of that API version; empty when it can."""
    version: object = platform.api_version
    if isinstance(version, bool) or not isinstance(version, int):
        return f"its API version is {version!r:.40}, wanted an integer; to do: report it to its authors"
    if version > API_VERSION:
        return f"it was written for API version {version}, this meshpki speaks {API_VERSION}; to do: update meshpki"
    if version < OLDEST_API_VERSION:
        return f"it was written for API version {version}, the oldest known is {OLDEST_API_VERSION}; to do: update it"
    return ""


def _check_option(option: Option) -> None:
    check_name(option.name, "option name")
    if option.name in RESERVED_OPTIONS:
        raise _wrong(f"option name {option.name!r}", "a name that the command line does not keep for itself")
    if not isinstance(option.kind, OptionKind):
        raise _wrong(f"kind of option {option.name!r} is {option.kind!r:.40}", "an OptionKind")
    check_text(option.help, f"help of option {option.name!r}", empty=False)
    check_text(option.metavar, f"metavar of option {option.name!r}")
    check_option_value(option, option.default)


def check_option_value(option: Option, value: object) -> Value:
    """Return `value` if it has the type that the option's kind calls for. Raises InvalidValueError."""
    checked = check_value(value, f"option {option.name!r}")
    if type(checked) is not _TYPES[option.kind]:
        raise _wrong(f"option {option.name!r} is {type(checked).__name__}", f"{option.kind.value}")
    return checked


_TYPES: Final[Mapping[OptionKind, type]] = {
    OptionKind.TEXT: str,
    OptionKind.INTEGER: int,
    OptionKind.FLAG: bool,
    OptionKind.LIST: tuple,
}


def check_detection(answer: object) -> Detection:
    """Return the answer of `detect()` if modes stand best first and all the rest can be written down."""
    detection = _instance(answer, Detection, "the answer of detect()")
    for field in ("version", "distribution", "emulated_version"):
        check_text(getattr(detection, field), field)
    modes = _tuple(detection.modes, Mode, "modes")
    if list(modes) != [mode for mode in Mode if mode in modes]:
        raise _wrong(f"modes are {', '.join(modes)}", "each at most once, the highest rung first")
    for item in _tuple(detection.evidence, Evidence, "evidence"):
        for field in ("question", "answer", "source"):
            check_text(getattr(item, field), f"evidence.{field}")
    for version in _tuple(detection.node_versions, str, "node_versions"):
        check_text(version, "node_versions")
    return replace(detection, facts=check_params(detection.facts, "facts"))


def check_changes(changes: object, platform: Platform) -> tuple[Change, ...]:
    """Return `changes` if each can be written down and made, and no two share an id."""
    checked = _tuple(changes, Change, "changes")
    if len(checked) > MAX_CHANGES:
        raise _wrong(f"{len(checked)} changes", f"at most {MAX_CHANGES}")
    for change in checked:
        check_identifier(change.id, "id of a change")
        if check_identifier(change.kind, f"kind of change {change.id!r}") not in platform.effects:
            known = ", ".join(sorted(platform.effects)) or "none"
            raise _wrong(f"kind {change.kind!r} of change {change.id!r} is not in the platform's effects", known)
        check_text(change.title, f"title of change {change.id!r}", empty=False)
        for field in ("why", "precondition", "undo", "gate"):
            check_text(getattr(change, field), f"{field} of change {change.id!r}")
        for line in _tuple(change.diff, str, f"diff of change {change.id!r}"):
            check_text(line, f"diff of change {change.id!r}")
    _unique((change.id for change in checked), "change id")
    return tuple(
        replace(change, params=check_params(change.params, f"params of change {change.id!r}")) for change in checked
    )


def check_not_possible(answer: NotPossible) -> NotPossible:
    """Return a refusal to plan if it says why."""
    check_text(answer.reason, "the reason", empty=False)
    for way in _tuple(answer.ways_out, str, "ways_out"):
        check_text(way, "ways_out", empty=False)
    return answer


def check_record(record: object, change_id: str) -> Params:
    """Return an undo record if a journal can keep it."""
    return check_params(record, f"undo record of change {change_id!r}")


def _unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _wrong(f"{what} {name!r} stands there twice", "each once")
        seen.add(name)


def _instance(value: object, kind: type[_T], what: str) -> _T:
    if not isinstance(value, kind):
        raise _wrong(f"{what} is {type(value).__name__}", f"a {kind.__name__}")
    return value


def _tuple(value: object, kind: type[_T], what: str) -> tuple[_T, ...]:
    if not isinstance(value, tuple):
        raise _wrong(f"{what} is {type(value).__name__}", f"a tuple of {kind.__name__}")
    return tuple(_instance(item, kind, f"{what}[{index}]") for index, item in enumerate(value))


def _wrong(seen: str, wanted: str) -> InvalidValueError:
    return InvalidValueError(seen, wanted=wanted)
