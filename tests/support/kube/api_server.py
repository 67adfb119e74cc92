"""One bare API server of a chosen age with chosen flags, and what a test does with it as its administrator."""

from __future__ import annotations

import http.client
import json
import ssl
from contextlib import closing
from typing import TYPE_CHECKING

from support.kube import kubeconfig, objects
from support.kube.flags import DEFAULT_ISSUER, Files, command_line
from support.kube.process import NotStartedError, ServerProcess, free_port
from support.kube_assets.releases import Release, program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from support.kube.authority import KeyPair
    from support.kube.cluster import Cluster

START_SECONDS = 150.0
"""Far above what an idle machine needs (4 to 8 s): a busy one is no failure."""
STOP_GRACE = 3.0
ATTEMPTS = 3
SYSTEM_NAMESPACES = ("default", "kube-system")
_FIRST_WITH_KID = 16
_FIRST_WITH_DISCOVERY = 20
_FIRST_WITH_READYZ = 16


class ApiServer:
    """A running API server; RBAC is on, and there is no controller-manager, scheduler or kubelet beside it."""

    def __init__(
        self, cluster: Cluster, release: Release, flags: Sequence[str] = (), issuers: Sequence[str] = (DEFAULT_ISSUER,)
    ) -> None:
        self.cluster = cluster
        self.release = release
        self.flags = tuple(flags)
        self.issuers = tuple(issuers)
        """The first one signs; none: no TokenRequest (1.13 only)."""
        self.ca_file = cluster.authority.ca_file
        self.admin_token = cluster.admin_token
        self.stranger_token = cluster.stranger_token
        """Of a user without any rights of its own."""
        self.private_key_file = cluster.account_key.private_file
        self.public_key_file = cluster.account_key.public_file
        self._directory = cluster.server_directory()
        self._context = ssl.create_default_context(cafile=str(self.ca_file))
        self.port = 0
        self._process: ServerProcess | None = None
        for attempt in range(1, ATTEMPTS + 1):
            self.port = free_port()
            try:
                self.start()
            except NotStartedError as error:
                if attempt == ATTEMPTS or "address already in use" not in str(error):
                    raise
            else:
                break
        self.admin_kubeconfig = self.kubeconfig("admin", token=self.admin_token)

    @property
    def url(self) -> str:
        """Where it serves; the same over all restarts."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def service_account_issuer(self) -> str:
        """The `iss` of the tokens it makes."""
        return self.issuers[0]

    # --- its life

    @property
    def pid(self) -> int:
        """Of the process that serves now."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.running

    @property
    def log(self) -> str:
        """The last lines of what it said."""
        return self._process.tail() if self._process else ""

    def start(self) -> None:
        """Start it on its port and its etcd; return once it is ready. Raises NotStartedError with its log's tail."""
        argv = [str(program(self.release)), *self._command_line()]
        self._process = ServerProcess(argv, self._directory / "log")
        self._process.start()
        self._process.wait_until(self._ready, START_SECONDS)

    def stop(self, grace: float = STOP_GRACE) -> None:
        """SIGTERM; SIGKILL after `grace` seconds."""
        if self._process:
            self._process.stop(grace)

    def kill(self) -> None:
        """SIGKILL: no word to anybody."""
        if self._process:
            self._process.kill()

    def restart(self, *flags: str, issuers: Sequence[str] | None = None, plain: bool = False) -> None:
        """Stop and start on the same port and etcd. What is given takes the place of what was; the rest stays.

        `plain`: without any flags but those that every server of that age has.
        """
        self.stop()
        self.flags = () if plain else flags or self.flags
        self.issuers = self.issuers if issuers is None else tuple(issuers)
        self.start()

    def _command_line(self) -> list[str]:
        serving, key = self.cluster.authority.serving, self.cluster.account_key
        files = Files(
            ca=self.ca_file,
            certificate=serving.certificate,
            key=serving.key,
            tokens=self.cluster.tokens_file,
            account_public_key=key.public_file,
            account_private_key=key.private_file,
            work=self._directory,
        )
        return command_line(self.release, self.port, self.cluster.etcd.url, files, self.issuers, self.flags)

    def _ready(self) -> bool:
        path = "/readyz" if self.release.minor >= _FIRST_WITH_READYZ else "/healthz"
        try:
            return self.request("GET", path)[0] == 200 and all(
                self.request("GET", f"/api/v1/namespaces/{name}")[0] == 200 for name in SYSTEM_NAMESPACES
            )
        except OSError:
            return False

    # --- asking it

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
        timeout: float = 30,
    ) -> tuple[int, bytes]:
        """Ask as the administrator, or with another token ("" for none); raises OSError when there is no answer."""
        headers = {"Accept": "application/json, */*", "Content-Type": content_type}
        if credential := self.admin_token if token is None else token:
            headers["Authorization"] = f"Bearer {credential}"
        data = None if body is None else json.dumps(body).encode()
        with closing(http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self._context)) as up:
            try:
                up.request(method, path, data, headers)
                answer = up.getresponse()
                return answer.status, answer.read()
            except http.client.HTTPException as error:
                raise ConnectionError(f"{method} {path}: {error!r}") from error

    def _done(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
        status, answer = self._answered(method, path, body)
        if not answer:
            return {}
        assert 200 <= status < 300, f"{method} {path}: {status} {answer.decode(errors='replace')}"
        parsed = json.loads(answer)
        assert isinstance(parsed, dict)
        return parsed

    def _answered(self, method: str, path: str, body: Mapping[str, object] | None) -> tuple[int, bytes]:
        """Ask again where 1.13.0 says nothing: one write in some hundreds is answered by 200 and no byte.

        The write was made all the same (kubernetes/kubernetes#71696, mended in 1.13.3). `request` shows it as it is.
        """
        status, answer = self.request(method, path, body)
        asked = 1
        while status == 200 and not answer and asked < ATTEMPTS:
            status, answer = self.request(method, path, body)
            asked += 1
        name = _name(body)
        if asked > 1 and status == 409 and name:
            return self.request("GET", f"{path}/{name}")
        return (200, b"") if asked > 1 and status == 404 and method == "DELETE" else (status, answer)

    # --- making what tests need

    def create(self, path: str, body: Mapping[str, object]) -> str:
        """POST an object to its collection; its UID."""
        return _text(self._done("POST", path, body), "metadata", "uid")

    def delete(self, path: str) -> None:
        """Delete at once: no kubelet will ever confirm that a pod has ended."""
        self._done("DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0})

    def create_namespace(self, name: str) -> str:
        """Its UID."""
        return self.create("/api/v1/namespaces", objects.namespace(name))

    def create_service_account(self, namespace: str, name: str) -> str:
        """Its UID. A namespace that is not there is made."""
        if self.request("GET", f"/api/v1/namespaces/{namespace}")[0] == 404:
            self.create_namespace(namespace)
        return self.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", objects.service_account(name))

    def create_node(self, name: str) -> str:
        """Its UID."""
        return self.create("/api/v1/nodes", objects.node(name))

    def create_pod(self, namespace: str, name: str, account: str, node: str | None = None) -> str:
        """A pod of that account, said to be on that node; its UID. Nothing runs it."""
        return self.create(f"/api/v1/namespaces/{namespace}/pods", objects.pod(name, account, node))

    def delete_service_account(self, namespace: str, name: str) -> None:
        self.delete(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}")

    def delete_pod(self, namespace: str, name: str) -> None:
        self.delete(f"/api/v1/namespaces/{namespace}/pods/{name}")

    def delete_node(self, name: str) -> None:
        self.delete(f"/api/v1/nodes/{name}")

    def allow(self, account: str, *rules: Mapping[str, object], name: str | None = None) -> None:
        """Let a service account (`namespace/name`) do that, cluster-wide: `{"apiGroups", "resources", "verbs"}`."""
        namespace, _, short = account.partition("/")
        role = name or f"test-{namespace}-{short}"
        group = "/apis/rbac.authorization.k8s.io/v1"
        self.create(f"{group}/clusterroles", objects.cluster_role(role, [dict(rule) for rule in rules]))
        subject: objects.Body = {"kind": "ServiceAccount", "namespace": namespace, "name": short}
        self.create(f"{group}/clusterrolebindings", objects.cluster_role_binding(role, role, subject))

    # --- tokens

    def token(
        self, namespace: str, account: str, *, audiences: Sequence[str] = (), seconds: int = 600, pod: str | None = None
    ) -> str:
        """By TokenRequest; without audiences, for the API server itself. With a pod, bound to it."""
        uid = None
        if pod is not None:
            uid = _text(self._done("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}"), "metadata", "uid")
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return _text(
            self._done("POST", path, objects.token_request(tuple(audiences), seconds, pod, uid)), "status", "token"
        )

    def legacy_token(self, namespace: str, account: str) -> str:
        """A new Secret of that account with its token, as a controller-manager makes one."""
        path = f"/api/v1/namespaces/{namespace}"
        uid = _text(self._done("GET", f"{path}/serviceaccounts/{account}"), "metadata", "uid")
        secret = f"{account}-token-{self.cluster.next_number()}"
        token = self.cluster.account_key.legacy_token(
            namespace, account, uid, secret, with_kid=self.release.minor >= _FIRST_WITH_KID
        )
        ca = self.ca_file.read_bytes()
        self.create(f"{path}/secrets", objects.legacy_secret(secret, account, uid, namespace, token, ca))
        return token

    def review(self, token: str, *audiences: str) -> tuple[int, dict[str, object]]:
        """What the API server says of a token: the HTTP status and the review's own `status`."""
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        status, answer = self._answered("POST", path, objects.token_review(token, audiences))
        verdict = json.loads(answer).get("status")
        return status, verdict if isinstance(verdict, dict) else {}

    def jwks(self) -> bytes:
        """Its verification keys: from its own endpoint, or from the public key in the ages without one."""
        if self.release.minor < _FIRST_WITH_DISCOVERY:
            return self.cluster.account_key.jwks(with_kid=False)
        status, answer = self.request("GET", "/openid/v1/jwks")
        assert status == 200, answer
        return answer

    # --- credentials in files

    def client_certificate(self, user: str, *groups: str) -> KeyPair:
        """Of any user in any groups."""
        return self.cluster.authority.client(user, *groups)

    def kubeconfig(
        self, name: str, *, token: str | None = None, user: str | None = None, groups: Sequence[str] = ()
    ) -> Path:
        """A file with one context of that name, for a bearer token or for a user by client certificate."""
        client = None if user is None else self.client_certificate(user, *groups)
        return kubeconfig.write(
            self._directory / f"{name}.kubeconfig", self.url, self.ca_file, token=token, client=client
        )


def _name(body: Mapping[str, object] | None) -> str:
    metadata = body.get("metadata") if body else None
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""


def _text(found: object, *path: str) -> str:
    for key in path:
        assert isinstance(found, dict)
        found = found[key]
    assert isinstance(found, str)
    return found
