"""From an answer that is no success to an error that helps. Pure.

What the server says about itself (a Status object) is shown, never believed: what the request was and what it needs
follows from the request.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from meshpki.kube.answer import mapping_at, text_at
from meshpki.kube.errors import (
    FieldConflict,
    KubeAnswerError,
    KubeConflictError,
    KubeError,
    KubeForbiddenError,
    KubeGoneError,
    KubeInvalidError,
    KubeNotFoundError,
    KubeServerError,
    KubeStatusError,
    KubeThrottledError,
    KubeUnauthorizedError,
    KubeUnsupportedError,
)

if TYPE_CHECKING:
    from meshpki.kube.answer import Answer, JsonObject
    from meshpki.kube.errors import Permission

MAX_STATUS_BYTES: Final = 256 * 1024
_MESSAGE: Final = 300
_CONFLICTS: Final = 16
_USER: Final = re.compile(r'User "([^"]{1,200})" cannot ')
_CONFLICT: Final = re.compile(r'conflict with "([^"]{0,200})"')


def error_for(answer: Answer, *, doing: str, permission: Permission, login: str = "") -> KubeError:
    """The error for an answer of 300 and above.

    `doing` says what was asked (`create tokenreviews at https://...`); `login` what to do when the credential is not
    accepted.
    """
    status = _status(answer.body)
    message = _shown(text_at(status, "message"))
    says = f"{doing}: {answer.status}" + (f" {message}" if message else "")
    code = answer.status
    if code == 401:
        return KubeUnauthorizedError(
            f"{doing}: 401, the API server does not know us by this credential",
            status=401,
            wanted="a credential that is valid now, and of this cluster",
            todo=login or "log in again",
        )
    if code == 403:
        return _forbidden(doing, message, permission)
    if code == 404:
        return _not_found(says, status)
    if code == 409:
        return _conflict(says, status)
    if code == 429:
        return KubeThrottledError(says, status=429, todo="try again later, and less often")
    return _other(code, says, doing)


def _other(code: int, says: str, doing: str) -> KubeError:
    if code in {400, 422}:
        return KubeInvalidError(says, status=code, todo="put the object right")
    if code in {405, 406, 415}:
        return KubeUnsupportedError(
            says, status=code, wanted="a server that knows this kind of request", todo="update the cluster"
        )
    if code == 410:
        return KubeGoneError(says, status=410, wanted="a resource version that the server still has", todo="list again")
    if code >= 500:
        return KubeServerError(says, status=code, todo="try again; if it stays, look at the API server's log")
    if 300 <= code < 400:
        return KubeAnswerError(
            f"{doing}: {code}, a redirect, which is not followed: the credential is for this server alone",
            wanted="the answer of a Kubernetes API server",
            todo="name the address of the API server itself",
        )
    return KubeStatusError(says, status=code, wanted="a status that the Kubernetes API knows")


def _forbidden(doing: str, message: str, permission: Permission) -> KubeForbiddenError:
    by_rbac = not message or " cannot " in message
    user = _USER.search(message)
    who = f"user {user[1]!a}" if user else "we"
    if not by_rbac:  # a quota, an admission webhook: another role would not help
        return KubeForbiddenError(
            f"{doing}: 403 {message}", permission=permission, todo="see what the cluster's rules ask for"
        )
    subject = user[1] if user else "USER"
    return KubeForbiddenError(
        f"{doing}: 403, {who} may not {permission}",
        permission=permission,
        wanted=f"the permission to {permission}",
        todo=f"add the rule {permission.rule()} to a {permission.kind()} that is bound to it; "
        f"then `{permission.question(subject)}` says yes",
    )


def _not_found(says: str, status: JsonObject) -> KubeNotFoundError:
    named = text_at(mapping_at(status, "details"), "name")
    todo = "check the name and the namespace" if named else "this server has no such API: see `meshpki detect`"
    return KubeNotFoundError(says, status=404, todo=todo)


def _conflict(says: str, status: JsonObject) -> KubeConflictError:
    conflicts = _field_conflicts(status)
    if conflicts:
        first = conflicts[0]
        return KubeConflictError(
            says,
            conflicts=conflicts,
            wanted="fields that nobody else manages",
            todo=f"let {first.manager!a} give up {first.field}, or leave that field out",
        )
    if text_at(status, "reason") == "AlreadyExists":
        return KubeConflictError(says, wanted="a name that is free", todo="look at what stands there, or take it away")
    return KubeConflictError(says, wanted="the newest version of the object", todo="read it again, then try again")


def _field_conflicts(status: JsonObject) -> tuple[FieldConflict, ...]:
    """Who owns which field, from the causes of a conflict of server-side apply."""
    causes = mapping_at(status, "details").get("causes")
    found = []
    for cause in causes[:_CONFLICTS] if isinstance(causes, list) else []:
        if isinstance(cause, dict) and cause.get("reason") == "FieldManagerConflict":
            manager = _CONFLICT.search(text_at(cause, "message"))
            found.append(FieldConflict(_shown(manager[1]) if manager else "another", _shown(text_at(cause, "field"))))
    return tuple(found)


def _status(body: bytes) -> JsonObject:
    if len(body) > MAX_STATUS_BYTES:
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and value.get("kind") == "Status" else {}


def _shown(text: str) -> str:
    """Text of the server as it may stand in a message: one line, printable, not long."""
    flat = "".join(char if char.isprintable() else " " for char in text[: 4 * _MESSAGE])
    flat = " ".join(flat.split())
    return flat if len(flat) <= _MESSAGE else flat[:_MESSAGE] + "..."
