"""`meshpki verify` of a cluster, as an operator runs it: what it shows, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshpki.ca.config_clusters import Authentication
from meshpki.hooks import CaEndpoint
from meshpki.provision.proof import steps
from support import kubeconfigs, proofs
from support.authority import make_authority
from support.command_line import Ran, environment, invoke, spawn
from support.detect_halted import HALTED
from support.doc_pages import ROOT
from support.kube import ApiServer
from support.kube.pool import ApiServerPool

pytestmark = [pytest.mark.e2e, pytest.mark.kube]
BOUND_SECONDS = 120
SPACE = "/api/v1/namespaces/default"
NAME = "meshpki-verify"


@dataclass(frozen=True)
class Ground:
    """An API server, and a CA that believes its tokens."""

    server: ApiServer
    ca: CaEndpoint
    roots: Path

    @property
    def arguments(self) -> list[str]:
        return [
            "verify",
            *("--kubeconfig", str(self.server.admin_kubeconfig)),
            *("--ca-address", self.ca.address, "--ca-roots", str(self.roots)),
            *("--trust-domain", proofs.TRUST_DOMAIN, "--legacy-within", "0"),
        ]

    def verify(self, *more: str) -> Ran:
        return invoke(*self.arguments, *more)


@pytest.fixture
def ground(kube_137: ApiServer, tmp_path: Path) -> Iterator[Ground]:
    with proofs.ca_for(tmp_path, proofs.cluster_settings(kube_137, tmp_path)) as ca:
        yield ground_of(kube_137, ca, tmp_path)
    assert proofs.left(kube_137) == []


def ground_of(server: ApiServer, ca: CaEndpoint, directory: Path) -> Ground:
    roots = directory / "roots.pem"
    roots.write_bytes(ca.roots_pem)
    return Ground(server, ca, roots)


def test_one_line_per_check(ground: Ground) -> None:
    ran = ground.verify("--context", "admin")
    assert ran.code == 0, ran
    lines = ran.out.splitlines()
    assert lines[0].startswith(f"{ground.server.url} (context 'admin' of ")
    marks = [line.split()[0] for line in lines if line.split()[:1] in (["passed"], ["skipped"])]
    assert len(marks) == steps.STEPS
    assert lines[-1] == "11 of 14 checks passed, 0 failed."


def test_the_evidence_is_in_the_document(ground: Ground) -> None:
    ran = ground.verify("--output", "json")
    assert ran.code == 0
    document = json.loads(ran.out)
    assert document["passed"] is True
    assert document["server"] == ground.server.url
    assert document["ca"] == ground.ca.address
    assert document["spiffe_id"] == "spiffe://mesh.local/ns/default/sa/meshpki-verify"
    assert [check["verdict"] for check in document["checks"]].count("passed") == 11
    stands = document["checks"][0]["evidence"]
    assert stands[0].startswith(f"POST {SPACE}/serviceaccounts: HTTP 201, made, uid ")
    assert "eyJ" not in ran.out


def test_a_failed_check_is_status_1(ground: Ground) -> None:
    ran = ground.verify("--require-revocation")
    assert ran.code == 1
    assert "FAILED" in ran.out
    assert "1 failed." in ran.out


@pytest.mark.xdist_group("kube-137")
def test_another_context(ground: Ground, api_server: ApiServerPool) -> None:
    other = api_server("v1.37.2")
    merged = f"{ground.server.admin_kubeconfig}:{other.kubeconfig('other', token=other.admin_token)}"
    arguments = [argument for argument in ground.arguments if "kubeconfig" not in argument]
    ran = invoke(*arguments, "--context", "admin", "--other-context", "other", env={"KUBECONFIG": merged})
    assert ran.code == 0, ran
    assert "12 of 14 checks passed" in ran.out
    assert proofs.left(other) == []


def test_revocation_is_seen(kube_137: ApiServer, tmp_path: Path) -> None:
    settings = proofs.cluster_settings(kube_137, tmp_path, Authentication.HYBRID)
    with proofs.ca_for(tmp_path, settings) as ca:
        ran = ground_of(kube_137, ca, tmp_path).verify("--require-revocation", "-o", "json")
    assert ran.code == 0, ran
    assert "token_pod_gone" in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["verify", "--ca-address", "x:1"], 2, "options for a cluster, and no cluster"),
        (["verify", "--require-revocation"], 2, "options for a cluster, and no cluster"),
        (["verify", "--context", "x"], 2, "--ca-address HOST:PORT and --ca-roots FILE"),
        (["verify", "--context", "x", "--ca-address", "x:1"], 2, "--ca-address HOST:PORT and --ca-roots FILE"),
        (["verify", "--context", "x", "--ca-address", "x:1", "--ca-roots", "{roots}"], 2, "no trust domain"),
        (["verify", "--context", "x", "--ca-address", "x:1", "--ca-roots", "{missing}"], 1, "missing.pem"),
        (["verify", "--context", "x", "--ca-address", "x", "--ca-roots", "{roots}"], 2, "HOST:PORT"),
        (["{all}", "--ca-roots", "{empty}"], 2, "empty.pem: the file of roots holds no readable PEM certificates"),
        (["{all}", "--ca-roots", "{other}"], 2, "other.pem: the file of roots holds no readable PEM certificates"),
        (["{all}", "--trust-domain", "Mesh"], 1, "trust domain"),
        (["{all}", "--namespace", "../x"], 2, "a namespace's name"),
        (["{all}", "--context", "missing"], 2, "no context 'missing'"),
        (["{all}", "--other-trusted"], 2, "--other-context NAME"),
        (["{all}", "--other-context", "admin"], 2, "another cluster"),
        (["{all}", "--allow-exec", "bin/x"], 2, "no absolute path"),
        (["{all}", "--kubeconfig", "{missing}"], 1, "there is no kubeconfig at "),
    ],
    ids=str,
)
def test_input_that_cannot_be_meant_is_one_line_that_says_what_to_do(
    ground: Ground, arguments: list[str], code: int, says: str
) -> None:
    files = {name: ground.roots.with_name(f"{name}.pem") for name in ("empty", "other", "missing")}
    files["empty"].touch()
    files["other"].write_text("no certificate")
    given: list[str] = []
    for argument in arguments:
        given += ground.arguments if argument == "{all}" else [argument.format(roots=ground.roots, **files)]
    ran = invoke(*given)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert ran.err.splitlines()[0].startswith("error: ")
    assert proofs.left(ground.server) == []


def test_a_namespace_that_is_not_there(ground: Ground) -> None:
    ran = ground.verify("--namespace", "nowhere")
    assert ran.code == 1
    assert "--namespace" in ran.out
    assert "deploy/kubernetes/verify-rbac.yaml" in ran.out


def test_a_credential_that_is_not_accepted(ground: Ground, tmp_path: Path) -> None:
    ran = ground.verify("--kubeconfig", str(ground.server.kubeconfig("nobody", token="no-such-token")))
    assert ran.code == 1
    assert ran.out == ""
    assert "the API server does not accept the credential" in ran.err
    assert "log in again" in ran.err


@pytest.mark.parametrize("kind", ["certificate", "token"])
def test_a_credential_that_has_expired_is_told_with_its_time(ground: Ground, tmp_path: Path, kind: str) -> None:
    ran = ground.verify("--kubeconfig", str(kubeconfigs.expired(ground.server, tmp_path, kind)))
    assert (ran.code, ran.out) == (1, "")
    assert "to do: fetch context 'late' of " in ran.err
    assert "is not good (it expired at 20" in ran.err


@pytest.mark.xdist_group("kube-137")
def test_an_api_server_that_is_away(ground: Ground, api_server: ApiServerPool) -> None:
    server = api_server("v1.37.2")
    server.stop()
    ran = ground.verify("--kubeconfig", str(server.admin_kubeconfig), "--timeout", "30")
    assert (ran.code, ran.out) == (1, "")
    assert "refused" in ran.err


# --- as a process of its own


def test_roots_of_another_ca_are_told_once_and_in_our_words(ground: Ground, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(make_authority().root_pem)
    ran = spawn(*ground.arguments, "--ca-roots", str(other), "--ca-server-name", "istio-ca.test", "-o", "json")
    checks = json.loads(ran.out)["checks"]
    assert ran.code == 1
    (failed,) = [check for check in checks if check["verdict"] == "failed"]
    assert "check that the roots given are the CA's" in failed["detail"]
    assert [check["detail"] for check in checks].count("there is no answer from the CA") == 5
    assert [line for line in ran.err.splitlines() if not line.startswith("step ")] == [], "gRPC says nothing itself"


STEPS = [
    "GET /version",
    f"POST {SPACE}/serviceaccounts",
    f"POST {SPACE}/pods",
    f"POST {SPACE}/serviceaccounts/{NAME}/token",
    "POST /apis/authentication.k8s.io/v1/tokenreviews",
    f"POST {SPACE}/secrets",
    f"DELETE {SPACE}/pods/{NAME}",
    f"DELETE {SPACE}/serviceaccounts/{NAME}",
]


def halted(ground: Ground, moment: str, step: str) -> subprocess.Popen[str]:
    """A round that stands still at that step."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.detect_halted", moment, step, "--", *ground.arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment({"PYTHONPATH": str(ROOT / "tests")}),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.strip() == HALTED, (line, process.stderr.read() if process.stderr else "")
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=BOUND_SECONDS)
    return process.returncode, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_nothing(ground: Ground, number: signal.Signals) -> None:
    process = halted(ground, "after", f"POST {SPACE}/pods")
    assert len(proofs.left(ground.server)) == 2
    process.send_signal(number)
    code, err = ended(process)
    assert (code, err.splitlines()[-1]) == (130, "interrupted: nothing of verify is left on the cluster")
    assert proofs.left(ground.server) == []


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_at_each_step(ground: Ground, step: str) -> None:
    process = halted(ground, "before" if step.startswith("DELETE") else "after", step)
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130
    assert proofs.left(ground.server) == []


def test_ctrl_c_while_the_ca_says_nothing(ground: Ground, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        arguments = [*ground.arguments, "--ca-address", address]
        process = subprocess.Popen(
            [sys.executable, "-m", "meshpki_cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        silent.settimeout(BOUND_SECONDS)
        connection, _ = silent.accept()  # the CA is being asked
        with connection:
            assert len(proofs.left(ground.server)) == 2
            process.send_signal(signal.SIGINT)
            code, err = ended(process)
    assert code == 130
    assert "nothing of verify is left on the cluster" in err


@pytest.mark.xdist_group("kube-137")
def test_ctrl_c_while_the_api_server_says_nothing(api_server: ApiServerPool, tmp_path: Path) -> None:
    """What is made is taken away when the API server goes on; that it takes a while, and why, is told meanwhile."""
    import socket

    server = api_server()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ca = CaEndpoint(f"127.0.0.1:{silent.getsockname()[1]}", "istio-ca.test", make_authority().root_pem)
        arguments = ground_of(server, ca, tmp_path).arguments
        process = subprocess.Popen(
            [sys.executable, "-m", "meshpki_cli", *arguments, "--timeout", "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert process.stderr is not None
        silent.settimeout(BOUND_SECONDS)
        connection, _ = silent.accept()  # the CA is being asked
        with connection:
            os.kill(server.pid, signal.SIGSTOP)
            try:
                process.send_signal(signal.SIGINT)
                told = [line.strip() for line in iter(process.stderr.readline, "Ctrl-C waits until that is done\n")]
                assert told[-1] == f"step {steps.STEPS} of {steps.STEPS}: {steps.CLEAN}"
                assert process.poll() is None
            finally:
                os.kill(server.pid, signal.SIGCONT)
            code, err = ended(process)
    assert (code, err.splitlines()[-1]) == (130, "interrupted: nothing of verify is left on the cluster")
    assert proofs.left(server) == []


@pytest.mark.parametrize("step", STEPS[1:6])
def test_what_kill_9_leaves_the_next_run_removes(ground: Ground, step: str) -> None:
    process = halted(ground, "after", step)
    at_work = ground.verify()
    assert "another `meshpki verify` is at work" in at_work.out
    process.kill()
    ended(process)
    assert proofs.left(ground.server) != []
    again = ground.verify("-o", "json")
    assert again.code == 0
    assert "made-anew" in again.out
    assert proofs.left(ground.server) == []


def test_progress_is_told_when_it_takes_longer_than_a_second(ground: Ground) -> None:
    ran = spawn(*ground.arguments)
    assert ran.code == 0, ran
    assert "step 13 of 14: a token whose pod is gone is refused" in ran.err, "it waits for two seconds there"
