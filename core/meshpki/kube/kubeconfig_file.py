"""One kubeconfig as it is written: named clusters, users and contexts, not interpreted yet. Pure."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from meshpki.errors import UsageError
from meshpki.runtime.strict_yaml import load_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Entry:
    """One mapping of a kubeconfig, and how to call it in messages. Values are not shown: they may be secrets."""

    where: str
    """`user "admin" of ~/.kube/config`."""
    path: Path
    """The kubeconfig that it stands in: relative paths begin at its directory."""
    values: dict[str, object] = field(repr=False)

    def only(self, known: Iterable[str]) -> None:
        """Raise UsageError for a key that we do not know: it may change what the others mean."""
        unknown = sorted(self.values.keys() - set(known))
        if unknown:
            raise UsageError(
                f"{self.where} has {unknown[0][:80]!a}, which is not known here",
                wanted="nothing but " + ", ".join(sorted(known)),
                todo="take it out, or give another kubeconfig",
            )

    def text(self, key: str) -> str:
        """The text at `key`, empty if there is none. Raises UsageError for anything but text."""
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise UsageError(f"{key!r} of {self.where} is no text", wanted="text, in quotes if it looks like a number")
        return value

    def flag(self, key: str) -> bool:
        """The truth value at `key`, false if there is none. Raises UsageError."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise UsageError(f"{key!r} of {self.where} is neither true nor false", wanted="true or false")
        return bool(value)

    def data(self, key: str) -> bytes | None:
        """The bytes that stand at `key` in base64. Raises UsageError."""
        text = self.text(key)
        try:
            return base64.b64decode("".join(text.split()), validate=True) if text else None
        except (binascii.Error, ValueError):
            pass  # raised outside: the decoder's error could carry the text along
        raise UsageError(f"{key!r} of {self.where} is no base64", wanted="base64, as kubectl writes it")

    def child(self, key: str) -> Entry | None:
        """The mapping at `key`. Raises UsageError for anything else that stands there."""
        value = self.values.get(key)
        return None if value is None else Entry(f"{key!r} of {self.where}", self.path, _mapping(value, key, self.where))

    def children(self, key: str) -> tuple[Entry, ...]:
        """The list of mappings at `key`. Raises UsageError."""
        return tuple(
            Entry(f"{key!r} of {self.where}", self.path, _mapping(item, key, self.where))
            for item in _items(self.values.get(key), key, self.where)
        )

    def texts(self, key: str) -> tuple[str, ...]:
        """The list of texts at `key`. Raises UsageError."""
        items = _items(self.values.get(key), key, self.where)
        texts = tuple(item for item in items if isinstance(item, str))
        if len(texts) != len(items):
            raise UsageError(f"{key!r} of {self.where} has an item that is no text", wanted="a list of texts")
        return texts


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """One file, or several put together."""

    names: str
    """The file's name, or the names of all, for messages."""
    current_context: str
    contexts: dict[str, Entry]
    clusters: dict[str, Entry]
    users: dict[str, Entry]


def parse(content: bytes, path: Path) -> Kubeconfig:
    """Read one kubeconfig. Raises UsageError that names the file and the place in it, never a value."""
    document = load_yaml(content, f"the kubeconfig {path}")
    if not isinstance(document, dict):
        raise UsageError(
            f"the kubeconfig {path} is empty" if document is None else f"{path} is no kubeconfig",
            wanted="what `kubectl config view --raw` prints",
        )
    whole = Entry(str(path), path, document)
    kind, version = whole.text("kind"), whole.text("apiVersion")
    if kind not in {"", "Config"} or version not in {"", "v1"}:
        raise UsageError(
            f"{path} holds a {kind[:40]!a} of version {version[:40]!a}", wanted="kind Config, apiVersion v1"
        )
    return Kubeconfig(
        names=str(path),
        current_context=whole.text("current-context"),
        contexts=_named(whole, "contexts", "context"),
        clusters=_named(whole, "clusters", "cluster"),
        users=_named(whole, "users", "user"),
    )


def merge(files: Sequence[Kubeconfig]) -> Kubeconfig:
    """Put several together as kubectl does: for every name, and for the current context, the first file wins."""
    backwards = list(reversed(files))
    return Kubeconfig(
        names=":".join(file.names for file in files),
        current_context=next((file.current_context for file in files if file.current_context), ""),
        contexts={name: entry for file in backwards for name, entry in file.contexts.items()},
        clusters={name: entry for file in backwards for name, entry in file.clusters.items()},
        users={name: entry for file in backwards for name, entry in file.users.items()},
    )


def _named(whole: Entry, plural: str, singular: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for item in whole.children(plural):
        name = item.text("name")
        where = f"{singular} {name[:200]!a} of {whole.path}"
        if name in found:
            raise UsageError(f"{where} is there twice", wanted="every name once")
        value = item.values.get(singular)
        found[name] = Entry(where, whole.path, {} if value is None else _mapping(value, singular, where))
    return found


def _mapping(value: object, key: str, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UsageError(f"{key!r} of {where} is no mapping", wanted="keys and values")
    return value


def _items(value: object, key: str, where: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise UsageError(f"{key!r} of {where} is no list", wanted="a list")
    return value
