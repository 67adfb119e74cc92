"""Detection on real API servers of three ages: what each can do, with no more rights than needed, and no trace."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from meshpki.hooks import Mode
from meshpki.kube import kubeconfig
from meshpki.kube.client import KubeClient
from meshpki.kube.transport import RETRY
from meshpki.provision.cluster import permission
from meshpki.provision.cluster.climb import climb
from meshpki.provision.cluster.ladder import Standing, detection
from meshpki.provision.cluster.permission import Permission
from meshpki.provision.cluster.question import Canary, Question
from meshpki.provision.cluster.verdict import Answer, Reason, Rung
from meshpki_cli.documents import as_json
from support.command_line import invoke
from support.doc_pages import ROOT
from support.kube.everything import everything
from support.kube.objects import service_account
from support.kube.plugin import ISSUERS, OLD_ISSUER
from support.kube.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meshpki.provision.cluster.ladder import Ladder
    from support.kube.api_server import ApiServer
    from support.kube.pool import ApiServerPool

RBAC = ROOT / "deploy" / "kubernetes" / "detect-rbac.yaml"
CANARY_RBAC = ROOT / "deploy" / "kubernetes" / "detect-canary-rbac.yaml"
RBAC_API = "/apis/rbac.authorization.k8s.io/v1"
BOUND_SECONDS = 60.0
RUNGS = [rung for rung in Rung if rung is not Rung.CANARY]
YES = dict.fromkeys(RUNGS, Answer.YES)
AGES = ["kube_113", "kube_130", "kube_137"]


def look(server: ApiServer, question: Question | None = None, *, config: Path | None = None) -> Ladder:
    """Detect, twice the same, and leave all as it was."""
    before = everything(server)
    with KubeClient(kubeconfig.load(config or server.admin_kubeconfig, None), timeout_seconds=60) as client:
        found = climb(client, question or Question())
        assert as_json(climb(client, question or Question())) == as_json(found), "nothing in it is volatile"
    assert everything(server) == before
    return found


def reasons(found: Ladder) -> dict[Rung, Reason]:
    return {verdict.rung: verdict.reason for verdict in found.verdicts}


def answers(found: Ladder) -> dict[Rung, Answer]:
    return {verdict.rung: verdict.answer for verdict in found.verdicts}


def test_1_13_without_flags(kube_113_without_requests: ApiServer) -> None:
    found = look(kube_113_without_requests)
    assert reasons(found) == {
        Rung.VERSION: Reason.NEW_ENOUGH,
        Rung.TOKEN_REQUEST: Reason.NOT_SERVED,
        Rung.PERMISSIONS: Reason.ALL_GRANTED,
        Rung.TOKEN: Reason.TOKEN_REQUEST_OFF,
        Rung.REVIEW: Reason.NOT_REACHED,
        Rung.API_SERVER: Reason.NOT_REACHED,
        Rung.ISSUER: Reason.ISSUER_TOO_OLD,
        Rung.CERTIFICATES: Reason.NOT_SERVED,
    }
    assert found.standing is Standing.FILE_MOUNT_ONLY
    assert detection(found).modes == (Mode.FILE_MOUNT,)


def test_1_13_with_flags(kube_113: ApiServer) -> None:
    found = look(kube_113)
    assert answers(found) == {**YES, Rung.ISSUER: Answer.NO, Rung.CERTIFICATES: Answer.NO}
    assert found[Rung.TOKEN].reason is Reason.WITHOUT_KEY_ID
    assert found[Rung.ISSUER].reason is Reason.ISSUER_TOO_OLD
    assert (found.modes, found.policies) == ((Mode.SDS, Mode.FILE_MOUNT), ("tokenreview",))
    assert dict(found.facts)["token-has-id"] is False


def test_1_13_with_an_issuer_that_is_no_url(kube_113_old_issuer: ApiServer) -> None:
    found = look(kube_113_old_issuer)
    assert found[Rung.ISSUER].reason is Reason.ISSUER_NOT_HTTPS
    assert found.issuer == OLD_ISSUER
    assert found.modes == (Mode.SDS, Mode.FILE_MOUNT)


def test_1_30(kube_130: ApiServer) -> None:
    found = look(kube_130)
    assert answers(found) == {**YES, Rung.CERTIFICATES: Answer.NO}
    assert (found[Rung.TOKEN].reason, found[Rung.ISSUER].reason) == (Reason.AS_ASKED, Reason.PUBLISHED)
    assert found.policies == ("hybrid", "tokenreview", "jwks")
    assert dict(found.facts)["token-has-id"] is True


def test_1_37(kube_137: ApiServer) -> None:
    found = look(kube_137)
    assert answers(found) == YES
    assert (found.modes[0], found.standing) == (Mode.POD_CERTIFICATE, Standing.PROVEN)
    assert detection(found).facts["issuer"] == kube_137.service_account_issuer


def test_1_37_with_two_issuers(kube_137_issuers: ApiServer) -> None:
    found = look(kube_137_issuers)
    assert answers(found) == YES
    assert found[Rung.ISSUER].reason is Reason.ONE_OF_SEVERAL
    assert dict(found.facts)["api-audiences"] == ISSUERS
    assert found.issuer == ISSUERS[0]


@pytest.mark.xdist_group("kube-137")
def test_1_37_that_emulates_1_36(shared_api_servers: ApiServerPool, kube_137: ApiServer) -> None:
    """As in the middle of an upgrade that can be taken back: a newer binary is not what it lacks."""
    found = look(shared_api_servers(kube_137.release, "--emulated-version=kube=1.36"))
    assert answers(found) == {**YES, Rung.CERTIFICATES: Answer.NO}
    assert (found[Rung.VERSION].reason, found[Rung.VERSION].seen) == (
        Reason.EMULATED,
        "v1.37.2, which emulates 1.36",
    )
    (step,) = found.lift
    assert step.mode is Mode.POD_CERTIFICATE
    assert step.todo.startswith("end the emulation of 1.36 (--emulated-version) on every API server")
    assert detection(found).emulated_version == "1.36"


@pytest.mark.xdist_group("kube-137")
def test_1_37_with_an_issuer_that_is_no_url(shared_api_servers: ApiServerPool, kube_137: ApiServer) -> None:
    """It answers 404 in plain text, as anybody could: that it is a no says the issuer."""
    found = look(shared_api_servers(kube_137.release, issuers=(OLD_ISSUER,)))
    assert answers(found) == {**YES, Rung.ISSUER: Answer.NO}
    assert found[Rung.ISSUER].reason is Reason.ISSUER_NOT_HTTPS
    assert found[Rung.ISSUER].evidence[0].status == 404


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("who", ["admin", "stranger"])
def test_a_wrong_path_in_the_servers_address(
    age: str, who: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: ApiServer = request.getfixturevalue(age)
    token = server.admin_token if who == "admin" else server.stranger_token
    config = json.loads(server.kubeconfig(who, token=token).read_text())
    config["clusters"][0]["cluster"]["server"] += "/k8s/clusters/c-1"
    (tmp_path / "config").write_text(json.dumps(config))
    found = look(server, config=tmp_path / "config")
    assert set(answers(found).values()) == {Answer.UNKNOWN, Answer.NOT_ASKED}
    assert found.standing is Standing.UNKNOWN
    assert all("address" in verdict.todo for verdict in found.verdicts if verdict.answer is Answer.UNKNOWN)


@pytest.mark.parametrize("age", AGES)
def test_a_namespace_that_is_not_there(age: str, request: pytest.FixtureRequest) -> None:
    found = look(request.getfixturevalue(age), Question(namespace="nosuch"))
    assert found[Rung.TOKEN].reason is Reason.NO_NAMESPACE
    assert found[Rung.TOKEN].seen == "there is no namespace nosuch"
    assert [step.todo for step in found.lift] == ["name a namespace that is there (--namespace)"]


@pytest.mark.parametrize("age", AGES)
def test_a_namespace_that_is_being_removed(age: str, request: pytest.FixtureRequest) -> None:
    """Without the controller that would remove it at last."""
    server: ApiServer = request.getfixturevalue(age)
    server.create_namespace("term")
    server.request("DELETE", "/api/v1/namespaces/term")
    found = look(server, Question(namespace="term"))
    assert (found[Rung.TOKEN].answer, found[Rung.TOKEN].reason) == (Answer.UNKNOWN, Reason.NOT_ADMITTED)
    assert "is being terminated" in found[Rung.TOKEN].seen
    assert "--namespace" in found[Rung.TOKEN].todo
    assert found[Rung.PERMISSIONS].good


@pytest.mark.parametrize("age", AGES)
def test_a_quota_that_leaves_no_account(age: str, request: pytest.FixtureRequest) -> None:
    server: ApiServer = request.getfixturevalue(age)
    server.create_namespace("full")
    none = {"count/serviceaccounts": "0"}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": none}}
    path = "/api/v1/namespaces/full/resourcequotas"
    server.create(path, quota)
    # What its controller would write.
    server._done("PUT", f"{path}/q/status", {**quota, "status": {"hard": none, "used": none}})
    accounts = "/api/v1/namespaces/full/serviceaccounts?dryRun=All"
    until(lambda: server.request("POST", accounts, service_account("more"))[0] == 403, "it goes by the quota")
    found = look(server, Question(namespace="full"))
    assert found[Rung.TOKEN].reason is Reason.NOT_ADMITTED
    assert "exceeded quota: q" in found[Rung.TOKEN].seen


@pytest.mark.xdist_group("kube-137")
def test_1_37_that_a_mesh_token_opens(shared_api_servers: ApiServerPool, kube_137: ApiServer) -> None:
    server = shared_api_servers(kube_137.release, f"--api-audiences={kube_137.service_account_issuer},istio-ca")
    found = look(server)
    assert answers(found) == {**YES, Rung.API_SERVER: Answer.DANGER}
    assert found[Rung.API_SERVER].reason is Reason.OPEN_BY_AUDIENCE
    assert found.standing is Standing.DANGER
    assert Mode.SDS not in detection(found).modes
    token = server.token("default", made_account(server), audiences=["istio-ca"])
    assert server.request("GET", "/api", token=token)[0] == 200, "the danger is real"
    assert look(server, Question(audience="another")).standing is Standing.PROVEN
    stranger = look(server, config=server.kubeconfig("stranger", token=server.stranger_token))
    assert stranger.standing is Standing.UNKNOWN, "who may not look has not seen that there is no danger"
    assert stranger[Rung.API_SERVER].answer is Answer.NOT_ASKED


def made_account(server: ApiServer) -> str:
    server.create_service_account("default", "somebody")
    return "somebody"


def test_without_a_kubelet_a_canary_cannot_tell(kube_137: ApiServer) -> None:
    found = look(kube_137, Question(canary=Canary(seconds=0.1)))
    assert (found[Rung.CANARY].answer, found[Rung.CANARY].reason) == (Answer.UNKNOWN, Reason.NO_KUBELET)
    assert Mode.SDS in found.modes


def test_a_canary_is_admitted_by_the_founding_age_too(kube_113: ApiServer) -> None:
    found = look(kube_113, Question(canary=Canary(seconds=0.1)))
    assert found[Rung.CANARY].reason is Reason.NO_KUBELET


# ---- the least rights


def granted(server: ApiServer, *files: Path) -> contextlib.AbstractContextManager[Path]:
    """A kubeconfig of a user who may what the files grant, and no more; the grants are taken back."""
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    return granted_by(server, documents)


@contextlib.contextmanager
def granted_by(server: ApiServer, documents: list[dict[str, Any]]) -> Iterator[Path]:
    made = []
    for document in documents:
        collection = collection_of(document)
        server.create(collection, document)
        made.append(f"{collection}/{document['metadata']['name']}")
    try:
        yield server.kubeconfig("detective", user="detective", groups=["meshpki-detect"])
    finally:
        for path in reversed(made):
            server.delete(path)


def collection_of(document: dict[str, object]) -> str:
    metadata = document["metadata"]
    assert isinstance(metadata, dict)
    inside = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{RBAC_API}{inside}/{str(document['kind']).lower()}s"


def wait_until(config: Path, one: Permission, allowed: bool) -> None:
    """RBAC is read from a cache that follows etcd in some milliseconds."""
    deadline = time.monotonic() + BOUND_SECONDS
    with KubeClient(kubeconfig.load(config, None), timeout_seconds=60) as client:
        while True:
            said = client.request("POST", permission.REVIEW_PATH, one.review())
            if json.loads(said.body)["status"]["allowed"] is allowed:
                return
            assert time.monotonic() < deadline, f"{one}: still not {allowed}"
            time.sleep(0.05)


def detect_with_the_files_alone(server: ApiServer) -> None:
    wanted = answers(look(server))
    with granted(server, RBAC) as config:
        for one in permission.needed("default"):
            wait_until(config, one, True)
        assert answers(look(server, config=config)) == wanted
    with granted(server, RBAC, CANARY_RBAC) as config:
        question = Question(canary=Canary(seconds=0.1))
        for one in permission.needed("default", canary=True):
            wait_until(config, one, True)
        assert look(server, question, config=config)[Rung.CANARY].reason is Reason.NO_KUBELET


def test_the_files_rights_are_enough_on_1_37(kube_137: ApiServer) -> None:
    detect_with_the_files_alone(kube_137)


def test_the_files_rights_are_enough_on_1_13(kube_113: ApiServer) -> None:
    detect_with_the_files_alone(kube_113)


FLOW = "/apis/flowcontrol.apiserver.k8s.io/v1"


@contextlib.contextmanager
def level_for_one(server: ApiServer, *users: str) -> Iterator[None]:
    """Let the server work off one creation of these users at a time, and shed all others (Priority and Fairness)."""
    limited = {"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}
    level = {"metadata": {"name": "one"}, "spec": {"type": "Limited", "limited": limited}}
    rule = {"verbs": ["create"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": True, "namespaces": ["*"]}
    subjects = [{"kind": "User", "user": {"name": user}} for user in users]
    spec = {
        "priorityLevelConfiguration": {"name": "one"},
        "matchingPrecedence": 100,
        "rules": [{"subjects": subjects, "resourceRules": [rule]}],
    }
    server.create(f"{FLOW}/prioritylevelconfigurations", {"kind": "PriorityLevelConfiguration", **level})
    server.create(f"{FLOW}/flowschemas", {"kind": "FlowSchema", "metadata": {"name": "one"}, "spec": spec})
    try:
        yield
    finally:
        server.delete(f"{FLOW}/flowschemas/one")
        server.delete(f"{FLOW}/prioritylevelconfigurations/one")


def occupied(server: ApiServer) -> ssl.SSLSocket:
    """A creation that the server is at work on, for it waits for the body; until this is closed."""
    context = ssl.create_default_context(cafile=str(server.ca_file))
    held = context.wrap_socket(socket.create_connection(("127.0.0.1", server.port)), server_hostname="127.0.0.1")
    lines = (
        f"POST {permission.REVIEW_PATH} HTTP/1.1",
        "Host: kubernetes",
        f"Authorization: Bearer {server.stranger_token}",
        "Content-Type: application/json",
        "Content-Length: 9",
    )
    held.sendall("\r\n".join((*lines, "", "")).encode())
    return held


def test_a_server_that_sheds_load_for_a_while_is_waited_for(kube_137: ApiServer) -> None:
    with granted(kube_137, RBAC) as config:
        for one in permission.needed("default"):
            wait_until(config, one, True)
        with level_for_one(kube_137, "detective", "stranger"), occupied(kube_137) as held:
            wait_until_shed(config, permission.TOKEN_REVIEW)
            relief = threading.Timer(2.0, held.close)
            relief.start()
            patient = RETRY.new(total=40)
            with KubeClient(kubeconfig.load(config, None), timeout_seconds=60, retry=patient) as client:
                found = climb(client, Question())
            relief.join()
    assert answers(found) == YES


def wait_until_shed(config: Path, one: Permission) -> None:
    deadline = time.monotonic() + BOUND_SECONDS
    with KubeClient(kubeconfig.load(config, None), timeout_seconds=60) as client:
        while client.request("POST", permission.REVIEW_PATH, one.review(), retry=False).status != 429:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("who", ["detective", "group:meshpki-detect"])
def test_the_printed_rights_are_enough_in_another_namespace(age: str, who: str, request: pytest.FixtureRequest) -> None:
    server: ApiServer = request.getfixturevalue(age)
    if server.request("GET", "/api/v1/namespaces/elsewhere")[0] == 404:
        server.create_namespace("elsewhere")
    ran = invoke("detect", "--rbac", who, "--namespace", "elsewhere", "--canary")
    question = Question(namespace="elsewhere", canary=Canary(seconds=0.1))
    wanted = answers(look(server, question))
    with granted_by(server, yaml.safe_load(ran.out)["items"]) as config:
        for one in permission.needed("elsewhere", canary=True):
            wait_until(config, one, True)
        assert answers(look(server, question, config=config)) == wanted


def rules() -> list[tuple[str, int, str]]:
    """Every verb on every resource or path that the file grants: kind, rule, verb."""
    return [
        (document["kind"], number, verb)
        for document in yaml.safe_load_all(RBAC.read_text())
        for number, rule in enumerate(document.get("rules", ()))
        for verb in rule["verbs"]
    ]


@pytest.mark.parametrize(("kind", "number", "verb"), rules())
def test_each_right_is_needed_and_missed_by_its_name(
    kube_137: ApiServer, tmp_path: Path, kind: str, number: int, verb: str
) -> None:
    documents = list(yaml.safe_load_all(RBAC.read_text()))
    (role,) = [document for document in documents if document["kind"] == kind]
    rule = role["rules"][number]
    rule["verbs"].remove(verb)
    role["rules"] = [one for one in role["rules"] if one["verbs"]]
    less = tmp_path / "less.yaml"
    less.write_text(yaml.safe_dump_all(documents))
    (what,) = rule.get("resources", ()) or rule["nonResourceURLs"][:1]
    (missed, *_) = [
        one for one in permission.needed("default") if one.verb == verb and what in {one.resource, one.path}
    ]
    before = everything(kube_137)
    with granted(kube_137, less) as config:
        for one in permission.needed("default"):
            lacks = one.verb == verb and (one.resource or "path") == (what if one.resource else "path" * bool(one.path))
            lacks = lacks and bool(one.path) == bool(missed.path)
            wait_until(config, one, not lacks)
        ran = invoke("detect", "--kubeconfig", str(config), "--output", "json", "--timeout", "60")
    assert everything(kube_137) == before
    document = json.loads(ran.out)
    said = {rung["rung"]: rung for rung in document["rungs"]}
    assert str(missed) in said["permissions"]["seen"]
    assert said["permissions"]["answer"] == "no"
    assert "--rbac NAME" in said["permissions"]["todo"]
    assert "no" not in {rung["answer"] for name, rung in said.items() if name != "permissions"}
    names_it = [name for name, rung in said.items() if rung["answer"] == "could not tell" and str(missed) in str(rung)]
    assert names_it or verb == "get", "without a left-over nothing has to be looked at"


def test_somebody_without_any_right_is_told_what_to_ask_for(kube_137: ApiServer) -> None:
    config = kube_137.kubeconfig("stranger", token=kube_137.stranger_token)
    found = look(kube_137, config=config)
    assert found[Rung.PERMISSIONS].answer is Answer.NO
    for one in permission.needed("default"):
        assert str(one) in found[Rung.PERMISSIONS].seen
    assert found.sds is Answer.UNKNOWN
    assert Mode.SDS not in found.modes
