"""What status and verify are told, from files alone; and the tokens' keeper over a clock of its own."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import MeshpkiError, OperatorNeededError
from meshpki.hooks import Health
from meshpki.identity import ServiceAccountRef
from meshpki.tokens.jwks import FileKeySource
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.trusted_cluster import TrustedCluster
from meshpki.tokens.verify import TokenVerifier
from meshpki_local import issuer_key, token_files
from meshpki_local.layout import Layout
from meshpki_local.probe import LocalProbe
from meshpki_local.run_file import ChildRecord, RunRecord, boot_id
from meshpki_local.settings import AUDIENCE, CLUSTER, ISSUER, Settings
from meshpki_local.token_keeper import TokenKeeper
from support.local_supervisor import WEB, prepare, short_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = Settings(workloads=(WEB,), token_ttl=600)
DAY = 86400


@pytest.fixture
def layout() -> Iterator[Layout]:
    with short_directory() as state:
        yield prepare(state, {})


def status(layout: Layout, **changes: object) -> None:
    said = {"state": "fresh", "spiffe_id": "spiffe://m/x", "not_after": int(time.time()) + 60, "last_failure": None}
    layout.workload(WEB).status.write_text(json.dumps({**said, **changes}))


def test_nothing_runs(layout: Layout) -> None:
    probe = LocalProbe(layout, SETTINGS)
    assert [(one.name, one.health) for one in probe.components()] == [
        ("supervisor", Health.STOPPED),
        ("ca", Health.STOPPED),
        ("agent-default.web", Health.STOPPED),
    ]
    assert "meshpki run" in probe.components()[0].detail
    (workload,) = probe.workloads()
    assert (workload.health, workload.detail) == (Health.FAILED, "its agent does not run")
    assert (workload.sds_socket, workload.directory, workload.not_after) == ("", "", 0)


def test_a_certificate_outlives_its_agent_but_not_its_time(layout: Layout) -> None:
    probe = LocalProbe(layout, SETTINGS)
    status(layout)
    assert (probe.workloads()[0].health, probe.workloads()[0].detail) == (Health.FRESH, "its agent does not run")
    status(layout, not_after=int(time.time()) - 1)
    assert probe.workloads()[0].health is Health.EXPIRED


def test_the_agents_last_failure_is_told(layout: Layout) -> None:
    status(layout, state="denied", last_failure={"seen": "refused", "reason": "token_expired"})
    seen = LocalProbe(layout, SETTINGS).workloads()[0]
    assert seen.health is Health.DENIED
    assert "refused (token_expired)" in seen.detail


def test_trouble_with_an_agents_files_is_told_though_it_renews(layout: Layout) -> None:
    status(layout, files={"not_after": 1, "trouble": "could not write the files in certs: No space left on device"})
    seen = LocalProbe(layout, SETTINGS).workloads()[0]
    assert seen.health is Health.FRESH
    assert "No space left on device" in seen.detail
    status(layout, files={"not_after": 1, "trouble": ""})
    assert "No space" not in LocalProbe(layout, SETTINGS).workloads()[0].detail


@pytest.mark.parametrize(
    ("phase", "age", "failures", "health"),
    [
        ("running", 1, 2, Health.FAILED),
        ("running", 60, 2, Health.RUNNING),
        ("running", 1, 1, Health.RUNNING),
        ("waiting", 1, 1, Health.FAILED),
    ],
    ids=["dies over and over", "came up at last", "killed once", "not up again yet"],
)
def test_a_child_that_dies_over_and_over_does_not_run(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, phase: str, age: int, failures: int, health: Health
) -> None:
    child = ChildRecord("ca", phase, 5, 6, "f", int(time.time()) - age, 3, failures, "exit status 1")
    said = RunRecord(1, 2, boot_id(), "1", 0, (child,))
    monkeypatch.setattr("meshpki_local.control.record", lambda _: said)
    assert LocalProbe(layout, SETTINGS).components()[1].health is health


@pytest.mark.parametrize(("restarts", "told"), [(0, "pid 5"), (1, "pid 5, 1 restart"), (2, "pid 5, 2 restarts")])
def test_restarts_are_counted(layout: Layout, monkeypatch: pytest.MonkeyPatch, restarts: int, told: str) -> None:
    child = ChildRecord("ca", "running", 5, 6, "f", int(time.time()) - 60, restarts, 0, "")
    said = RunRecord(1, 2, boot_id(), "1", 0, (child,))
    monkeypatch.setattr("meshpki_local.control.record", lambda _: said)
    assert LocalProbe(layout, SETTINGS).components()[1].detail == told


def test_the_supervisors_problems_are_its_health(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    said = RunRecord(1, 2, boot_id(), "1", 0, (), ("token of default/web: disk full",))
    monkeypatch.setattr("meshpki_local.control.record", lambda _: said)
    first = LocalProbe(layout, SETTINGS).components()[0]
    assert (first.health, first.detail) == (Health.FAILED, "token of default/web: disk full")


def test_the_ca_is_where_its_configuration_says(layout: Layout) -> None:
    endpoint = LocalProbe(layout, SETTINGS).ca()
    assert (endpoint.address, endpoint.server_name, endpoint.roots_pem) == ("127.0.0.1:1", "localhost", b"stand-in")
    layout.root_certificate.unlink()
    with pytest.raises(OperatorNeededError, match="provision"):
        LocalProbe(layout, SETTINGS).ca()


@pytest.mark.parametrize("account", [WEB, ServiceAccountRef("any", "one")])
def test_any_account_gets_a_token_that_the_installations_keys_verify(
    layout: Layout, account: ServiceAccountRef
) -> None:
    token = LocalProbe(layout, SETTINGS).mint(account, audience=AUDIENCE, lifetime_seconds=60)
    policy = ClusterPolicy(cluster=CLUSTER, issuer=ISSUER)
    verifier = TokenVerifier((TrustedCluster(policy, FileKeySource(layout.jwks)),))
    assert verifier.verify(token.encode(), time.time()).service_account == account


def test_without_a_key_there_is_an_error_and_no_token(layout: Layout) -> None:
    layout.token_key.unlink()
    with pytest.raises(MeshpkiError, match=r"issuer-key\.pem"):
        LocalProbe(layout, SETTINGS).mint(WEB, audience=AUDIENCE, lifetime_seconds=60)


def issued_at(layout: Layout) -> int:
    seen = token_files.read_seen(layout.workload(WEB).token.read_bytes())
    assert seen is not None
    return seen.issued_at


def test_the_keeper_writes_at_80_percent_and_not_before(layout: Layout) -> None:
    keeper, now = TokenKeeper(layout), 1_800_000_000
    assert keeper.refresh(SETTINGS, now) == now + 480
    assert keeper.refresh(SETTINGS, now + 479) == now + 480
    assert issued_at(layout) == now
    keeper.refresh(SETTINGS, now + 480)
    assert issued_at(layout) == now + 480


@pytest.mark.parametrize("jump", [-400 * DAY, -2 * DAY, 400 * DAY])
def test_a_clock_that_jumps_is_followed(layout: Layout, jump: int) -> None:
    keeper, now = TokenKeeper(layout), 1_800_000_000
    keeper.refresh(SETTINGS, now)
    keeper.refresh(SETTINGS, now + jump)
    assert issued_at(layout) == now + jump


def test_a_lost_key_is_a_problem_told_once_and_over_when_it_is_back(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    keeper, now, aside = TokenKeeper(layout), 1_800_000_000, layout.tokens / "aside"
    layout.token_key.rename(aside)
    due = keeper.refresh(SETTINGS, now)
    keeper.refresh(SETTINGS, due)
    assert len(keeper.problems) == 1
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 1
    aside.rename(layout.token_key)
    keeper.refresh(SETTINGS, due + 10)
    assert keeper.problems == {}


def test_another_key_replaces_the_tokens_of_the_old_one(layout: Layout) -> None:
    keeper, now = TokenKeeper(layout), 1_800_000_000
    keeper.refresh(SETTINGS, now)
    layout.token_key.unlink()
    issuer_key.create(layout)
    keeper.reset()
    keeper.refresh(SETTINGS, now + 1)
    seen = token_files.read_seen(layout.workload(WEB).token.read_bytes())
    assert seen is not None
    assert seen.kid == issuer_key.load(layout.token_key).kid


def test_no_workloads_no_work(layout: Layout) -> None:
    assert TokenKeeper(layout).refresh(Settings(workloads=()), 5.0) > 5.0
