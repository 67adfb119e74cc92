"""Rung 9, on request: a pod with a projected token, the only proof that kubelets can do their part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from meshpki.provision.cluster import permission
from meshpki.provision.cluster.evidence import Outcome, member, objects, text
from meshpki.provision.cluster.token import LIFETIME_SECONDS
from meshpki.provision.cluster.verdict import Answer, Reason, Rung, Verdict, could_not_tell, not_asked

if TYPE_CHECKING:
    from meshpki.provision.cluster.evidence import Exchange, Members

IMAGE: Final = "registry.k8s.io/pause:3.10"
SECONDS: Final = 60.0
MAX_SECONDS: Final = 180.0
"""What is left of a run's time when all else takes long (`climb.BUDGET_SECONDS`)."""
_OFF: Final = (
    "the API server does not have TokenRequest endpoints enabled",
    "failed to fetch token: the server could not find the requested resource",
)
"""What kubelets say of an API server without TokenRequest (token_manager.go, and before it looked for the reason)."""
_NEVER_SEEN: Final = "ContainerStatusUnknown"
"""What a kubelet writes for a container of which it knows nothing, also of one that never was."""
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
    ran: bool = False
    """Whether its container runs or ran. A phase alone says nothing: a pod that was never admitted has Failed, too."""
    waiting: str = ""
    """What its container waits for, in the kubelet's word."""
    why: str = ""
    """Why the pod is in its phase, in the words of whoever wrote it."""
    failed_mount: str = ""
    """The message of the last event FailedMount."""

    @property
    def mounted(self) -> bool:
        """Whether its volumes were mounted."""
        return self.ran or self.waiting in _AFTER_MOUNT

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def off(self) -> bool:
        """Whether a kubelet says that its API server has no TokenRequest."""
        return any(words in self.failed_mount for words in _OFF)

    @property
    def settled(self) -> bool:
        """Whether looking longer tells nothing new."""
        return self.mounted or self.over or self.off


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
    containers = objects(members, "status", "containerStatuses")
    waiting = [text(one, "state", "waiting", "reason") for one in containers]
    why = ": ".join(filter(None, (text(members, "status", "reason"), text(members, "status", "message"))))
    return CanarySeen(
        text(members, "status", "phase"),
        scheduled=bool(text(members, "spec", "nodeName")),
        ran=any(_ran(one) for one in containers),
        waiting=next(iter(waiting), ""),
        why=why,
    )


def _ran(container: Members) -> bool:
    """Whether it runs or has ended. What could not be started for want of a volume waits."""
    ended = member(container, "state", "terminated")
    if isinstance(ended, dict):
        return text(ended, "reason") != _NEVER_SEEN
    return isinstance(member(container, "state", "running"), dict)


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
    return _looked_at(seen, seen.found)


def _looked_at(seen: Exchange[CanarySeen], found: CanarySeen) -> Verdict:
    answer = Answer.UNKNOWN
    if found.ran:
        answer, reason, todo = Answer.YES, Reason.RUNNING, ""
        text = f"a kubelet mounted the token, and the pod is {found.phase}"
    elif found.mounted:
        answer, reason, todo = Answer.YES, Reason.MOUNTED, ""
        text = f"a kubelet mounted the token; after that the container was held up by {found.waiting}"
    elif found.off:
        answer, reason = Answer.NO, Reason.FAILED_MOUNT
        text = f"a kubelet could not mount the token: {found.failed_mount}"
        todo = "look at that node's kubelet: its version, and whether its API server has TokenRequest"
    elif found.over:
        reason, text = (
            Reason.POD_ENDED,
            f"the pod is {found.phase}, and its container did not run: {found.why or 'nobody says why'}",
        )
        todo = "see to what it says, or name a namespace whose pods are run (--namespace)"
    elif found.failed_mount:
        reason, text = Reason.MOUNT_HELD_UP, f"no kubelet has mounted the token so far: {found.failed_mount}"
        todo = "see to what it says, and try again, or give it longer (--canary-timeout)"
    elif not found.scheduled:
        reason, text = Reason.NO_KUBELET, "the pod was not scheduled to any node"
        todo = "see whether a node is ready and takes pods, or look without --canary"
    else:
        state = f"{found.phase or 'without a phase'} {found.waiting}".rstrip()
        reason, text = Reason.TOO_SLOW, f"the pod was still {state} when time was up"
        todo = "see `kubectl describe` of such a pod, or give it longer (--canary-timeout)"
    return Verdict(Rung.CANARY, answer, reason, text, todo, (seen,))


def _not_looked_at(seen: Exchange[CanarySeen], namespace: str) -> Verdict:
    needs = {one.verb: one for one in permission.canary_permissions(namespace) if one.resource == "pods"}
    verb = "create" if seen.request.startswith("POST ") else "get"
    if verb == "create" and seen.outcome is Outcome.INVALID:
        text = f"the pod was not admitted: {seen.short}"
        todo = "name a namespace that takes such a pod (--namespace), or look without --canary"
        return Verdict(Rung.CANARY, Answer.UNKNOWN, Reason.NOT_ADMITTED, text, todo, (seen,))
    return could_not_tell(Rung.CANARY, seen, needs[verb])
