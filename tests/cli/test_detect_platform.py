"""`meshpki detect --platform NAME`: what a vendor's plugin adds to a real cluster's ladder, and what it cannot do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from support import command_line, plugin_distribution
from support.command_line import plain, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from support.command_line import Ran
    from support.kube.api_server import ApiServer

PATIENT = ("--timeout", "60")
NODE = "adds-1"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """A distribution of a vendor with a plugin called acme, installed beside ours."""
    place = tmp_path_factory.mktemp("vendor")
    return plugin_distribution.install(place, "acme", plugin_distribution.CLUSTER)


@pytest.fixture
def node(kube_137: ApiServer) -> Iterator[str]:
    """A node with a kubelet, as it would say itself."""
    kube_137.create_node(NODE)
    found = json.loads(kube_137.request("GET", f"/api/v1/nodes/{NODE}")[1])
    info = dict.fromkeys(
        ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion"), "x"
    ) | {"kubeletVersion": "v1.36.9-acme", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"}
    found["status"]["nodeInfo"] = info
    kube_137._done("PUT", f"/api/v1/nodes/{NODE}/status", found)
    yield "v1.36.9-acme"
    kube_137.delete_node(NODE)


def detect(server: ApiServer, installed: Mapping[str, str], *args: str) -> Ran:
    config = str(server.admin_kubeconfig)
    return spawn("detect", "--kubeconfig", config, "--platform", "acme", *PATIENT, *args, env=installed)


def test_it_adds_evidence(kube_137: ApiServer, installed: Mapping[str, str], node: str) -> None:
    ran = detect(kube_137, installed, "--region", "moon-7")
    assert ran.code == 0, ran.err
    lines = " ".join(ran.out.split())
    assert "What the platform acme adds (vendor 1.0) distribution acme" in lines
    assert f"nodes {node} " in lines
    assert "where is it? moon-7 (--region)" in lines
    assert "Proven: workloads can get identities against trustworthy tokens." in lines
    assert "yes pod certificates" in lines, "the cluster's own rungs are all there"


def test_it_is_in_the_document(kube_137: ApiServer, installed: Mapping[str, str], node: str) -> None:
    ran = detect(kube_137, installed, "--context", "admin", "-o", "json")
    document = json.loads(ran.out)
    added = document["platform"]
    assert (added["name"], added["origin"], added["distribution"]) == ("acme", "vendor 1.0", "acme")
    assert added["node_versions"] == [node]
    said = {item["question"]: item["answer"] for item in added["evidence"]}
    assert said == {"where is it?": "moon-1", "which context?": "admin"}, "an option of both is given once"
    assert document["distribution"] == "kubernetes", "what the cluster says itself stays"
    assert [rung["answer"] for rung in document["rungs"]] == ["yes"] * 8
    assert yaml.safe_load(detect(kube_137, installed, "--context", "admin", "-o", "yaml").out) == document


def test_an_option_of_both_is_for_both(kube_137: ApiServer, installed: Mapping[str, str], tmp_path: Path) -> None:
    document = json.loads(kube_137.admin_kubeconfig.read_text())
    del document["current-context"]
    config = tmp_path / "config"
    config.write_text(json.dumps(document))
    ran = spawn(
        *("detect", "--kubeconfig", str(config), "--platform", "acme", "--context", "admin", *PATIENT), env=installed
    )
    assert ran.code == 0, ran.err
    assert "which context? admin (--context)" in " ".join(ran.out.split())


@pytest.mark.parametrize(
    ("says", "code", "modes", "words"),
    [
        ("no sds", 0, ["pod-certificate", "file-mount"], "sds is not possible."),
        ("only file-mount", 3, ["file-mount"], "By the word of the platform acme only file-mounted keys are possible."),
        ("nothing", 3, [], "By the word of the platform acme no mode is possible."),
    ],
)
def test_it_may_leave_modes_out(
    kube_137: ApiServer, installed: Mapping[str, str], says: str, code: int, modes: list[str], words: str
) -> None:
    ran = detect(kube_137, installed, "--says", says, "-o", "json")
    document = json.loads(ran.out)
    assert (ran.code, document["modes"], document["ca_policies"]) == (code, modes, [])
    shown = " ".join(detect(kube_137, installed, "--says", says).out.split())
    assert words in shown
    assert "leaves out " in shown
    assert "see why acme leaves it out" in shown


@pytest.mark.parametrize(
    ("says", "code", "error", "todo"),
    [
        ("promises", 1, "promises pod-certificate, which the cluster does not prove", "report it to the plugin's"),
        ("nothing of clusters", 2, "does not add to what was found of a cluster", "leave out --platform"),
        ("away", 1, "Acme's API is away", "try again later"),
        ("nonsense", 1, "failed in detect(): KeyError", "report it to the plugin's authors"),
    ],
)
def test_what_it_cannot_do_is_told_after_the_ladder(
    kube_130: ApiServer, installed: Mapping[str, str], says: str, code: int, error: str, todo: str
) -> None:
    ran = detect(kube_130, installed, "--says", says)
    assert ran.code == code
    assert "Proven: workloads can get identities against trustworthy tokens." in ran.out
    assert "What the platform" not in ran.out
    lines = [line for line in ran.err.splitlines() if not line.startswith("step ")]
    assert error in lines[0]
    assert todo in next(line for line in lines if line.startswith("to do: "))


def test_it_is_not_asked_about_what_could_not_be_told(kube_137: ApiServer, installed: Mapping[str, str]) -> None:
    config = str(kube_137.kubeconfig("nobody", token=kube_137.stranger_token))
    ran = spawn("detect", "--kubeconfig", config, "--platform", "acme", *PATIENT, env=installed)
    assert ran.code == 1
    assert "Could not tell whether sds is possible" in ran.out
    assert "error: platform 'acme' was not asked: could not tell: Does it issue a token" in ran.err


def test_a_platform_that_is_no_clusters(kube_137: ApiServer) -> None:
    ran = command_line.invoke("detect", "--kubeconfig", str(kube_137.admin_kubeconfig), "--platform", "local", *PATIENT)
    assert ran.code == 2
    assert "platform 'local' does not add to what was found of a cluster" in ran.err


def test_a_platform_that_is_not_there(tmp_path: Path) -> None:
    ran = command_line.invoke("detect", "--platform", "nowhere", env={"HOME": str(tmp_path)})
    assert (ran.code, ran.out) == (2, "")
    assert "there is no platform 'nowhere'" in ran.err
    assert "to do: " in ran.err


def test_the_help_has_its_options(installed: Mapping[str, str]) -> None:
    shown = " ".join(spawn("detect", "--platform", "acme", "--help", env=installed).out.split())
    assert "Options of the platform acme: --region NAME Where the cluster is." in shown
    assert shown.count("--context ") == 1
    assert "Options of the platform" not in spawn("detect", "--help", env=installed).out


@pytest.mark.parametrize("columns", [60, 200])
def test_it_fits_the_terminal(kube_137: ApiServer, installed: Mapping[str, str], columns: int) -> None:
    config = str(kube_137.admin_kubeconfig)
    arguments = ("detect", "--kubeconfig", config, "--platform", "acme", *PATIENT)
    ran = command_line.on_terminal(*arguments, columns=columns, env=installed)
    assert ran.code == 0
    longest_word = max(len(word) for word in plain(ran.out).split())
    assert command_line.widest(ran.out) <= max(columns, longest_word + 4)
