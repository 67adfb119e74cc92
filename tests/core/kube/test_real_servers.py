"""The client on real API servers of every age: objects, permissions, conflicts, pages, watches."""

from __future__ import annotations

import itertools
import json
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from meshpki.kube import access, kubeconfig
from meshpki.kube.client import KubeClient
from meshpki.kube.errors import (
    FieldConflict,
    KubeConflictError,
    KubeError,
    KubeForbiddenError,
    KubeInvalidError,
    KubeNotFoundError,
    KubeServerError,
    KubeUnauthorizedError,
    KubeUnreachableError,
    KubeUnsupportedError,
    Unreachable,
)
from meshpki.kube.paths import path
from support.kubeconfigs import encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meshpki.kube.observed import Observed
    from meshpki.kube.watch import Watch
    from support.kube.api_server import ApiServer
    from support.kube.pool import ApiServerPool

_number = itertools.count()
PATIENCE = 150.0


@pytest.fixture
def namespace(server: ApiServer) -> str:
    """One of its own for every test, on servers that many share."""
    name = f"kube-room-{next(_number)}-{time.time_ns() % 10**9}"
    server.create_namespace(name)
    return name


@pytest.fixture
def client(server: ApiServer) -> Iterator[KubeClient]:
    with KubeClient(kubeconfig.load(server.admin_kubeconfig, None), timeout_seconds=60) as made:
        yield made


def config_map(name: str, **data: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def maps(namespace: str, name: str = "") -> str:
    return path("configmaps", namespace=namespace, name=name)


def data_of(found: object) -> object:
    assert isinstance(found, dict)
    return found.get("data")


class EveryAge:
    """What holds on all of them."""

    def test_objects_are_made_read_replaced_and_deleted(self, client: KubeClient, namespace: str) -> None:
        made = client.create(maps(namespace), config_map("a", k="1"))
        assert data_of(made) == {"k": "1"}
        assert data_of(client.get(maps(namespace, "a"))) == {"k": "1"}
        made["data"] = {"k": "2"}
        assert data_of(client.replace(maps(namespace, "a"), made)) == {"k": "2"}
        with pytest.raises(KubeConflictError, match="to do: read it again, then try again"):
            client.replace(maps(namespace, "a"), made | {"data": {"k": "3"}})
        with pytest.raises(KubeConflictError, match="to do: look at what stands there"):
            client.create(maps(namespace), config_map("a"))
        with pytest.raises(KubeConflictError):
            client.delete(maps(namespace, "a"), uid="00000000-0000-0000-0000-000000000000")
        client.delete(maps(namespace, "a"))
        with pytest.raises(KubeNotFoundError, match="to do: check the name and the namespace"):
            client.get(maps(namespace, "a"))

    def test_a_dry_run_leaves_nothing(self, client: KubeClient, namespace: str) -> None:
        assert data_of(client.create(maps(namespace), config_map("a", k="1"), dry_run=True)) == {"k": "1"}
        with pytest.raises(KubeNotFoundError):
            client.get(maps(namespace, "a"))
        client.create(maps(namespace), config_map("b"))
        client.delete(maps(namespace, "b"), dry_run=True)
        assert client.get(maps(namespace, "b"))

    def test_what_breaks_the_rules_is_told(self, client: KubeClient, namespace: str) -> None:
        with pytest.raises(KubeInvalidError, match="Invalid value"):
            client.create(maps(namespace), config_map("Not A Name"))
        with pytest.raises(KubeInvalidError):
            client.create(maps(namespace), {"kind": "ConfigMap", "apiVersion": "v1", "data": "x"})

    def test_an_api_that_is_not_there_is_told_from_an_object(self, client: KubeClient) -> None:
        with pytest.raises(KubeNotFoundError, match="no such API"):
            client.list(path("nothings", group="nowhere.example"))

    def test_a_list_in_pages_is_whole(self, client: KubeClient, namespace: str) -> None:
        for number in range(7):
            client.create(maps(namespace), config_map(f"page-{number}"))
        found = client.list(maps(namespace), limit=2)
        assert [name for name in _names(found.items) if name.startswith("page-")] == [f"page-{n}" for n in range(7)]
        assert found.resource_version

    def test_a_review_comes_back_whatever_the_token(self, client: KubeClient) -> None:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "nobody"}}
        answer = client.request("POST", path("tokenreviews", group="authentication.k8s.io"), body, retry=False)
        assert answer.status == 201
        assert "authenticated" not in json.loads(answer.body)["status"]

    def test_the_rule_in_a_403_is_the_one_that_was_missing(
        self, server: ApiServer, client: KubeClient, namespace: str, tmp_path: Path
    ) -> None:
        server.create_service_account(namespace, "poor")
        token = tmp_path / "token"
        token.write_text(server.legacy_token(namespace, "poor"))
        asked: list[Callable[[KubeClient], object]] = [
            lambda poor: poor.list(maps(namespace)),
            lambda poor: poor.create(maps(namespace), config_map("c")),
            lambda poor: poor.get(path("nodes", name="n") + "/status"),
            lambda poor: poor.create(path("tokenreviews", group="authentication.k8s.io"), _REVIEW),
        ]
        rules = []
        with KubeClient(access.explicit(server.url, server.ca_file, token), timeout_seconds=60) as poor:
            for ask in asked:
                with pytest.raises(KubeForbiddenError) as caught:
                    ask(poor)
                assert f"user 'system:serviceaccount:{namespace}:poor' may not" in caught.value.seen
                rules.append(yaml.safe_load(caught.value.permission.rule()))
            server.allow(f"{namespace}/poor", *rules, name=f"rich-{namespace}")
            for ask in asked:
                _until(lambda ask=ask: _is_allowed(poor, ask))  # type: ignore[misc]

    def test_a_credential_that_is_not_of_this_cluster_is_told(self, server: ApiServer) -> None:
        stranger = kubeconfig.load(server.kubeconfig("nobody", token="e30.e30.x"), None)
        with KubeClient(stranger, timeout_seconds=60) as client, pytest.raises(KubeUnauthorizedError) as caught:
            client.list(path("pods"))
        assert "to do: fetch context 'nobody' of " in str(caught.value)
        assert "e30" not in str(caught.value)

    def test_a_client_certificate_is_a_user(self, server: ApiServer) -> None:
        mine = kubeconfig.load(server.kubeconfig("jane", user="jane"), None)
        with (
            KubeClient(mine, timeout_seconds=60) as client,
            pytest.raises(KubeForbiddenError, match="user 'jane' may not list pods"),
        ):
            client.list(path("pods"))

    def test_a_client_certificate_that_has_expired_is_told(self, server: ApiServer, tmp_path: Path) -> None:
        pair = server.client_certificate("late")
        whole = json.loads(server.kubeconfig("late", user="late").read_text())
        late = server.cluster.authority.expired(pair.certificate.read_bytes())
        whole["users"][0]["user"]["client-certificate-data"] = encoded(late)
        (tmp_path / "config").write_text(json.dumps(whole))
        told = pytest.raises(KubeUnauthorizedError, match=r"its client certificate is not good \(it expired at 20")
        with KubeClient(kubeconfig.load(tmp_path / "config", None), timeout_seconds=60) as client, told:
            client.list(path("pods"))

    def test_a_plugin_brings_the_credential(self, server: ApiServer, tmp_path: Path) -> None:
        status = {"token": server.admin_token}
        answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        program = tmp_path / "login"
        program.write_text(f"#!{sys.executable} -I\nprint({json.dumps(answer)!r})\n")
        program.chmod(stat.S_IRWXU)
        whole = json.loads(server.admin_kubeconfig.read_text())
        whole["users"][0]["user"] = {"exec": {"apiVersion": answer["apiVersion"], "command": "login"}}
        (tmp_path / "config").write_text(json.dumps(whole))
        with KubeClient(kubeconfig.load(tmp_path / "config", None, allow_exec=[program]), timeout_seconds=60) as client:
            assert client.get("/version")["major"] == "1"

    def test_a_watch_sees_what_happens(self, client: KubeClient, namespace: str) -> None:
        client.create(maps(namespace), config_map("a"))
        with client.watch(maps(namespace)) as watch:
            _settled(watch, {"a"})
            client.create(maps(namespace), config_map("b"))
            _settled(watch, {"a", "b"})
            client.delete(maps(namespace, "a"))
            _settled(watch, {"b"})
            watch.close()
            client.create(maps(namespace), config_map("c"))
            client.delete(maps(namespace, "b"))
            _settled(watch, {"c"})
            while watch.poll(0.5) is not None:
                """Nothing more is left to come."""


class ModernAge(EveryAge):
    """What only servers with server-side apply have."""

    def test_apply_owns_its_fields_and_names_who_owns_others(
        self, server: ApiServer, client: KubeClient, namespace: str
    ) -> None:
        made = client.apply(maps(namespace, "a"), config_map("a", k="1"))
        assert _managers(made) == {("meshpki", "Apply")}
        client.apply(maps(namespace, "a"), config_map("a", k="1"))
        with KubeClient(client.access, field_manager="another", timeout_seconds=60) as other:
            with pytest.raises(KubeConflictError) as caught:
                other.apply(maps(namespace, "a"), config_map("a", k="2"))
            assert caught.value.conflicts == (FieldConflict("meshpki", ".data.k"),)
            assert caught.value.todo == "let 'meshpki' give up .data.k, or leave that field out"
            assert data_of(other.apply(maps(namespace, "a"), config_map("a", k="2"), force=True)) == {"k": "2"}
        with pytest.raises(KubeConflictError, match="'another'"):
            client.apply(maps(namespace, "a"), config_map("a", k="1"))

    def test_a_dry_run_of_apply_says_what_would_be(self, client: KubeClient, namespace: str) -> None:
        assert data_of(client.apply(maps(namespace, "a"), config_map("a", k="1"), dry_run=True)) == {"k": "1"}
        with pytest.raises(KubeNotFoundError):
            client.get(maps(namespace, "a"))


class TestFounding(EveryAge):
    """1.13.0."""

    @pytest.fixture
    def server(self, kube_113: ApiServer) -> ApiServer:
        return kube_113

    def test_apply_is_not_known_yet(self, client: KubeClient, namespace: str) -> None:
        with pytest.raises(KubeUnsupportedError, match="to do: update the cluster"):
            client.apply(maps(namespace, "a"), config_map("a"))


class TestMiddle(ModernAge):
    """1.30.14."""

    @pytest.fixture
    def server(self, kube_130: ApiServer) -> ApiServer:
        return kube_130


class TestModern(ModernAge):
    """1.37.2."""

    @pytest.fixture
    def server(self, kube_137: ApiServer) -> ApiServer:
        return kube_137


def test_a_server_that_is_killed_and_comes_back(api_server: ApiServerPool) -> None:
    """No restart of ours: errors in between are all KubeUnreachableError or 5xx, the watch misses nothing."""
    server = api_server()
    with KubeClient(kubeconfig.load(server.admin_kubeconfig, None), timeout_seconds=60) as client:
        client.create(maps("default"), config_map("before"))
        with client.watch(maps("default")) as watch:
            first = watch.poll(60)
            assert first is not None
            server.kill()
            with pytest.raises(KubeUnreachableError) as caught:
                _until(lambda: client.get("/version") == {})
            assert caught.value.why in {Unreachable.REFUSED, Unreachable.CUT}
            assert watch.observed.objects == first.objects
            back = threading.Thread(target=server.start)
            back.start()
            _until(lambda: _is_up(client))
            back.join()
            client.delete(maps("default", "before"))
            client.create(maps("default"), config_map("after"))
            _settled(watch, {"after"}, without={"before"})


_REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "x"}}


def _names(items: object) -> list[str]:
    assert isinstance(items, tuple)
    return [item["metadata"]["name"] for item in items]


def _managers(found: dict[str, object]) -> set[tuple[str, str]]:
    metadata = found["metadata"]
    assert isinstance(metadata, dict)
    return {(entry["manager"], entry["operation"]) for entry in metadata["managedFields"]}


def _is_allowed(client: KubeClient, ask: Callable[[KubeClient], object]) -> bool:
    """Roles take a moment; that the object is not there is an answer of one who may ask."""
    try:
        ask(client)
    except KubeForbiddenError:
        return False
    except (KubeNotFoundError, KubeConflictError):
        pass
    return True


def _is_up(client: KubeClient) -> bool:
    try:
        return bool(client.get(maps("default", "before")))
    except KubeError as error:
        assert not isinstance(error, KubeUnauthorizedError)
        return False


def _settled(watch: Watch, wanted: set[str], without: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Poll until the watch knows just these (besides what a controller puts everywhere), whatever comes in between."""
    seen: list[Observed | None] = []

    def settled() -> bool:
        try:
            seen.append(watch.poll(1))
        except (KubeUnreachableError, KubeServerError):
            return False
        known = {name for _, name in watch.observed.objects} - {"kube-root-ca.crt"}
        return known == wanted and not known & without

    _until(settled)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
