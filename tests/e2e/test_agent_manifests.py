"""docs/agent-on-kubernetes.md as written: the command takes the arguments, the manifests fit together, and API servers
of the oldest and of the newest age take them.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
import subprocess
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from meshpki.agent.node.config import NodeConfig
from meshpki.agent.process.config import AgentConfig
from support.command_line import invoke
from support.doc_pages import ROOT, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.kube.api_server import ApiServer

Manifest = dict[str, Any]  # Any: YAML, looked at place by place
PAGE = ROOT / "docs" / "agent-on-kubernetes.md"
POD, NODE = (list(yaml.safe_load_all(block.text)) for block in blocks(PAGE, "yaml"))
COLLECTIONS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "DaemonSet": "/apis/apps/v1/namespaces/{namespace}/daemonsets",
}
LATER = {"seccompProfile", "runAsGroup"}
"""What 1.13.0 does not know, or has switched off; it leaves it out."""


def pod_specs() -> Iterator[Manifest]:
    for document in (*POD, *NODE):
        if document["kind"] == "Pod":
            yield document["spec"]
        if document["kind"] == "DaemonSet":
            yield document["spec"]["template"]["spec"]


SPECS = list(pod_specs())


def agent_of(spec: Manifest) -> Manifest | None:
    return next((each for each in spec["containers"] if each["name"] == "meshpki-agent"), None)


AGENTS = [(spec, agent) for spec in SPECS if (agent := agent_of(spec)) is not None]
EACH_AGENT = pytest.mark.parametrize(("spec", "agent"), AGENTS, ids=["pod", "node"])


def options(agent: Manifest) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in agent["args"][2:])


def mount_of(container: Manifest, path: str) -> Manifest:
    """The mount that this path lies in, and which has to have it."""
    found = [each for each in container["volumeMounts"] if PurePosixPath(path).is_relative_to(each["mountPath"])]
    assert len(found) == 1, path
    return dict(found[0])


@EACH_AGENT
def test_the_command_takes_the_arguments(spec: Manifest, agent: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own parser and its own configuration; what would serve then is replaced by what keeps the latter."""
    configured: list[AgentConfig | NodeConfig] = []
    monkeypatch.setattr("meshpki.agent.pod.run.run_agent", configured.append)
    monkeypatch.setattr("meshpki.agent.node.run.run_node", configured.append)
    ran = invoke(*agent["args"])
    assert (agent["command"], ran.code, ran.err) == (["meshpki"], 0, "")
    (config,) = configured
    assert isinstance(config, NodeConfig if "hostPath" in str(spec) else AgentConfig)
    known = invoke("agent", "run", "--help").out
    for option in options(agent):
        assert f"  {option} " in known


@EACH_AGENT
def test_every_path_of_the_agent_is_in_a_volume_and_only_those_it_writes_are_writable(
    spec: Manifest, agent: Manifest
) -> None:
    given = options(agent)
    for option, read_only in {
        "--ca-roots": True,
        "--token-file": True,
        "--sds-socket": False,
        "--cache": False,
    }.items():
        if option in given:
            assert mount_of(agent, given[option]).get("readOnly", False) is read_only, option
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert volumes[mount_of(agent, given["--ca-roots"])["name"]]["configMap"]["name"] == "meshpki-roots"
    assert PurePosixPath(given["--ca-roots"]).name == "root-cert.pem"
    if "--token-file" in given:
        mount = mount_of(agent, given["--token-file"])
        (source,) = volumes[mount["name"]]["projected"]["sources"]
        token = source["serviceAccountToken"]
        assert token["audience"] == "istio-ca"
        assert given["--token-file"] == f"{mount['mountPath']}/{token['path']}"


@pytest.mark.parametrize("spec", SPECS, ids=["pod", "node", "workload of a node"])
def test_what_is_mounted_is_a_volume_and_no_token_for_the_api_server_is(spec: Manifest) -> None:
    mounted = {
        mount["name"]
        for container in (*spec["containers"], *spec.get("initContainers", ()))
        for mount in container.get("volumeMounts", ())
    }
    assert mounted == {volume["name"] for volume in spec["volumes"]}
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("documents", [POD, NODE], ids=["pod", "node"])
def test_accounts_have_no_token_and_no_role(documents: list[Manifest]) -> None:
    assert {document["kind"] for document in documents} <= set(COLLECTIONS), "nothing of RBAC"
    accounts = [document for document in documents if document["kind"] == "ServiceAccount"]
    assert accounts
    assert all(account["automountServiceAccountToken"] is False for account in accounts)


@EACH_AGENT
def test_the_agent_has_no_rights_and_is_asked_where_it_answers(spec: Manifest, agent: Manifest) -> None:
    del spec
    security = agent["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["runAsUser"] > 0
    ports = {port["name"]: port["containerPort"] for port in agent["ports"]}
    host, _, port = options(agent)["--http"].rpartition(":")
    assert host != "127.0.0.1", "a kubelet does not come by the pod's loopback"
    for probe, path in {"readinessProbe": "/readyz", "livenessProbe": "/livez"}.items():
        asked = agent[probe]["httpGet"]
        assert (asked["path"], ports[asked["port"]]) == (path, int(port))


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root's user to give away")
def test_the_directory_of_the_host_becomes_one_that_the_agent_takes(tmp_path: Path) -> None:
    """By the first container's command, with its rights and no others; again after each restart of the pod."""
    (spec, agent) = AGENTS[1]
    (first,) = spec["initContainers"]
    assert first["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
    node = tmp_path / "node"
    node.mkdir(mode=0o755)
    command = [word.replace("/node", str(node)) for word in first["command"]]
    for _ in range(2):
        subprocess.run(["setpriv", "--bounding-set=-all,+chown", "--inh-caps=-all", *command], check=True)
        status = node.stat()
        security = agent["securityContext"]
        assert (status.st_uid, status.st_gid) == (security["runAsUser"], security["runAsGroup"])
        assert stat.S_IMODE(status.st_mode) == 0o2750
    assert SPECS[2]["securityContext"]["supplementalGroups"] == [status.st_gid]


def test_a_workload_finds_the_socket_where_its_agent_puts_it() -> None:
    (pod, agent), (_, node) = AGENTS
    (application, _) = pod["containers"]
    (variable,) = application["env"]
    assert (variable["name"], variable["value"]) == (
        "SPIFFE_ENDPOINT_SOCKET",
        f"unix://{options(agent)['--sds-socket']}",
    )
    socket = options(agent)["--sds-socket"]
    assert mount_of(application, socket)["readOnly"] is True
    assert mount_of(application, socket)["mountPath"] != str(PurePosixPath(socket).parent), "the agent makes that"
    envoy = SPECS[2]["containers"][1]
    assert mount_of(envoy, options(node)["--sds-socket"])["readOnly"] is True
    (there,) = (each["hostPath"]["path"] for each in SPECS[1]["volumes"] if "hostPath" in each)
    (here,) = (each["hostPath"]["path"] for each in SPECS[2]["volumes"] if "hostPath" in each)
    assert there == here == mount_of(node, options(node)["--sds-socket"])["mountPath"]


def taken(server: ApiServer, document: Manifest, namespace: str) -> Manifest:
    """What the server would make of it: a dry run, by the strictest rule that it knows."""
    sent = {**document, "metadata": {**document["metadata"]}}
    if document["kind"] != "Namespace":
        sent["metadata"]["namespace"] = namespace
    path = COLLECTIONS[document["kind"]].format(namespace=namespace)
    status, answer = server.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", sent)
    assert status == 201, answer
    return dict(json.loads(answer))


def lost(sent: object, made: object, at: str = "") -> Iterator[str]:
    """Paths of what was sent and is not in what was made."""
    if isinstance(sent, dict):
        for name, value in sent.items():
            if isinstance(made, dict) and name in made:
                yield from lost(value, made[name], f"{at}.{name}")
            else:
                yield f"{at}.{name}"
    elif isinstance(sent, list):
        for number, (mine, theirs) in enumerate(
            itertools.zip_longest(sent, made[: len(sent)] if isinstance(made, list) else [])
        ):
            yield from lost(mine, theirs, f"{at}[{number}]")
    elif sent != made:
        yield at


def check(server: ApiServer, documents: list[Manifest], name: str, labels: Manifest, later: set[str]) -> None:
    """In a namespace of its own, with the accounts that the pods need, for those a dry run leaves nowhere."""
    status, answer = server.request(
        "POST", "/api/v1/namespaces", {"kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    )
    assert status == 201, answer
    for document in documents:
        made = taken(server, document, name)
        if document["kind"] == "ServiceAccount":
            server.create_service_account(name, document["metadata"]["name"])
        without = {path.rpartition(".")[2] for path in lost(document.get("spec", {}), made.get("spec"))}
        assert without <= later, f"{document['kind']} {document['metadata']['name']}"


RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def test_1_13_takes_the_pod(kube_113: ApiServer) -> None:
    check(kube_113, POD, "agent-pod", {}, LATER)


def test_1_13_takes_the_daemon_set_and_its_workload(kube_113: ApiServer) -> None:
    check(kube_113, NODE, "agent-node", {}, LATER)


def test_1_37_takes_the_pod_where_pods_are_restricted(kube_137: ApiServer) -> None:
    check(kube_137, POD, "agent-pod", RESTRICTED, set())


def test_1_37_takes_the_daemon_set_and_its_workload(kube_137: ApiServer) -> None:
    check(kube_137, NODE, "agent-node", {}, set())


def test_the_control_where_pods_are_restricted_a_directory_of_the_host_is_refused(kube_137: ApiServer) -> None:
    """So the page says, and so the label on the agents' namespace is needed."""
    kube_137.request(
        "POST", "/api/v1/namespaces", {"kind": "Namespace", "metadata": {"name": "agent-none", "labels": RESTRICTED}}
    )
    kube_137.create_service_account("agent-none", "web")
    (pod,) = (document for document in NODE if document["kind"] == "Pod")
    status, answer = kube_137.request(
        "POST",
        "/api/v1/namespaces/agent-none/pods?dryRun=All",
        {**pod, "metadata": {"name": "web", "namespace": "agent-none"}},
    )
    assert (status, b"hostPath" in answer) == (403, True)
