"""A request of the round that brought nothing: what happened, which permission it needs, what to do. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.errors import MeshpkiError, UsageError
from meshpki.kube import paths
from meshpki.provision.cluster.evidence import Outcome
from meshpki.provision.cluster.permission import REVIEW_PATH, Permission
from meshpki.provision.cluster.token import Account
from meshpki.provision.cluster.verdict import Rung, could_not_tell
from meshpki.provision.proof.question import NAME

if TYPE_CHECKING:
    from meshpki.provision.cluster.evidence import Exchange, Seen
    from meshpki.provision.cluster.token import AccountSeen

RBAC_FILE: Final = "deploy/kubernetes/verify-rbac.yaml"


def permission_for(method: str, path: str) -> Permission:
    """What RBAC must allow for this request, and which file of ours grants it; what everybody may, none does."""
    needed = paths.permission(method, path)
    file = "" if path == REVIEW_PATH else RBAC_FILE
    return Permission(needed.verb, needed.resource, needed.group, needed.namespace, needed.name, needed.path, file)


def trouble(seen: Seen) -> MeshpkiError:
    """The error for a request without a usable answer; its `request` is `METHOD path`."""
    method, path = seen.request.split(" ")[:2]
    # An admission plugin refuses by 403 too; RBAC's own refusal says that the user cannot.
    if seen.outcome is Outcome.FORBIDDEN and " cannot " not in seen.message:
        todo = "name a namespace that takes such an object (--namespace)"
        return MeshpkiError(f"{seen.request} was not admitted: {seen.short}", todo=todo, evidence=(line(seen),))
    if seen.outcome is Outcome.NOT_FOUND:
        return MeshpkiError(f"{seen.request}: {seen.short}", todo=_how_to_find(path, seen), evidence=(line(seen),))
    verdict = could_not_tell(Rung.TOKEN, seen, permission_for(method, path))
    return MeshpkiError(verdict.seen, todo=verdict.todo, evidence=(line(seen),))


def _how_to_find(path: str, seen: Seen) -> str:
    if path.endswith("/token") and NAME not in seen.about:
        return "TokenRequest is off: see what `meshpki detect` says of this cluster"
    if "namespaces" in seen.about or "namespaces" in seen.message:
        return f"name a namespace that is there (--namespace), or apply {RBAC_FILE}"
    return "look for whoever removes such objects, and try again"


def not_ours(seen: Exchange[AccountSeen], what: str) -> MeshpkiError | None:
    """The error for an object of our name that this run did not make; None when it made it."""
    match seen.found.state if seen.found else None:
        case Account.FOREIGN:
            return UsageError(
                f"{what} stands there, and verify did not make it",
                todo="look whose it is; remove it, or name another namespace (--namespace)",
                evidence=(line(seen),),
            )
        case Account.IN_USE:
            return UsageError(
                f"{what} is in use: another `meshpki verify` is at work",
                todo="run it again when that one is done, or name another namespace (--namespace); what a run of "
                "another machine left counts as left after ten minutes",
                evidence=(line(seen),),
            )
        case _:
            return None


def line(seen: Seen) -> str:
    """A request and its answer in one line of evidence."""
    return f"{seen.request}: {seen.short}"
