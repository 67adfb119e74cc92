"""Every kubeconfig and cluster that detection cannot work with: one line, and what to do."""

from __future__ import annotations

import base64
import json
import socket
from typing import TYPE_CHECKING

import pytest

from support import kubeconfigs
from support.command_line import invoke
from support.kube.authority import ClusterAuthority
from support.kube.everything import everything

if TYPE_CHECKING:
    from pathlib import Path

    from support.kube.api_server import ApiServer


@pytest.fixture
def config(kube_137: ApiServer, tmp_path: Path) -> dict[str, object]:
    """The administrator's kubeconfig, to be spoilt."""
    document = json.loads(kube_137.admin_kubeconfig.read_text())
    assert isinstance(document, dict)
    return document


def spoilt(kind: str, document: dict[str, object], directory: Path) -> tuple[str, ...]:
    """Write the kubeconfig with one fault; the arguments that lead to it."""
    path = directory / "config"
    clusters, users = document["clusters"], document["users"]
    assert isinstance(clusters, list)
    assert isinstance(users, list)
    cluster, user = clusters[0]["cluster"], users[0]["user"]
    arguments: tuple[str, ...] = ("--kubeconfig", str(path))
    match kind:
        case "missing":
            return arguments
        case "malformed":
            path.write_text("clusters: [")
            return arguments
        case "no mapping":
            path.write_text("- a list")
            return arguments
        case "empty":
            path.touch()
            return arguments
        case "directory":
            path.mkdir()
            return arguments
        case "no base64":
            cluster["certificate-authority-data"] = "@@@"
        case "no such user":
            document["users"] = []
        case "number for a name":
            cluster["server"] = 6443
        case "audience":
            arguments = (*arguments, "--audience", "")
        case "wrong context":
            arguments = (*arguments, "--context", "nowhere")
        case "unknown token":
            user["token"] = "a-token-that-nobody-knows"
        case "unreachable":
            with socket.create_server(("127.0.0.1", 0)) as nobody:
                cluster["server"] = f"https://127.0.0.1:{nobody.getsockname()[1]}"
        case "unknown host":
            cluster["server"] = "https://no-such-host.invalid:6443"
        case "plain http":
            cluster["server"] = str(cluster["server"]).replace("https", "http")
        case "wrong CA":
            other = ClusterAuthority(directory / "other").ca_file.read_bytes()
            cluster["certificate-authority-data"] = base64.b64encode(other).decode()
        case "proxy":
            cluster["proxy-url"] = "http://127.0.0.1:3128"
        case "insecure":
            cluster.pop("certificate-authority-data")
            cluster["insecure-skip-tls-verify"] = True
        case "path outside":
            outside = directory.parent / f"{directory.name}-elsewhere"
            outside.mkdir()
            (outside / "ca.pem").write_bytes(base64.b64decode(cluster.pop("certificate-authority-data")))
            cluster["certificate-authority"] = f"../{outside.name}/ca.pem"
        case "exec":
            users[0]["user"] = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/true"}}
        case "exec by name":
            users[0]["user"] = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "true"}}
            arguments = (*arguments, "--allow-exec", "true")
        case "namespace":
            arguments = (*arguments, "--namespace", "not/one")
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return arguments


MEND = "put it right in that kubeconfig, or name another one (--kubeconfig FILE)"
BAD = {
    "missing": (1, "there is no kubeconfig at", "--kubeconfig"),
    "malformed": (2, "config, line 1, column 12", MEND),
    "no mapping": (2, "config is no kubeconfig", MEND),
    "empty": (2, "config is empty", MEND),
    "directory": (1, "config is a directory", "name the file in it"),
    "no base64": (2, "'certificate-authority-data' of cluster 'admin'", MEND),
    "no such user": (2, "names the user 'admin', which is not there", MEND),
    "number for a name": (2, "'server' of cluster 'admin'", MEND),
    "wrong context": (2, "has no context 'nowhere'", "choose one with --context: admin"),
    "unknown token": (1, "does not accept the credential", "or log in again: the token in it is not good; or choose"),
    "unreachable": (1, "nothing listens there", "API server"),
    "unknown host": (1, "its name is not known", "DNS"),
    "plain http": (2, "without TLS", "https"),
    "wrong CA": (1, "by an authority that was not named to us", "fetch the kubeconfig again"),
    "proxy": (2, "proxy-url", "tunnel"),
    "insecure": (2, "insecure-skip-tls-verify", "certificate-authority-data"),
    "path outside": (1, "ca.pem", "embed it"),
    "exec": (2, "/bin/true", "--allow-exec"),
    "exec by name": (2, "is no absolute path", "give what `command -v true` shows"),
    "namespace": (2, "namespace 'not/one'", "kubectl get namespaces"),
    "audience": (2, "audience ''", "in the CA's configuration"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line_and_what_to_do(
    kube_137: ApiServer, config: dict[str, object], tmp_path: Path, kind: str
) -> None:
    code, said, todo = BAD[kind]
    before = everything(kube_137)
    ran = invoke("detect", *spoilt(kind, config, tmp_path))
    assert ran.out == ""
    # What takes longer than a second is told while it is tried.
    lines = [line for line in ran.err.splitlines() if not line.startswith("step ")]
    assert lines[0].startswith("error: "), ran.err
    assert said in lines[0]
    assert {line.split(":")[0] for line in lines[1:]} <= {"wanted", "to do"}
    (advice,) = [line for line in lines if line.startswith("to do: ")]
    assert todo
    assert todo in advice
    assert ran.code == code, ran.err
    assert "meshpki itself failed" not in ran.err
    assert everything(kube_137) == before


@pytest.mark.parametrize("age", ["kube_113", "kube_130", "kube_137"])
@pytest.mark.parametrize("kind", ["certificate", "token"])
def test_a_credential_that_has_expired_is_told_with_its_time(
    age: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: ApiServer = request.getfixturevalue(age)
    ran = invoke("detect", "--kubeconfig", str(kubeconfigs.expired(server, tmp_path, kind)), "--timeout", "60")
    assert (ran.code, ran.out) == (1, "")
    todo = next(line for line in ran.err.splitlines() if line.startswith("to do: "))
    assert todo.startswith("to do: fetch context 'late' of ")
    assert f"its client {kind} is not good (it expired at 20" in todo or "is not good (it expired at 2023-11-14" in todo
    assert "choose another context (--context)" in todo


def test_a_server_that_never_answers(config: dict[str, object], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        clusters = config["clusters"]
        assert isinstance(clusters, list)
        clusters[0]["cluster"]["server"] = f"https://127.0.0.1:{silent.getsockname()[1]}"
        path = tmp_path / "config"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        ran = invoke("detect", "--kubeconfig", str(path), "--timeout", "1")
    assert (ran.code, ran.out) == (1, "")
    assert "no answer in time from https://127.0.0.1:" in ran.err
    assert "to do: check the network" in ran.err
