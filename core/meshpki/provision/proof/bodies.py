"""The objects that a round makes, none of which does anything. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.provision.ca_questions import LIFETIME_SECONDS
from meshpki.provision.proof.question import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    Body = dict[str, object]
    Metadata = Mapping[str, object]

LEGACY_TYPE: Final = "kubernetes.io/service-account-token"
LEGACY_ACCOUNT: Final = "kubernetes.io/service-account.name"
NOBODY: Final = "meshpki-verify-nobody"
"""A scheduler that does not exist: the pod stays where no kubelet sees it, and no autoscaler counts it."""


def account(metadata: Metadata) -> Body:
    """The probe account."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata,
        "automountServiceAccountToken": False,
    }


def pod(metadata: Metadata, account_uid: str) -> Body:
    """A pod to bind tokens to: as restricted as PodSecurity asks for, small enough for any quota, never scheduled."""
    least = {"cpu": "1m", "memory": "1Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **_owned(metadata, account_uid),
            "labels": {**_labels(metadata), "sidecar.istio.io/inject": "false"},
        },
        "spec": {
            "serviceAccountName": NAME,
            "schedulerName": NOBODY,
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65535, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "none",
                    "image": "meshpki.invalid/none",
                    "imagePullPolicy": "Never",
                    "resources": {"requests": least, "limits": least},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def legacy_secret(metadata: Metadata, account_uid: str) -> Body:
    """A Secret that a controller-manager fills with a legacy token of the account."""
    owned = _owned(metadata, account_uid)
    annotations = metadata.get("annotations")
    kept = annotations if isinstance(annotations, dict) else {}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": LEGACY_TYPE,
        "metadata": {**owned, "annotations": {**kept, LEGACY_ACCOUNT: NAME}},
    }


def token_request(audience: str, pod_uid: str) -> Body:
    """A TokenRequest for that audience, bound to the pod."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": [audience],
            "expirationSeconds": LIFETIME_SECONDS,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": NAME, "uid": pod_uid},
        },
    }


def _owned(metadata: Metadata, account_uid: str) -> Body:
    """Owned by the account, so that it goes when the account does, whoever removes that."""
    owner = {"apiVersion": "v1", "kind": "ServiceAccount", "name": NAME, "uid": account_uid}
    return {**metadata, "ownerReferences": [owner]}


def _labels(metadata: Metadata) -> Mapping[str, object]:
    labels = metadata.get("labels")
    return labels if isinstance(labels, dict) else {}
