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
RBAC_FILE: Final = "deploy/kubernetes/detect-rbac.yaml"
CANARY_RBAC_FILE: Final = "deploy/kubernetes/detect-canary-rbac.yaml"
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
    file: str = RBAC_FILE

    def __str__(self) -> str:
        """The permission in words: `create serviceaccounts/token meshpki-detect in namespace default`."""
        kind = self.path or (f"{self.resource}.{self.group}" if self.group else self.resource)
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {kind}{f' {self.name}' if self.name else ''}{where}"

    @property
    def todo(self) -> str:
        """Who may be asked for what."""
        given = "every authenticated user has it unless it was taken away" if not self.file else f"apply {self.file}"
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


DISCOVERY: Final = Permission("get", path="/api/*", file="")
VERSION: Final = Permission("get", path="/version", file="")
CERTIFICATES: Final = Permission("get", path="/apis/*", file="")
ACCESS_REVIEW: Final = Permission("create", "selfsubjectaccessreviews", "authorization.k8s.io", file="")
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
        Permission("create", "pods", namespace=namespace, file=CANARY_RBAC_FILE),
        Permission("get", "pods", namespace=namespace, name=NAME, file=CANARY_RBAC_FILE),
        Permission("delete", "pods", namespace=namespace, name=NAME, file=CANARY_RBAC_FILE),
        Permission("list", "events", namespace=namespace, file=CANARY_RBAC_FILE),
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
        todo = f"apply {' and '.join(dict.fromkeys(one.file for one in missing))}, or run it as somebody who may"
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
