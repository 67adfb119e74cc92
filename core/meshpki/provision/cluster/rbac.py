"""The rights that detection needs as RBAC objects, bound to whoever is to have them: what `detect --rbac` prints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.errors import UsageError
from meshpki.provision.cluster import permission

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshpki.provision.cluster.permission import Permission

    Body = dict[str, object]

API: Final = "rbac.authorization.k8s.io"
_GROUP: Final = "group:"
_NOT_IN_NAMES: Final = re.compile(r"[/%]")
"""What no object's name may hold (Kubernetes' path segment names)."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A user or a group, by the name under which the API server knows it."""

    kind: str
    """`User` or `Group`."""
    name: str

    @property
    def binding(self) -> str:
        """The name of its bindings: one for each subject, so that granting to one takes nothing from another."""
        return f"{permission.NAME}:{_NOT_IN_NAMES.sub('-', self.name)}"


def read_subject(text: str) -> Subject:
    """Read `NAME`, a user, or `group:NAME`. Raises UsageError."""
    kind, name = ("Group", text.removeprefix(_GROUP)) if text.startswith(_GROUP) else ("User", text)
    if not name or not name.isprintable() or name != name.strip():
        raise UsageError(
            f"--rbac {text!a:.80}",
            wanted="a user's name, or group:NAME",
            todo="see `kubectl auth whoami` for both, run as whoever is to be granted the rights",
        )
    return Subject(kind, name)


def manifest(namespace: str, subject: Subject, *, canary: bool) -> Body:
    """All objects in one List, as `kubectl apply` takes it."""
    needed = permission.needed(namespace)
    items = [
        *_granted("Role", namespace, permission.NAME, (one for one in needed if one.namespace), subject),
        *_granted("ClusterRole", "", permission.NAME, (one for one in needed if not one.namespace), subject),
    ]
    if canary:
        name = f"{permission.NAME}-canary"
        items += _granted("Role", namespace, name, permission.canary_permissions(namespace), subject)
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _granted(kind: str, namespace: str, name: str, needed: Iterable[Permission], subject: Subject) -> list[Body]:
    binding = subject.binding.replace(permission.NAME, name, 1)
    return [
        {**_head(kind, namespace, name), "rules": _rules(needed)},
        {
            **_head(f"{kind}Binding", namespace, binding),
            "roleRef": {"apiGroup": API, "kind": kind, "name": name},
            "subjects": [{"apiGroup": API, "kind": subject.kind, "name": subject.name}],
        },
    ]


def _head(kind: str, namespace: str, name: str) -> Body:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": f"{API}/v1", "kind": kind, "metadata": metadata}


def _rules(needed: Iterable[Permission]) -> list[Body]:
    """One rule for each resource and name, or for all paths of a verb."""
    verbs: dict[tuple[str, str, str], list[str]] = {}
    paths: dict[str, list[str]] = {}
    for one in needed:
        if one.path:
            paths.setdefault(one.verb, []).append(one.path)
        else:
            verbs.setdefault((one.group, one.resource, one.name), []).append(one.verb)
    rules: list[Body] = [
        {
            "apiGroups": [group],
            "resources": [resource],
            **({"resourceNames": [name]} if name else {}),  # RBAC cannot tie a creation to a name
            "verbs": found,
        }
        for (group, resource, name), found in verbs.items()
    ]
    rules += [{"nonResourceURLs": found, "verbs": [verb]} for verb, found in paths.items()]
    return rules
