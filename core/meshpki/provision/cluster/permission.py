"""What the operator's own account must be allowed to do for detection, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.provision.cluster.evidence import member, text
from meshpki.provision.cluster.verdict import Answer, Reason, Rung, Verdict, could_not_tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.provision.cluster.evidence import Exchange, Members

NAME: Final = "meshpki-detect"
"""Of the throw-away account and pod. Always the same, so that RBAC can name them and nothing else."""
MANIFEST: Final = "what `meshpki detect` prints with the same options and --rbac NAME"
REVIEW_PATH: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@dataclass(frozen=True, slots=True)
class Permission:
    """One verb on one resource or path, as RBAC says it."""

    verb: str
    resource: str = ""
    """`serviceaccounts/token`; empty for a path."""
    group: str = ""
    namespace: str = ""
    """Empty for what belongs to the cluster."""
    name: str = ""
    path: str = ""
    manifest: str = MANIFEST
    """What to apply so that it is granted: a file of ours, or what a command prints. Empty: everybody has it."""

    def __str__(self) -> str:
        """The permission in words: `create serviceaccounts/token meshpki-detect in namespace default`."""
        kind = self.path or (f"{self.resource}.{self.group}" if self.group else self.resource)
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {kind}{f' {self.name}' if self.name else ''}{where}"

    @property
    def todo(self) -> str:
        """Who may be asked for what."""
        everybody = "every authenticated user has it unless it was taken away"
        given = f"apply {self.manifest}" if self.manifest else everybody
        return f"have `{self}` granted ({given}), or run it as somebody who may"

    def review(self) -> dict[str, object]:
        """The SelfSubjectAccessReview that asks for it."""
        if self.path:
            spec: dict[str, object] = {"nonResourceAttributes": {"verb": self.verb, "path": self.path}}
        else:
            resource, _, subresource = self.resource.partition("/")
            attributes = {
                "verb": self.verb,
                "group": self.group,
                "resource": resource,
                "subresource": subresource,
                "namespace": self.namespace,
                "name": self.name,
            }
            spec = {"resourceAttributes": {key: value for key, value in attributes.items() if value}}
        return {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}


@dataclass(frozen=True, slots=True)
class Granted:
    """What a SelfSubjectAccessReview says."""

    permission: Permission
    allowed: bool
    why: str = ""


DISCOVERY: Final = Permission("get", path="/api/*", manifest="")
VERSION: Final = Permission("get", path="/version", manifest="")
CERTIFICATES: Final = Permission("get", path="/apis/*", manifest="")
ACCESS_REVIEW: Final = Permission("create", "selfsubjectaccessreviews", "authorization.k8s.io", manifest="")
TOKEN_REVIEW: Final = Permission("create", "tokenreviews", "authentication.k8s.io")
ISSUER_DOCUMENT: Final = Permission("get", path="/.well-known/openid-configuration")
ISSUER_KEYS: Final = Permission("get", path="/openid/v1/jwks")


def create_account(namespace: str) -> Permission:
    """To make the throw-away account. RBAC cannot restrict a creation to a name."""
    return Permission("create", "serviceaccounts", namespace=namespace)


def read_account(namespace: str) -> Permission:
    """To see what an earlier run left."""
    return Permission("get", "serviceaccounts", namespace=namespace, name=NAME)


def remove_account(namespace: str) -> Permission:
    """To take the throw-away account away."""
    return Permission("delete", "serviceaccounts", namespace=namespace, name=NAME)


def request_token(namespace: str) -> Permission:
    """To ask for its token, and for no other account's."""
    return Permission("create", "serviceaccounts/token", namespace=namespace, name=NAME)


def needed(namespace: str, *, canary: bool = False) -> tuple[Permission, ...]:
    """Everything that detection asks for beyond what every authenticated user may do."""
    account = (create_account(namespace), read_account(namespace), remove_account(namespace), request_token(namespace))
    return (*account, TOKEN_REVIEW, ISSUER_DOCUMENT, ISSUER_KEYS, *(canary_permissions(namespace) if canary else ()))


def canary_permissions(namespace: str) -> tuple[Permission, ...]:
    """What the canary pod needs on top."""
    return (
        Permission("create", "pods", namespace=namespace),
        Permission("get", "pods", namespace=namespace, name=NAME),
        Permission("delete", "pods", namespace=namespace, name=NAME),
        Permission("list", "events", namespace=namespace),
    )


def read(members: Members, permission: Permission) -> Granted | None:
    """Read a SelfSubjectAccessReview's answer; None if it is none."""
    allowed = member(members, "status", "allowed")
    if not isinstance(allowed, bool):
        return None
    denied = member(members, "status", "denied") is True
    return Granted(permission, allowed and not denied, text(members, "status", "reason"))


def judge(reviews: Sequence[Exchange[Granted]]) -> Verdict:
    """Yes if everything is granted; no, and what, if something is not; could not tell if a question had no answer."""
    missing = [seen.found.permission for seen in reviews if seen.found is not None and not seen.found.allowed]
    unanswered = [seen for seen in reviews if seen.found is None]
    evidence = tuple(reviews)
    if missing:
        todo = f"apply {MANIFEST}, or run it as somebody who may"
        text = f"not allowed to {'; '.join(map(str, missing))}"
        return Verdict(Rung.PERMISSIONS, Answer.NO, Reason.MISSING, text, todo, evidence)
    if unanswered:
        verdict = could_not_tell(Rung.PERMISSIONS, unanswered[0], ACCESS_REVIEW)
        return Verdict(verdict.rung, verdict.answer, verdict.reason, verdict.seen, verdict.todo, evidence)
    text = f"all {len(reviews)} permissions that detection needs"
    return Verdict(Rung.PERMISSIONS, Answer.YES, Reason.ALL_GRANTED, text, evidence=evidence)


def allowed(reviews: Sequence[Exchange[Granted]], permission: Permission) -> bool | None:
    """Whether that permission is granted; None when it could not be found out."""
    return next((seen.found.allowed for seen in reviews if seen.found and seen.found.permission == permission), None)
