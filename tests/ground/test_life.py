"""Real API servers start, end, come back with other flags, share an etcd, and leave nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.kube import NotStartedError, guard
from support.kube.polling import until
from support.kube_assets.releases import Release

if TYPE_CHECKING:
    from support.kube import ApiServer, ApiServerPool

TESTS = Path(__file__).parents[1]
ISSUERS = ("https://new.example", "https://old.example")


def answers(server: ApiServer, path: str = "/version") -> bool:
    try:
        return server.request("GET", path)[0] == 200
    except OSError:
        return False


def issuer(server: ApiServer) -> str:
    return str(json.loads(server.request("GET", "/.well-known/openid-configuration")[1])["issuer"])


@pytest.mark.xdist_group("kube-130")
def test_a_restart_keeps_port_and_objects_and_takes_other_flags(api_server: ApiServerPool) -> None:
    server = api_server(Release.MIDDLE)
    url, first = server.url, server.pid
    uid = server.create_namespace("kept")

    server.restart("--event-ttl=5m0s", issuers=ISSUERS)
    assert (server.url, server.pid != first) == (url, True)
    assert issuer(server) == server.service_account_issuer == ISSUERS[0]
    assert json.loads(server.request("GET", "/api/v1/namespaces/kept")[1])["metadata"]["uid"] == uid

    server.restart()
    assert server.flags == ("--event-ttl=5m0s",)
    assert issuer(server) == ISSUERS[0]

    server.restart(plain=True)
    assert not any(flag.startswith("--event-ttl") for flag in server.flags)
    assert issuer(server) == ISSUERS[0]


@pytest.mark.xdist_group("kube-130")
def test_a_killed_server_is_away_until_it_is_started(api_server: ApiServerPool) -> None:
    server = api_server(Release.MIDDLE)
    token = server.admin_kubeconfig.read_text()
    server.kill()
    assert not server.running
    assert not answers(server)
    server.start()
    assert answers(server)
    server.stop()
    assert not answers(server)
    assert server.admin_kubeconfig.read_text() == token


@pytest.mark.xdist_group("kube-130")
def test_three_servers_on_one_etcd(api_server: ApiServerPool) -> None:
    servers = api_server.trio(Release.MIDDLE)
    assert len({server.url for server in servers}) == 3
    first, second, third = servers
    first.create_service_account("shared", "web")
    token = second.token("shared", "web", audiences=["istio-ca"])
    first.kill()
    assert third.review(token, "istio-ca")[1]["authenticated"]
    assert third.admin_token == second.admin_token

    third.cluster.etcd.kill()
    until(lambda: not answers(third, "/readyz"), "it has noticed that its etcd is away")
    third.cluster.etcd.start()
    until(lambda: answers(third, "/readyz"), "ready again")
    assert third.request("GET", "/api/v1/namespaces/shared")[0] == 200


def test_a_server_that_does_not_start_is_told_with_its_log(api_server: ApiServerPool) -> None:
    def left() -> tuple[set[int], set[Path]]:
        return set(guard.owned(guard.directory())), set(guard.directory().iterdir())

    before = left()  # the servers that are shared by the tests of this process
    with pytest.raises(NotStartedError, match=r"ended with exit status 1(?s:.*)unknown flag: --no-such-flag"):
        api_server(Release.MIDDLE, "--no-such-flag")
    assert left() == before


def test_a_flag_of_the_test_takes_the_place_of_ours(api_server: ApiServerPool) -> None:
    with pytest.raises(NotStartedError, match="--authorization-mode=Nonsense"):
        api_server(Release.FOUNDING, "--authorization-mode=Nonsense")
    with pytest.raises(NotStartedError, match="issuer"):
        api_server(Release.MODERN, issuers=())


HOST = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
from support.kube import ApiServerPool, guard
server = ApiServerPool()({Release.MIDDLE.value!r})
print(server.pid, server.cluster.etcd.process.pid, guard.directory(), flush=True)
time.sleep(600)
"""


@pytest.mark.e2e
@pytest.mark.kube
@pytest.mark.usefixtures("middle_ground")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_process_that_started_it(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOST], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0
    ) as host:
        assert host.stdout is not None
        said = host.stdout.readline().split()
        directory = Path(said[2])
        pids = [int(pid) for pid in said[:2]]
        assert set(pids) <= set(guard.owned(directory))
        os.killpg(host.pid, number)  # as a terminal sends it
    until(lambda: not directory.exists(), "the guard has cleared away")
    assert guard.owned(directory) == []
    assert not any(Path(f"/proc/{pid}/cmdline").exists() and is_server(pid) for pid in pids)


def is_server(pid: int) -> bool:
    return bool(re.search(rb"kube-apiserver|etcd", Path(f"/proc/{pid}/cmdline").read_bytes()))
