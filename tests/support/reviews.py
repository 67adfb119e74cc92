"""Answers to TokenReviews as API servers of three ages wrote them, and an API server that is none."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshpki.kube.answer import Answer
from meshpki.tokens.parse import parse
from meshpki.tokens.policy import ClusterPolicy, check_claims
from support.tokens import NOW, TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshpki.tokens.caller import Caller

EXTRA = "authentication.kubernetes.io/"


def caller_of(token: bytes, policy: ClusterPolicy, now: float = NOW) -> Caller:
    """What the token's own claims say."""
    return check_claims(parse(token), policy, now)


def user_of(caller: Caller) -> dict[str, object]:
    """`status.user` as 1.37 writes it for a token with these claims."""
    extra: dict[str, list[str]] = {}
    if caller.token_id is not None:
        extra[EXTRA + "credential-id"] = [f"JTI={caller.token_id}"]
    for kind, bound in (("node", caller.node), ("pod", caller.pod)):
        if bound is not None:
            extra |= {f"{EXTRA}{kind}-name": [bound.name], f"{EXTRA}{kind}-uid": [bound.uid]}
    return {
        "username": caller.service_account.subject,
        "uid": caller.service_account_uid,
        "groups": [
            "system:serviceaccounts",
            f"system:serviceaccounts:{caller.service_account.namespace}",
            "system:authenticated",
        ],
        "extra": extra,
    }


def review(status: Mapping[str, object]) -> bytes:
    """The whole object, with the token repeated as API servers do."""
    spec = {"token": TokenMaker().token().decode(), "audiences": ["istio-ca"]}
    metadata = {"managedFields": [{"manager": "x", "fieldsV1": {"f:spec": {"f:audiences": {}, "f:token": {}}}}]}
    body = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": metadata, "spec": spec}
    return json.dumps({**body, "status": status}).encode()


def confirmed(caller: Caller, **changes: object) -> bytes:
    """An answer that takes the token; `changes` go into its status."""
    return review({"authenticated": True, "user": user_of(caller), "audiences": ["istio-ca"], **changes})


def refused(error: str = "[invalid bearer token, invalid bearer token]") -> bytes:
    """An answer that does not."""
    return review({"user": {}, "error": error})


@dataclass
class FakeApi:
    """Answers reviews as it is told, and keeps what it was asked. Safe for threads."""

    behaviour: Callable[[str], Answer]
    """From the token to the answer; may raise and may wait."""
    asked: list[dict[str, object]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        timeout: float | None = None,
        retry: bool = True,
    ) -> Answer:
        assert (method, path, retry) == ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", False)
        assert body is not None
        assert timeout is not None
        spec = body["spec"]
        assert isinstance(spec, dict)
        with self._lock:
            self.asked.append(dict(body))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self.behaviour(spec["token"])
        finally:
            with self._lock:
                self.at_once -= 1


def answer(body: bytes, status: int = 201, **headers: str) -> Answer:
    """As a KubeClient hands it over."""
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def confirming(policy: ClusterPolicy, now: float = NOW) -> Callable[[str], Answer]:
    """The behaviour of an API server that takes every token."""

    def behave(token: str) -> Answer:
        if token.count(".") != 2:
            return answer(refused())
        return answer(confirmed(caller_of(token.encode(), policy, now)))

    return behave
