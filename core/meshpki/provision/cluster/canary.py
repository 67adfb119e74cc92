"""Rung 9, on request: a pod with a projected token, the only proof that kubelets can do their part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from meshpki.provision.cluster import permission
from meshpki.provision.cluster.evidence import Outcome, objects, text
from meshpki.provision.cluster.token import LIFETIME_SECONDS
from meshpki.provision.cluster.verdict import Answer, Reason, Rung, Verdict, could_not_tell, not_asked

if TYPE_CHECKING:
    from meshpki.provision.cluster.evidence import Exchange, Members

IMAGE: Final = "registry.k8s.io/pause:3.10"
SECONDS: Final = 60.0
_OFF: Final = "TokenRequest endpoints enabled"
_AFTER_MOUNT: Final = frozenset({
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ImageInspectError", "ErrImageNeverPull",
    "CreateContainerError", "CreateContainerConfigError", "RunContainerError", "CrashLoopBackOff",
})  # fmt: skip
"""What a container waits for once its volumes are mounted: a kubelet mounts first, then pulls."""


@dataclass(frozen=True, slots=True)
class CanarySeen:
    """The canary pod, when it was looked at last."""

    phase: str
    scheduled: bool
    waiting: str = ""
    """What its container waits for, in the kubelet's word."""
    failed_mount: str = ""
    """The message of the last event FailedMount."""

    @property
    def started(self) -> bool:
        """Whether its container ran."""
        return self.phase in {"Running", "Succeeded", "Failed"}

    @property
    def mounted(self) -> bool:
        """Whether its volumes were mounted."""
        return self.started or self.waiting in _AFTER_MOUNT

    @property
    def settled(self) -> bool:
        """Whether looking longer tells nothing new."""
        return self.mounted or _OFF in self.failed_mount


def pod(audience: str, image: str, metadata: Members, uid: str) -> dict[str, object]:
    """The pod: restricted in every way that PodSecurity asks for, gone by itself, owned by the throw-away account."""
    source = {"serviceAccountToken": {"audience": audience, "expirationSeconds": LIFETIME_SECONDS, "path": "token"}}
    owner = {"apiVersion": "v1", "kind": "ServiceAccount", "name": permission.NAME, "uid": uid}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "ownerReferences": [owner]},
        "spec": {
            "serviceAccountName": permission.NAME,
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFETIME_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65535,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [{"name": "token", "projected": {"sources": [source]}}],
            "containers": [
                {
                    "name": "canary",
                    "image": image,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/meshpki", "readOnly": True}],
                }
            ],
        },
    }


def read_pod(members: Members) -> CanarySeen | None:
    """Read a Pod; None if it is none."""
    if text(members, "kind") != "Pod":
        return None
    waiting = [text(one, "state", "waiting", "reason") for one in objects(members, "status", "containerStatuses")]
    scheduled = bool(text(members, "spec", "nodeName"))
    return CanarySeen(text(members, "status", "phase"), scheduled, next(iter(waiting), ""))


def read_events(members: Members) -> str:
    """The message of the last event FailedMount in an EventList; empty when there is none."""
    messages = [text(one, "message") for one in objects(members, "items") if text(one, "reason") == "FailedMount"]
    return messages[-1] if messages else ""


def with_events(seen: Exchange[CanarySeen], events: Exchange[str]) -> Exchange[CanarySeen]:
    """The pod, with what its events say of its volumes."""
    if seen.found is None or not events.found:
        return seen
    return replace(seen, found=replace(seen.found, failed_mount=events.found))


def judge(seen: Exchange[CanarySeen] | None, token: Verdict, namespace: str) -> Verdict:
    """Whether a kubelet mounted a token for the mesh."""
    if seen is None:
        return not_asked(Rung.CANARY, "there is no token to mount" if not token.good else "the account is gone")
    if seen.found is None:
        return _not_looked_at(seen, namespace)
    found = seen.found
    evidence = (seen,)
    if found.started:
        text = f"a kubelet mounted the token, and the pod is {found.phase}"
        return Verdict(Rung.CANARY, Answer.YES, Reason.RUNNING, text, evidence=evidence)
    if found.mounted:
        text = f"a kubelet mounted the token; after that the container was held up by {found.waiting}"
        return Verdict(Rung.CANARY, Answer.YES, Reason.MOUNTED, text, evidence=evidence)
    if found.failed_mount:
        text = f"a kubelet could not mount the token: {found.failed_mount}"
        todo = "look at that node's kubelet: its version, and whether its API server has TokenRequest"
        return Verdict(Rung.CANARY, Answer.NO, Reason.FAILED_MOUNT, text, todo, evidence)
    if not found.scheduled:
        text = "the pod was not scheduled to any node"
        todo = "see whether a node is ready and takes pods, or look without --canary"
        return Verdict(Rung.CANARY, Answer.UNKNOWN, Reason.NO_KUBELET, text, todo, evidence)
    text = f"the pod was still {found.phase or 'without a phase'} {found.waiting}".rstrip() + " when time was up"
    todo = "see `kubectl describe` of such a pod, or give it longer (--canary-timeout)"
    return Verdict(Rung.CANARY, Answer.UNKNOWN, Reason.TOO_SLOW, text, todo, evidence)


def _not_looked_at(seen: Exchange[CanarySeen], namespace: str) -> Verdict:
    needs = {one.verb: one for one in permission.canary_permissions(namespace) if one.resource == "pods"}
    verb = "create" if seen.request.startswith("POST ") else "get"
    # An admission plugin refuses by 403 too; RBAC's own refusal says that the user cannot.
    refused = seen.outcome is Outcome.INVALID or (seen.outcome is Outcome.FORBIDDEN and " cannot " not in seen.message)
    if verb == "create" and refused:
        text = f"the pod was not admitted: {seen.short}"
        todo = "name a namespace that takes such a pod (--namespace), or look without --canary"
        return Verdict(Rung.CANARY, Answer.UNKNOWN, Reason.NOT_ADMITTED, text, todo, (seen,))
    return could_not_tell(Rung.CANARY, seen, needs[verb])
