"""From what YAML says to the configuration's records: exact types, no unknown key, every fault with its path."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cattrs import BaseValidationError, Converter, transform_error
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn
from cattrs.v import format_exception

from meshpki.ca.config_clusters import Authentication
from meshpki.ca.config_values import HostPort, Seconds, parse_duration
from meshpki.errors import InvalidValueError, MeshpkiError, UsageError
from meshpki.identity import ServiceAccountRef, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Callable

_Record = TypeVar("_Record")
_Texts = tuple[str, ...]
_Accounts = tuple[ServiceAccountRef, ...]
_Paths = tuple[Path, ...]


def structure(document: object, kind: type[_Record], *, base: Path, name: str) -> _Record:
    """Build a record of `kind`; relative paths begin at `base`. Raises UsageError that names all that is wrong."""
    try:
        return _converter(base).structure(document, kind)
    except (BaseValidationError, MeshpkiError) as error:
        found = transform_error(error, name, _describe)
        raise UsageError("; ".join(found), todo="compare with the CA configuration in the documentation") from error


def _describe(error: BaseException, kind: type | None) -> str:
    match error:
        case ForbiddenExtraKeysError():
            return f"no such key: {', '.join(sorted(error.extra_fields))}"
        case KeyError():
            return f"the key {error.args[0]!r} is missing"
        case MeshpkiError():
            return str(error)
        case _:
            return format_exception(error, kind)


def _converter(base: Path) -> Converter:
    converter = Converter(forbid_extra_keys=True)

    def record(kind: type) -> Callable[[object, type], object]:
        build: Any = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)  # Any: cattrs says Never
        return lambda value, target: build(_exactly(value, dict, "a mapping of keys to values"), target)

    def hook(kind: type, read: Callable[[object], object]) -> None:
        converter.register_structure_hook(kind, lambda value, _: read(value))

    def own_hook(kind: object, read: Callable[[object], object]) -> None:  # for what is no class
        converter.register_structure_hook_func(lambda target: target == kind, lambda value, _: read(value))

    converter.register_structure_hook_factory(is_dataclass, record)
    hook(str, lambda value: _exactly(value, str, "a text"))
    hook(int, lambda value: _exactly(value, int, "a whole number"))
    hook(bool, lambda value: _exactly(value, bool, "true or false"))
    hook(Path, lambda value: base / _exactly(value, str, "a path"))
    hook(TrustDomain, lambda value: TrustDomain(_exactly(value, str, "a text")))
    hook(HostPort, HostPort.parse)
    own_hook(_Texts, lambda value: tuple(_exactly(item, str, "a text") for item in _exactly(value, list, "a list")))
    own_hook(
        _Paths, lambda value: tuple(base / _exactly(item, str, "a path") for item in _exactly(value, list, "a list"))
    )
    own_hook(_Accounts, lambda value: tuple(_account(item) for item in _exactly(value, list, "a list")))
    own_hook(Seconds, parse_duration)
    hook(Authentication, _authentication)
    return converter


def _account(value: object) -> ServiceAccountRef:
    return ServiceAccountRef.parse(_exactly(value, str, "a text"))


def _authentication(value: object) -> Authentication:
    text = _exactly(value, str, "a text")
    if text not in set(Authentication):
        raise InvalidValueError(f"{text[:60]!r}", wanted=", ".join(Authentication))
    return Authentication(text)


def _exactly(value: object, kind: type, words: str) -> Any:  # Any: the value itself, of that type and no other
    if type(value) is not kind:
        raise InvalidValueError(f"{str(value)[:60]!r}", wanted=words)
    return value
