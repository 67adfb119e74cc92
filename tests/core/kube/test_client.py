"""The verbs as they go over the wire, and what comes back as an object or an error."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from meshpki.kube.access import Access
from meshpki.kube.client import KubeClient
from meshpki.kube.credentials import TokenText
from meshpki.kube.errors import (
    KubeAnswerError,
    KubeConflictError,
    KubeForbiddenError,
    KubeNotFoundError,
    KubeThrottledError,
)
from support.fake_kube import Call, FakeKube, serving
from support.kubeconfigs import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACCOUNT = "/api/v1/namespaces/a/serviceaccounts/s"
BODY = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"}}


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[FakeKube]:
    with serving(tmp_path) as server:
        server.script = lambda call: call.answer(200, BODY)
        yield server


@pytest.fixture
def client(kube: FakeKube) -> Iterator[KubeClient]:
    with KubeClient(Access(kube.url, kube.root.read_bytes(), TokenText(SECRET)), timeout_seconds=60) as made:
        yield made


def test_verbs_are_these_requests(kube: FakeKube, client: KubeClient) -> None:
    assert client.get(ACCOUNT) == BODY
    client.create("/api/v1/namespaces/a/serviceaccounts", BODY)
    client.replace(ACCOUNT, BODY, dry_run=True)
    client.apply(ACCOUNT, BODY, dry_run=True)
    client.apply(ACCOUNT, BODY, force=True)
    client.delete(ACCOUNT, uid="u-1", dry_run=True)
    assert [(seen.method, seen.path.removeprefix("/api/v1/namespaces/a/serviceaccounts")) for seen in kube.seen] == [
        ("GET", "/s"),
        ("POST", "?fieldManager=meshpki"),
        ("PUT", "/s?fieldManager=meshpki&dryRun=All"),
        ("PATCH", "/s?fieldManager=meshpki&dryRun=All"),
        ("PATCH", "/s?fieldManager=meshpki&force=true"),
        ("DELETE", "/s"),
    ]
    assert kube.seen[3].headers["content-type"] == "application/apply-patch+yaml"
    assert json.loads(kube.seen[3].body) == BODY
    options = json.loads(kube.seen[5].body)
    assert (options["preconditions"], options["dryRun"]) == ({"uid": "u-1"}, ["All"])


def test_an_apply_is_safe_to_send_twice_and_a_create_is_not(kube: FakeKube, client: KubeClient) -> None:
    kube.answers(lambda call: call.status(503), lambda call: call.answer(200, BODY))
    assert client.apply(ACCOUNT, BODY) == BODY
    kube.answers(lambda call: call.status(429, "later"), lambda call: call.answer(200, BODY))
    with pytest.raises(KubeThrottledError):
        client.create("/api/v1/namespaces/a/serviceaccounts", BODY)


def test_an_error_says_verb_resource_namespace_and_server(kube: FakeKube, client: KubeClient) -> None:
    kube.script = lambda call: call.status(403, 'User "me" cannot x')
    with pytest.raises(KubeForbiddenError) as caught:
        client.create(f"{ACCOUNT}/token", {})
    assert caught.value.seen == (
        f"create serviceaccounts/token in namespace a at {kube.url}: 403, user 'me' may not create "
        "serviceaccounts/token in namespace a"
    )
    assert "to a Role in namespace a that is bound to it" in caught.value.todo
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b"[]", b'"x"', b"\xff"])
def test_a_page_of_something_else_is_an_error(body: bytes, kube: FakeKube, client: KubeClient) -> None:
    kube.script = lambda call: call.answer(200, body)
    with pytest.raises(KubeAnswerError, match=r"is no JSON object.*a login page, a proxy"):
        client.get("/version")


def test_a_write_that_is_answered_by_no_byte_was_made(kube: FakeKube, client: KubeClient) -> None:
    """As 1.13.0 does at times (kubernetes/kubernetes#71696)."""

    def script(call: Call) -> None:
        call.answer(200, BODY if call.command == "GET" else b"")

    kube.script = script
    assert client.create("/api/v1/namespaces/a/serviceaccounts", BODY) == BODY
    assert client.replace(ACCOUNT, BODY) == BODY
    assert client.delete(ACCOUNT) == {}
    assert {seen.path for seen in kube.seen if seen.method == "GET"} == {ACCOUNT}
    with pytest.raises(KubeAnswerError):
        client.create("/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {}})
    with pytest.raises(KubeAnswerError):
        client.replace(ACCOUNT, BODY, dry_run=True)


def test_a_list_is_read_in_pages_and_keeps_its_query(kube: FakeKube, client: KubeClient) -> None:
    kube.answers(
        lambda call: call.answer(200, {"items": [BODY], "metadata": {"continue": "t", "resourceVersion": "5"}}),
        lambda call: call.answer(200, {"items": [BODY], "metadata": {"resourceVersion": "5"}}),
    )
    found = client.list("/api/v1/pods", query={"labelSelector": "a=b"}, limit=1)
    assert (len(found.items), found.resource_version) == (2, "5")
    assert [seen.path for seen in kube.seen] == [
        "/api/v1/pods?labelSelector=a%3Db&limit=1",
        "/api/v1/pods?labelSelector=a%3Db&limit=1&continue=t",
    ]


def test_errors_of_lists_are_the_verbs(kube: FakeKube, client: KubeClient) -> None:
    kube.script = lambda call: call.status(404)
    with pytest.raises(KubeNotFoundError, match=r"^list pods at"):
        client.list("/api/v1/pods")
    kube.script = lambda call: call.status(409, reason="AlreadyExists")
    with pytest.raises(KubeConflictError):
        client.create("/api/v1/pods", BODY)


def test_no_secret_is_logged_at_any_level(kube: FakeKube, client: KubeClient, caplog: pytest.LogCaptureFixture) -> None:
    """Release 36 of the client would log every answer at DEBUG: TokenRequest's has a token in it."""
    kube.script = lambda call: call.answer(200, {"status": {"token": f"answered-{SECRET}"}})
    with caplog.at_level(0):
        assert client.create(f"{ACCOUNT}/token", {"spec": {}})["status"] == {"token": f"answered-{SECRET}"}
    assert SECRET not in caplog.text
    assert SECRET not in repr([record.__dict__ for record in caplog.records])


@pytest.mark.parametrize("module", ["meshpki.kube.kubeconfig", "meshpki.kube.in_cluster", "meshpki.kube.client"])
def test_no_import_of_ours_imports_the_client(module: str) -> None:
    code = f"import {module}, sys; print([name for name in sys.modules if name.split('.')[0] == 'kubernetes'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_warns_of_nothing_when_it_is_imported() -> None:
    code = "import meshpki.kube.pool as p, ssl; print(p.make('https://h', '', ssl.create_default_context(), 2))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert "PoolManager" in done.stdout
    assert not done.stderr
