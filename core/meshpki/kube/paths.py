"""Paths of the API, and what permission a request for one takes. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from meshpki.errors import InvalidValueError
from meshpki.kube.errors import Permission

if TYPE_CHECKING:
    from collections.abc import Mapping

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_.:@+~ -]{1,253}", re.ASCII)
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_OF_NAMESPACES: Final = ("status", "finalize")


def path(
    resource: str, *, group: str = "", version: str = "v1", namespace: str = "", name: str = "", subresource: str = ""
) -> str:
    """The path of a collection, an object or its subresource; the empty group is the core one.

    Raises InvalidValueError for a part that would change the path's shape (Kubernetes' path segment names).
    """
    parts = ["apis", group, version] if group else ["api", version]
    if namespace:
        parts += ["namespaces", namespace]
    parts += [part for part in (resource, name, subresource) if part]
    if subresource and not name:
        raise InvalidValueError(f"subresource {subresource!r} of no object", wanted="a name with it")
    return "/" + "/".join(_segment(part) for part in parts)


def _segment(text: str) -> str:
    if text in {".", ".."} or not _SEGMENT.fullmatch(text):
        raise InvalidValueError(f"{text[:80]!a} in a path of the API", wanted="a name: no slash, no percent, not '..'")
    return quote(text, safe=":@+~")


def is_review(path: str) -> bool:
    """Whether what is created there is a question and its answer, which no server keeps (TokenReview and the like)."""
    return path.endswith("reviews") and path.startswith(("/apis/authentication.k8s.io/", "/apis/authorization.k8s.io/"))


def permission(method: str, path: str, query: Mapping[str, str] | None = None) -> Permission:
    """What the RBAC of the cluster must allow for this request (Kubernetes' RequestInfo)."""
    parts = [unquote(part) for part in path.split("/") if part]
    group, rest = _group(parts)
    if not rest:
        return Permission(verb=method.lower(), path=path)
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _OF_NAMESPACES:
            rest = rest[2:]
    name = rest[1] if len(rest) > 1 else ""
    return Permission(
        verb=_verb(method, name, query or {}),
        resource="/".join([rest[0], *rest[2:3]]),
        group=group,
        namespace=namespace,
        name=name,
    )


def _group(parts: list[str]) -> tuple[str, list[str]]:
    match parts:
        case ["api", _, *rest]:
            return "", rest
        case ["apis", group, _, *rest]:
            return group, rest
        case _:
            return "", []


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    match method:
        case "GET" | "HEAD":
            if query.get("watch") in {"1", "true"}:
                return "watch"
            return "get" if name else "list"
        case "DELETE":
            return "delete" if name else "deletecollection"
        case _:
            return _VERBS.get(method, method.lower())
