"""`meshpki detect` as it is typed: what it writes, and its exit status."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from meshpki.errors import ExitCode
from support.command_line import invoke, on_terminal, plain, spawn, widest

if TYPE_CHECKING:
    from pathlib import Path

    from support.kube.api_server import ApiServer
PATIENT = ("--timeout", "60")
"""The machine that runs the tests may be busy."""


def detect(config: Path, *args: str) -> tuple[int, str, str]:
    ran = invoke("detect", "--kubeconfig", str(config), *PATIENT, *args)
    # On a busy machine it takes longer than a second, and then it tells what it is at.
    told = [line for line in ran.err.splitlines() if not line.startswith("step ")]
    return ran.code, ran.out, "".join(told)


# ---- what it writes


def test_json_and_yaml_say_the_same(kube_137: ApiServer) -> None:
    code, out, err = detect(kube_137.admin_kubeconfig, "--output", "json")
    assert (code, err) == (ExitCode.DONE, "")
    document = json.loads(out)
    assert yaml.safe_load(detect(kube_137.admin_kubeconfig, "-o", "yaml")[1]) == document
    assert list(document) == [
        *("server", "context", "kubeconfig", "namespace", "audience", "version", "distribution", "features"),
        *("emulated", "standing", "modes", "ca_policies", "lift", "facts", "rungs", "platform"),
    ]
    assert document["platform"] is None
    assert (document["context"], document["kubeconfig"]) == ("admin", str(kube_137.admin_kubeconfig))
    assert document["modes"] == ["pod-certificate", "sds", "file-mount"]
    assert [rung["answer"] for rung in document["rungs"]] == ["yes"] * 8


def test_only_file_mount_takes_the_operators_word(kube_113_without_requests: ApiServer) -> None:
    code, out, err = detect(kube_113_without_requests.admin_kubeconfig)
    assert (code, err) == (ExitCode.OPERATOR_NEEDED, "")
    assert "Only file-mounted keys are possible" in out
    assert "sds: start every API server with --service-account-issuer" in out


@pytest.mark.parametrize("age", ["kube_137", "kube_130"])
def test_what_could_not_be_told_is_an_error(age: str, request: pytest.FixtureRequest) -> None:
    """Also where pods can get certificates by themselves: a mesh token may open the API server all the same."""
    server: ApiServer = request.getfixturevalue(age)
    code, out, err = detect(server.kubeconfig("nobody", token=server.stranger_token))
    assert (code, err) == (ExitCode.ERROR, "")
    assert "Could not tell whether sds is possible" in out
    assert "Proven" not in out
    assert "to find out  sds: apply what `meshpki detect` prints" in out


def test_a_namespace_that_is_not_there_is_an_error(kube_137: ApiServer) -> None:
    code, out, _ = detect(kube_137.admin_kubeconfig, "--namespace", "nosuch")
    assert code == ExitCode.ERROR
    assert "Proven" not in out


@pytest.mark.parametrize("output", [(), ("-o", "yaml"), ("-o", "json")], ids=str)
def test_the_rights_are_printed_without_asking_any_cluster(output: tuple[str, ...], tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none")}
    ran = invoke("detect", "--rbac", "jane", "--namespace", "mesh", *output, env=home)
    assert (ran.code, ran.err) == (0, "")
    items = yaml.safe_load(ran.out)["items"]
    assert [item["kind"] for item in items] == ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"]
    assert items[1]["metadata"] == {"name": "meshpki-detect:jane", "namespace": "mesh"}
    with_canary = invoke("detect", "--rbac", "jane", "--canary", *output, env=home)
    warned = "note: whoever may create pods in namespace default may use every Secret" in with_canary.err
    assert warned is not bool(output), "a program is told by the document alone"


def test_rights_for_nobody() -> None:
    ran = invoke("detect", "--rbac", "")
    assert (ran.code, ran.out) == (2, "")
    assert "to do: see `kubectl auth whoami`" in ran.err


def test_the_help_says_what_the_exit_status_means() -> None:
    shown = " ".join(invoke("detect", "--help").out.split())
    for said in ("Exit status 0:", "3: only file-mount", "1: could not tell", "printed by --rbac", "--allow-exec"):
        assert said in shown


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_it_fits_the_terminal(kube_130: ApiServer, columns: int) -> None:
    ran = on_terminal("detect", "--kubeconfig", str(kube_130.admin_kubeconfig), *PATIENT, columns=columns)
    assert ran.code == 0
    longest_word = max(len(word) for word in plain(ran.out).split())
    assert widest(ran.out) <= max(columns, longest_word + 4)


def test_what_is_over_soon_is_not_told_step_by_step(kube_137: ApiServer) -> None:
    ran = spawn("detect", "--kubeconfig", str(kube_137.admin_kubeconfig), *PATIENT)
    assert ran.code == 0
    assert len(ran.err.splitlines()) <= 8


def screen(written: str) -> list[str]:
    """The lines that are left on a terminal on which this was written."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        match part:
            case "\n":
                row += 1
                lines += [""] * (row == len(lines))
            case "\x1b[1A":
                row -= 1
            case "\x1b[2K":
                lines[row] = ""
            case str() if part.isprintable():
                lines[row] += part
    return lines


def test_nothing_of_the_steps_stays_on_a_terminal(kube_137: ApiServer) -> None:
    config = str(kube_137.admin_kubeconfig)
    command = ("detect", "--kubeconfig", config, "--canary", "--canary-timeout", "2", *PATIENT)
    for _ in range(5):  # a machine that stands still for two seconds sees no pod wait
        ran = on_terminal(*command, columns=100, env={"NO_COLOR": "1"})
        assert ran.code == 0
        if "(the pod is Pending)" in ran.out:
            break
    assert "step 9: a canary pod, for at most 2 s (the pod is Pending)" in ran.out
    left = screen(ran.out)
    assert left[0].startswith("https://127.0.0.1:")
    assert not [line for line in left if "step " in line]


def test_what_takes_longer_than_a_second_is_told(kube_137: ApiServer) -> None:
    config = str(kube_137.admin_kubeconfig)
    command = ("detect", "--kubeconfig", config, "--canary", "--canary-timeout", "2", *PATIENT)
    ran = spawn(*command)
    assert ran.code == 0
    assert "step 9: a canary pod, for at most 2 s" in ran.err
    assert "the pod was not scheduled to any node" in ran.out
    ran = spawn(*command, "-o", "json")
    assert (ran.code, ran.err) == (0, ""), "a program wants one document there, or none"
    assert json.loads(ran.out)["rungs"][-1]["reason"] == "no-kubelet"
