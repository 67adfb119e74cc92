"""Ctrl-C, SIGTERM, kill -9, a dying API server at every step of detection: nothing stays, or the next run tidies up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from meshpki.provision.cluster import permission
from support.command_line import environment, invoke
from support.detect_halted import HALTED
from support.doc_pages import ROOT
from support.kube.everything import everything

if TYPE_CHECKING:
    from support.kube.api_server import ApiServer
    from support.kube.pool import ApiServerPool

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
ACCOUNT = f"{ACCOUNTS}/meshpki-detect"
PODS = "/api/v1/namespaces/default/pods"
BOUND_SECONDS = 120
PATIENT = ("--timeout", "60")
"""The machine that runs the tests may be busy."""
STEPS = [
    "GET /version",
    "GET /api/v1",
    f"POST {permission.REVIEW_PATH}",
    f"POST {ACCOUNTS}",
    f"POST {ACCOUNT}/token",
    "POST /apis/authentication.k8s.io/v1/tokenreviews",
    "GET /.well-known/openid-configuration",
    "GET /openid/v1/jwks",
    "GET /apis/certificates.k8s.io/v1",
    f"POST {PODS}",
    f"GET {PODS}/meshpki-detect",
    f"DELETE {PODS}/meshpki-detect",
    f"DELETE {ACCOUNT}",
]


def halted(server: ApiServer, moment: str, step: str, *more: str) -> subprocess.Popen[str]:
    """Detection with a canary, standing still at that step."""
    command = [sys.executable, "-m", "support.detect_halted", moment, step, "--", "detect"]
    config = str(server.admin_kubeconfig)
    process = subprocess.Popen(
        [*command, "--kubeconfig", config, "--canary", "--canary-timeout", "1", "-o", "json", *PATIENT, *more],
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


def ended_by_more_of_it(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C twice more, while the server is waited for."""
    for _ in range(2):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=0.5)[1]
        process.send_signal(signal.SIGINT)
    return ended(process)[1]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_leaves_nothing(kube_137: ApiServer, step: str, moment: str) -> None:
    before = everything(kube_137)
    process = halted(kube_137, moment, step)
    process.send_signal(signal.SIGINT)
    code, err = ended(process)
    # What tidies up is not interrupted: the signal is heard when it is done.
    assert (code, json.loads(err)["seen"]) == (130, "nothing of detection is left on the cluster")
    assert everything(kube_137) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_ways_to_stop_it_leave_nothing(kube_137: ApiServer, number: signal.Signals) -> None:
    before = everything(kube_137)
    process = halted(kube_137, "after", f"POST {ACCOUNT}/token")
    process.send_signal(number)
    assert ended(process)[0] == 130
    assert everything(kube_137) == before


@pytest.mark.parametrize("step", [f"POST {ACCOUNTS}", f"POST {ACCOUNT}/token", f"POST {PODS}", f"DELETE {ACCOUNT}"])
def test_what_kill_9_leaves_the_next_run_removes(kube_137: ApiServer, step: str) -> None:
    before = everything(kube_137)
    process = halted(kube_137, "before" if step.startswith("DELETE") else "after", step)
    while_alive = invoke("detect", "--kubeconfig", str(kube_137.admin_kubeconfig), *PATIENT)
    assert "another `meshpki detect` is at work" in while_alive.out
    process.kill()
    ended(process)
    left = everything(kube_137) - before
    assert {one.split()[1] for one in left} == {"default/meshpki-detect"}
    again = invoke(
        "detect", "--kubeconfig", str(kube_137.admin_kubeconfig), "--canary", "--canary-timeout", "1", *PATIENT
    )
    assert again.code == 0
    assert "a token for istio-ca" in again.out
    assert everything(kube_137) == before


@pytest.mark.xdist_group("kube-137")
def test_an_api_server_that_dies_under_it(api_server: ApiServerPool) -> None:
    server = api_server()
    before = everything(server)
    process = halted(server, "after", f"POST {ACCOUNT}/token")
    server.kill()
    process.send_signal(signal.SIGINT)
    code, err = ended(process)
    assert code == 1
    assert "could not be removed" in err
    config = server.admin_kubeconfig
    removal = f"kubectl --kubeconfig {config} --context admin -n default delete serviceaccount,pod meshpki-detect"
    assert removal in err
    server.start()
    assert {one.split()[1] for one in everything(server) - before} == {"default/meshpki-detect"}
    assert invoke("detect", "--kubeconfig", str(config), *PATIENT).code == 0
    assert everything(server) == before


@pytest.mark.xdist_group("kube-137")
def test_what_was_found_out_is_shown_though_the_account_could_not_be_removed(api_server: ApiServerPool) -> None:
    server = api_server()
    before = everything(server)
    process = halted(server, "before", f"DELETE {ACCOUNT}")
    server.kill()
    out, err = process.communicate(timeout=BOUND_SECONDS)
    assert process.returncode == 1
    assert json.loads(out)["standing"] == "proven"
    assert "could not be removed" in err
    server.start()
    assert {one.split()[1] for one in everything(server) - before} == {"default/meshpki-detect"}


@pytest.mark.xdist_group("kube-137")
@pytest.mark.parametrize(
    ("moment", "step"), [("before", f"DELETE {ACCOUNT}"), ("after", f"POST {ACCOUNT}/token")], ids=["removal", "token"]
)
def test_ctrl_c_while_a_silent_server_is_asked_for_the_removal(
    api_server: ApiServerPool, moment: str, step: str
) -> None:
    """Nobody is told that nothing is left; neither after one Ctrl-C nor after more."""
    server = api_server()
    before = everything(server)
    process = halted(server, moment, step, "--timeout", "10")
    os.kill(server.pid, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    try:
        err = ended_by_more_of_it(process)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert process.returncode == 1, err
    assert "could not be removed" in err
    assert "nothing of detection is left" not in err
    assert invoke("detect", "--kubeconfig", str(server.admin_kubeconfig), *PATIENT).code == 0
    assert everything(server) == before


@pytest.mark.xdist_group("kube-137")
def test_an_api_server_that_falls_silent_for_good(api_server: ApiServerPool) -> None:
    """It is asked twice more, not eleven times; and what is to be found out is whether it is up, not who may what."""
    server = api_server()
    before = everything(server)
    process = halted(server, "after", "GET /version", "--timeout", "2")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        out, err = process.communicate(timeout=BOUND_SECONDS)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert process.returncode == 1, err
    document = json.loads(out)
    assert [step["todo"] for step in document["lift"]] == [
        "see whether the API server is up and reachable from here, and try again"
    ]
    requests = {seen["request"]: seen["message"] for rung in document["rungs"] for seen in rung["evidence"]}
    assert sum(said.startswith("no answer in time") for said in requests.values()) == 2
    assert sum(said.startswith("not asked: ") for said in requests.values()) > 8
    assert everything(server) == before


@pytest.mark.xdist_group("kube-137")
def test_an_api_server_that_falls_asleep_under_it(api_server: ApiServerPool) -> None:
    """Too slow is no no; and what was made is removed once it is awake."""
    server = api_server()
    before = everything(server)
    process = halted(server, "after", f"POST {ACCOUNT}/token")
    os.kill(server.pid, signal.SIGSTOP)
    waking = threading.Timer(2.0, os.kill, (server.pid, signal.SIGCONT))
    waking.start()
    process.send_signal(signal.SIGINT)
    code, _ = ended(process)
    waking.join()
    assert code == 130
    assert everything(server) == before
