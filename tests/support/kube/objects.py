"""Bodies of the objects that tests make, as small as every age takes them."""

from __future__ import annotations

import base64

Body = dict[str, object]


def namespace(name: str) -> Body:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def service_account(name: str) -> Body:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}


def node(name: str) -> Body:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def pod(name: str, account: str, node_name: str | None) -> Body:
    """A pod that stands on its node from the start: nobody schedules, and nobody runs it."""
    spec: Body = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,  # 1.13 refuses a pod whose account has no Secret yet
        "containers": [{"name": "main", "image": "none"}],
    }
    if node_name is not None:
        spec["nodeName"] = node_name
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def token_request(audiences: tuple[str, ...], seconds: int, pod_name: str | None, pod_uid: str | None) -> Body:
    spec: Body = {"audiences": list(audiences), "expirationSeconds": seconds}
    if pod_name is not None:
        spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod_name, "uid": pod_uid}
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}


def legacy_secret(name: str, account: str, uid: str, namespace: str, token: str, ca: bytes) -> Body:
    prefix = "kubernetes.io/service-account"
    values = {"token": token.encode(), "ca.crt": ca, "namespace": namespace.encode()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": f"{prefix}-token",
        "metadata": {"name": name, "annotations": {f"{prefix}.name": account, f"{prefix}.uid": uid}},
        "data": {key: base64.b64encode(value).decode() for key, value in values.items()},
    }


def token_review(token: str, audiences: tuple[str, ...]) -> Body:
    spec: Body = {"token": token, **({"audiences": list(audiences)} if audiences else {})}
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}


def cluster_role(name: str, rules: list[Body]) -> Body:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": rules,
    }


def cluster_role_binding(name: str, role: str, subject: Body) -> Body:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }
