"""An API server of any age in this process: as much of one as detection asks, wrong in every way that a test wants."""

from __future__ import annotations

import json
import time
import urllib.parse
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING

from meshpki.errors import UnavailableError
from support.tokens import ABSENT, ISSUER, TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Body = Mapping[str, object]

UID = "5a4b3c2d-1e0f-4a9b-8c7d-6e5f4a3b2c1d"
"""Of every object that it makes: TokenMaker's service account has it too."""
MODERN = {"major": "1", "minor": "37", "gitVersion": "v1.37.2", "emulationMajor": "1", "emulationMinor": "37"}
FOUNDING = {"major": "1", "minor": "13", "gitVersion": "v1.13.0"}
REFUSAL = "[invalid bearer token, token audiences {aud} is invalid for the target audiences {target}]"


@dataclass(frozen=True)
class FakeAnswer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def answer(status: int, body: object) -> FakeAnswer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return FakeAnswer(status, data, {"date": formatdate(time.time(), usegmt=True)})


def failure(status: int, message: str = "it failed", **details: str) -> FakeAnswer:
    """A Status as API servers write it."""
    return answer(status, {"kind": "Status", "status": "Failure", "message": message, "details": details})


def goes(text: object) -> str:
    """A list as Go prints it in a message."""
    return "[" + " ".join(json.dumps(one) for one in text) + "]" if isinstance(text, list | tuple) else str(text)


@dataclass
class FakeCluster:
    """Speaks as `KubeClient.request` does. `scripted` maps `METHOD path` to what is answered, or raised, instead."""

    version: Body = field(default_factory=lambda: MODERN)
    token_requests: bool = True
    discovered: bool | None = None
    """Whether discovery lists TokenRequest; as it is, unless said otherwise."""
    denied: tuple[str, ...] = ()
    """What SelfSubjectAccessReviews say no to: `create serviceaccounts/token`."""
    maker: TokenMaker = field(default_factory=TokenMaker)
    claims: Body = field(default_factory=dict)
    """Changes in the claims of its tokens."""
    api_audiences: tuple[str, ...] = (ISSUER,)
    audience_aware: bool = True
    published: bool = True
    published_issuer: str = ISSUER
    certificate_kinds: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"v1": ("podcertificaterequests", "clustertrustbundles")}
    )
    pod_status: Body = field(default_factory=dict)
    node: str = ""
    events: Sequence[Body] = ()
    scripted: dict[str, FakeAnswer | BaseException | Callable[[Body], FakeAnswer | None]] = field(default_factory=dict)
    objects: dict[str, dict[str, object]] = field(default_factory=dict)
    asked: list[tuple[str, str, Body | None]] = field(default_factory=list)
    tokens: dict[str, dict[str, object]] = field(default_factory=dict)

    def request(self, method: str, path: str, body: Body | None = None) -> FakeAnswer:
        self.asked.append((method, path, body))
        plain, _, query = path.partition("?")
        said = self.scripted.get(f"{method} {plain}")
        if isinstance(said, BaseException):
            raise said
        if isinstance(said, FakeAnswer):
            return said
        if said is not None and (own := said(body or {})) is not None:
            return own
        return self._answer(method, plain, urllib.parse.parse_qs(query), body or {})

    @property
    def requests(self) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.asked]

    def _answer(self, method: str, path: str, query: Mapping[str, list[str]], body: Body) -> FakeAnswer:
        match method, path.split("/")[1:]:
            case "GET", ["version"]:
                return answer(200, self.version)
            case "GET", ["api", "v1"]:
                return self._core()
            case "POST", ["apis", "authorization.k8s.io", *_]:
                return self._access(body)
            case "POST", ["apis", "authentication.k8s.io", *_]:
                return self._review(body)
            case "GET", ["apis", "certificates.k8s.io", version]:
                return self._certificates(version)
            case "GET", [".well-known", _]:
                document = {"issuer": self.published_issuer, "jwks_uri": "https://10.0.0.1:6443/openid/v1/jwks"}
                return answer(200, document) if self.published else self._nowhere()
            case "GET", ["openid", "v1", "jwks"]:
                return answer(200, self.maker.jwks()) if self.published else self._nowhere()
            case "POST", ["api", "v1", "namespaces", namespace, "serviceaccounts", name, "token"]:
                return self._mint(namespace, name, body)
            case "GET", ["api", "v1", "namespaces", _, "events"]:
                assert query["fieldSelector"] == [f"involvedObject.uid={UID}"]
                return answer(200, {"kind": "EventList", "items": list(self.events)})
            case _:
                return self._object(method, path, body)

    def _nowhere(self) -> FakeAnswer:
        """A path that leads nowhere, outside of /api and /apis: no Status, in no age."""
        return answer(404, {"paths": ["/apis"]} if self.version == FOUNDING else b"404 page not found\n")

    def _core(self) -> FakeAnswer:
        listed = self.token_requests if self.discovered is None else self.discovered
        kinds: list[dict[str, object]] = [{"name": "pods", "kind": "Pod"}, {"name": "serviceaccounts"}]
        if listed:
            token = {"name": "serviceaccounts/token", "group": "authentication.k8s.io", "kind": "TokenRequest"}
            kinds.append({**token, "verbs": ["create"]})
        return answer(200, {"kind": "APIResourceList", "groupVersion": "v1", "resources": kinds})

    def _access(self, body: Body) -> FakeAnswer:
        spec = body["spec"]
        assert isinstance(spec, dict)
        asked = spec.get("resourceAttributes") or spec["nonResourceAttributes"]
        kind = "/".join(filter(None, (asked.get("path") or asked["resource"], asked.get("subresource"))))
        allowed = f"{asked['verb']} {kind}" not in self.denied
        return answer(201, {"kind": "SelfSubjectAccessReview", "status": {"allowed": allowed}})

    def _mint(self, namespace: str, name: str, body: Body) -> FakeAnswer:
        if not self.token_requests:
            return not_found()
        if f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}" not in self.objects:
            return failure(404, f'serviceaccounts "{name}" not found', kind="serviceaccounts", name=name)
        spec = body["spec"]
        assert isinstance(spec, dict)
        changes = {"aud": list(spec["audiences"]), "jti": ABSENT if self.maker.kid == "" else "an-id", **self.claims}
        claims = self.maker.claims(
            now=time.time(), namespace=namespace, name=name, pod=None, node=None, lifetime=spec["expirationSeconds"]
        )
        claims = {key: value for key, value in {**claims, **changes}.items() if value is not ABSENT}
        token = self.maker.sign(claims).decode()
        self.tokens[token] = claims
        return answer(201, {"kind": "TokenRequest", "status": {"token": token}})

    def _review(self, body: Body) -> FakeAnswer:
        spec = body["spec"]
        assert isinstance(spec, dict)
        claims = self.tokens[spec["token"]]
        held = claims["aud"]
        assert isinstance(held, list)
        wanted = spec.get("audiences") or self.api_audiences
        common = [name for name in wanted if name in held]
        status: dict[str, object] = {"user": {"username": claims["sub"]}, "authenticated": True, "audiences": common}
        if not self.audience_aware:
            status.pop("audiences")
        elif not common:
            status = {"user": {}, "error": REFUSAL.format(aud=goes(held), target=goes(wanted))}
        return answer(201, {"kind": "TokenReview", "spec": spec, "status": status})

    def _certificates(self, version: str) -> FakeAnswer:
        if version not in self.certificate_kinds:
            return not_found()
        kinds = [{"name": name} for name in ("certificatesigningrequests", *self.certificate_kinds[version])]
        return answer(
            200, {"kind": "APIResourceList", "groupVersion": f"certificates.k8s.io/{version}", "resources": kinds}
        )

    def _object(self, method: str, path: str, body: Body) -> FakeAnswer:
        if method == "POST":
            metadata = body["metadata"]
            assert isinstance(metadata, dict)
            place = f"{path}/{metadata['name']}"
            if place in self.objects:
                return failure(409, "already exists", name=metadata["name"])
            self.objects[place] = made(body)
            return answer(201, self.objects[place])
        if path not in self.objects:
            return failure(404, "not found", name=path.rpartition("/")[2])
        if method == "DELETE":
            wanted = body["preconditions"]
            assert isinstance(wanted, dict)
            metadata = self.objects[path]["metadata"]
            assert isinstance(metadata, dict)
            if wanted["uid"] != metadata["uid"]:
                return failure(409, "the UID in the precondition does not match")
            return answer(200, self.objects.pop(path))
        if path.split("/")[-2] == "pods":
            pod = self.objects[path]
            return answer(200, {**pod, "spec": {"nodeName": self.node}, "status": self.pod_status})
        return answer(200, self.objects[path])


def made(body: Body, *, uid: str = UID, age: float = 0.0) -> dict[str, object]:
    """An object as it stands on the server."""
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    born = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age))
    return {**body, "metadata": {**metadata, "uid": uid, "creationTimestamp": born}}


def not_found() -> FakeAnswer:
    """What a path that is not served is answered with: empty details."""
    return failure(404, "the server could not find the requested resource")


def away(text: str = "no answer in time from https://10.0.0.1:6443") -> UnavailableError:
    return UnavailableError(text, todo="see whether it is up")
