"""A client for one API server: raw JSON, typed errors."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote, urlencode

from meshpki.kube import listing, statuses
from meshpki.kube.answer import Answer, JsonObject, read_object
from meshpki.kube.paths import is_review, permission
from meshpki.kube.transport import NO_RETRY, RETRY, Request, Transport
from meshpki.kube.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from urllib3.util import Retry

    from meshpki.kube.access import Access
    from meshpki.kube.listing import Listing

__all__ = ["Answer", "JsonObject", "KubeClient"]
DEFAULT_TIMEOUT: Final = 10.0
DEFAULT_POOL: Final = 8
JSON: Final = "application/json"
APPLY: Final = "application/apply-patch+yaml"
"""Server-side apply (beta in 1.16, stable in 1.22); JSON is YAML."""


class KubeClient:
    """Talks to one API server. Safe for many threads; a context manager that closes its connections.

    All but `request` return JSON objects and raise the errors of `meshpki.kube.errors`; paths come from
    `meshpki.kube.paths`.
    """

    def __init__(
        self,
        access: Access,
        *,
        field_manager: str = "meshpki",
        timeout_seconds: float = DEFAULT_TIMEOUT,
        pool: int = DEFAULT_POOL,
        retry: Retry = RETRY,
    ) -> None:
        """`timeout_seconds` is for all tries of one request together, `pool` how many connections are kept open."""
        self.access = access
        self.field_manager = field_manager
        self.timeout_seconds = timeout_seconds
        self._retry = retry
        self._transport = Transport(access, pool)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections, and end the pauses between tries."""
        self._transport.close()

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float | None = None,
        retry: bool = True,
        repeatable: bool = False,
        content_type: str = JSON,
    ) -> Answer:
        """Send one request and return its answer, whatever its status.

        It is sent again (if `retry`) when that is safe: the method or the path says so, or the caller by `repeatable`.
        Raises KubeUnreachableError, KubeCredentialError, and KubeAnswerError for an answer that is too large.
        """
        policy = self._retry if retry else NO_RETRY
        if retry and (repeatable or is_review(path)):
            policy = policy.new(allowed_methods=None)
        request = Request(
            method=method,
            url=self.access.server + path + (f"?{urlencode(query)}" if query else ""),
            body=None if body is None else json.dumps(body).encode(),
            content_type=content_type,
            deadline=time.monotonic() + (self.timeout_seconds if timeout is None else timeout),
        )
        return self._transport.send(request, policy)

    def get(self, path: str, *, query: Mapping[str, str] | None = None) -> JsonObject:
        """Read one object. Raises KubeError."""
        return self._object("GET", path, query=query)

    def create(self, path: str, body: Mapping[str, object], *, dry_run: bool = False) -> JsonObject:
        """Create an object in the collection at `path`. Raises KubeError; KubeConflictError if it exists."""
        return self._object("POST", path, body, query=_modify(self.field_manager, dry_run=dry_run))

    def replace(self, path: str, body: Mapping[str, object], *, dry_run: bool = False) -> JsonObject:
        """Replace an object; its resourceVersion, if the body has one, must be the newest. Raises KubeError."""
        return self._object("PUT", path, body, query=_modify(self.field_manager, dry_run=dry_run))

    def apply(self, path: str, body: Mapping[str, object], *, force: bool = False, dry_run: bool = False) -> JsonObject:
        """Make the object at `path` have these fields, and own them (server-side apply).

        Raises KubeError; KubeConflictError names who owns a field already, unless `force` takes it away from them.
        """
        query = _modify(self.field_manager, dry_run=dry_run) | ({"force": "true"} if force else {})
        return self._object("PATCH", path, body, query=query, content_type=APPLY, repeatable=True)

    def delete(
        self,
        path: str,
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "Background",
        dry_run: bool = False,
    ) -> JsonObject:
        """Delete one object: only that with this UID, or in this version, if one is given. Raises KubeError."""
        preconditions = {key: value for key, value in (("uid", uid), ("resourceVersion", resource_version)) if value}
        body: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if preconditions:
            body["preconditions"] = preconditions
        if dry_run:  # in the body: with a body, servers do not look at the query, and delete
            body["dryRun"] = ["All"]
        return self._object("DELETE", path, body)

    def list(self, path: str, *, query: Mapping[str, str] | None = None, limit: int = listing.PAGE) -> Listing:
        """Read a whole collection, page by page. Raises KubeError."""
        return listing.read_all(lambda page: self.get(path, query={**(query or {}), **page}), limit, self._doing(path))

    def watch(self, path: str, *, query: Mapping[str, str] | None = None) -> Watch:
        """Follow a collection: see `Watch.poll`. Nothing is asked before the first poll."""
        return Watch(self, self._transport, path, query or {})

    def login_advice(self) -> str:
        """What to do when the server says 401: the next step, and since when what was presented is expired."""
        return self._transport.login_advice()

    def check(self, answer: Answer, method: str, path: str, query: Mapping[str, str] | None = None) -> Answer:
        """The same answer if it is a success. Raises KubeError that says what was asked and what to do."""
        if 200 <= answer.status < 300:
            return answer
        needed = permission(method, path, query)
        login = self.login_advice() if answer.status == 401 else ""
        doing = f"{needed} at {self.access.server}"
        raise statuses.error_for(answer, doing=doing, permission=needed, login=login)

    def _object(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        repeatable: bool = False,
    ) -> JsonObject:
        answer = self.request(method, path, body, query=query, content_type=content_type, repeatable=repeatable)
        self.check(answer, method, path, query)
        if not answer.body and method != "GET":
            return self._unsaid(method, path, body or {}, query or {})
        return read_object(answer.body, self._doing(path))

    def _unsaid(self, method: str, path: str, body: Mapping[str, object], query: Mapping[str, str]) -> JsonObject:
        """What a write made that was answered by 200 and no byte, as 1.13.0 does at times (kubernetes#71696)."""
        if method == "DELETE":
            return {}
        metadata = body.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if "dryRun" in query or (method == "POST" and not name):
            return read_object(b"", self._doing(path))
        return self.get(f"{path}/{quote(str(name), safe='')}" if method == "POST" else path)

    def _doing(self, path: str) -> str:
        return f"the answer of {self.access.server} for {path}"


def _modify(field_manager: str, *, dry_run: bool) -> dict[str, str]:
    return {"fieldManager": field_manager} | ({"dryRun": "All"} if dry_run else {})
