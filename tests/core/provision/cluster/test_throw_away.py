"""The throw-away account: made once, found again by its mark, removed whatever happens, and nobody else's touched."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from meshpki.errors import RefusedError
from meshpki.provision.cluster import throw_away
from meshpki.provision.cluster.climb import LeftBehindError, climb
from meshpki.provision.cluster.question import Canary, Question
from meshpki.provision.cluster.throw_away import LABELS, MARK, STALE_SECONDS, Run, Standing, is_left_over, this_run
from meshpki.provision.cluster.uninterrupted import stoppable, stopped_once, uninterrupted
from meshpki.provision.cluster.verdict import Answer, Reason, Rung
from support.fake_cluster import FakeAnswer, FakeCluster, answer, away, failure, made

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
ACCOUNT = f"{ACCOUNTS}/meshpki-detect"
HERE = Run("here", 7, "a-nonce")
DEAD_PROCESS = 4_194_305
"""Above what Linux ever gives (PID_MAX_LIMIT)."""


def standing(mark: str, *, ours: bool = True, age: float = 1.0) -> Standing:
    return Standing("uid", ours, mark, age)


def account(mark: str, *, labels: Mapping[str, str] = LABELS, age: float = 1.0) -> dict[str, object]:
    return made({"metadata": {"name": "meshpki-detect", "labels": labels, "annotations": {MARK: mark}}}, age=age)


@pytest.mark.parametrize(
    ("found", "alive", "left_over"),
    [
        (standing("here.9.x"), False, True),
        (standing("here.9.x"), True, False),
        (standing("there.9.x"), False, False),
        (standing("there.9.x", age=STALE_SECONDS - 1), False, False),
        (standing("there.9.x", age=STALE_SECONDS + 1), True, True),
        (standing("here.9.x", ours=False, age=9999), False, False),
        (standing(""), False, False),
        (standing("", age=9999), False, True),
    ],
)
def test_left_over_is_what_a_dead_run_made(found: Standing, alive: bool, left_over: bool) -> None:
    assert is_left_over(found, HERE, alive=alive) is left_over


def test_two_runs_of_one_process_differ_by_their_nonce_alone() -> None:
    first, second = this_run(), this_run()
    assert (first.place, first.process) == (second.place, second.process)
    assert first.process == os.getpid()
    assert first.nonce != second.nonce


def test_what_a_killed_run_of_this_machine_left_is_removed_at_once() -> None:
    cluster = FakeCluster(objects={ACCOUNT: account(f"{this_run().place}.{DEAD_PROCESS}.x")})
    found = climb(cluster, Question())
    assert found[Rung.TOKEN].good
    assert cluster.objects == {}


def test_what_another_machines_run_left_is_removed_when_it_must_be_dead() -> None:
    cluster = FakeCluster(objects={ACCOUNT: account("elsewhere.1.x", age=STALE_SECONDS + 60)})
    assert climb(cluster, Question())[Rung.TOKEN].good
    assert cluster.objects == {}


@pytest.mark.parametrize("mark", ["elsewhere.1.x", f"{this_run().place}.{os.getpid()}.x"], ids=["elsewhere", "here"])
def test_the_account_of_a_run_at_work_is_left_alone(mark: str) -> None:
    before = {ACCOUNT: account(mark)}
    cluster = FakeCluster(objects=dict(before))
    found = climb(cluster, Question())
    assert (found[Rung.TOKEN].answer, found[Rung.TOKEN].reason) == (Answer.UNKNOWN, Reason.ACCOUNT_IN_USE)
    assert cluster.objects == before


@pytest.mark.parametrize("labels", [{}, {"app.kubernetes.io/managed-by": "meshpki"}, {"app": "web"}])
def test_an_account_of_somebody_else_is_left_alone_however_old(labels: dict[str, str]) -> None:
    before = {ACCOUNT: account(f"{this_run().place}.{DEAD_PROCESS}.x", labels=labels, age=99_999)}
    cluster = FakeCluster(objects=dict(before))
    found = climb(cluster, Question())
    assert (found[Rung.TOKEN].answer, found[Rung.TOKEN].reason) == (Answer.UNKNOWN, Reason.ACCOUNT_FOREIGN)
    assert cluster.objects == before
    assert not [one for one in cluster.requests if one.startswith("DELETE")]


@pytest.mark.parametrize(
    "said", [failure(403, 'User "jo" cannot get it'), failure(500), away(), answer(200, b"<html>")]
)
def test_an_account_that_cannot_be_looked_at_is_left_alone(said: FakeAnswer | BaseException) -> None:
    cluster = FakeCluster(objects={ACCOUNT: account("elsewhere.1.x")}, scripted={f"GET {ACCOUNT}": said})
    found = climb(cluster, Question())
    assert found[Rung.TOKEN].answer is Answer.UNKNOWN
    assert ("get serviceaccounts meshpki-detect" in found[Rung.TOKEN].seen) is (
        isinstance(said, FakeAnswer) and said.status == 403
    )
    assert not [one for one in cluster.requests if one.startswith("DELETE")]


def test_a_left_over_that_may_not_be_removed_is_told() -> None:
    left = account(f"{this_run().place}.{DEAD_PROCESS}.x")
    cluster = FakeCluster(
        objects={ACCOUNT: left}, scripted={f"DELETE {ACCOUNT}": failure(403, 'User "jo" cannot delete it')}
    )
    climb_into(cluster, "could not be removed")


def climb_into(cluster: FakeCluster, words: str) -> None:
    found = climb(cluster, Question())
    assert found[Rung.TOKEN].answer is Answer.UNKNOWN, words
    assert "delete serviceaccounts meshpki-detect in namespace default" in found[Rung.TOKEN].seen


@pytest.mark.parametrize("arrived", [True, False])
def test_a_creation_whose_answer_was_lost_is_looked_for(arrived: bool) -> None:
    cluster = FakeCluster()

    def create(body: Mapping[str, object]) -> FakeAnswer:
        if arrived:
            cluster.objects[ACCOUNT] = made(body)
        raise away("the connection was cut")

    cluster.scripted[f"POST {ACCOUNTS}"] = create
    found = climb(cluster, Question())
    assert found[Rung.TOKEN].reason is Reason.NO_ANSWER
    assert cluster.objects == {}


@pytest.mark.parametrize("said", [failure(500, "it was made, and then"), failure(504), answer(200, b"<html>cut off")])
def test_a_creation_that_was_answered_wrong_is_looked_for(said: FakeAnswer) -> None:
    cluster = FakeCluster()

    def create(body: Mapping[str, object]) -> FakeAnswer:
        cluster.objects[ACCOUNT] = made(body)
        return said

    cluster.scripted[f"POST {ACCOUNTS}"] = create
    climb(cluster, Question())
    assert cluster.objects == {}


def test_looking_for_a_lost_creation_removes_nobody_elses() -> None:
    cluster = FakeCluster()
    other = account("elsewhere.1.x")

    def create(_body: Mapping[str, object]) -> FakeAnswer:
        cluster.objects[ACCOUNT] = other
        raise away("the connection was cut")

    cluster.scripted[f"POST {ACCOUNTS}"] = create
    climb(cluster, Question())
    assert cluster.objects == {ACCOUNT: other}


def test_an_account_that_was_made_anew_by_somebody_else_is_left_to_them() -> None:
    cluster = FakeCluster()

    def replaced(_body: Mapping[str, object]) -> FakeAnswer | None:
        cluster.objects[ACCOUNT] = made({"metadata": {"name": "meshpki-detect"}}, uid="another")
        return None

    cluster.scripted[f"POST {ACCOUNT}/token"] = replaced
    climb(cluster, Question())
    assert list(cluster.objects) == [ACCOUNT]


STEPS = ["GET /version", "GET /api/v1", f"POST {ACCOUNTS}", f"POST {ACCOUNT}/token", "GET /openid/v1/jwks",
         "POST /apis/authentication.k8s.io/v1/tokenreviews", "GET /apis/certificates.k8s.io/v1"]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), RefusedError("no")])
def test_whatever_ends_a_run_nothing_is_left(step: str, stop: BaseException) -> None:
    cluster = FakeCluster()

    def ended(body: Mapping[str, object]) -> FakeAnswer:
        if step == f"POST {ACCOUNTS}":
            cluster.objects[ACCOUNT] = made(body)
        raise stop

    cluster.scripted[step] = ended
    if isinstance(stop, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            climb(cluster, Question())
    elif step == "GET /version":
        with pytest.raises(RefusedError):
            climb(cluster, Question())
    else:
        climb(cluster, Question())
    assert cluster.objects == {}


@pytest.fixture
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_until_the_tidying_up_is_done(number: signal.Signals) -> None:
    cluster = FakeCluster()
    seen: list[str] = []

    def delete(_body: Mapping[str, object]) -> FakeAnswer | None:
        signal.raise_signal(number)
        seen.append("not interrupted")
        return None

    cluster.scripted[f"DELETE {ACCOUNT}"] = delete
    with pytest.raises(KeyboardInterrupt), stoppable():
        climb(cluster, Question())
    assert seen == ["not interrupted"]
    assert cluster.objects == {}


@pytest.mark.usefixtures("_signals")
def test_a_signal_while_the_pod_is_removed_does_not_leave_the_account() -> None:
    pod = "/api/v1/namespaces/default/pods/meshpki-detect"
    cluster = FakeCluster(pod_status={"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]})

    def delete(_body: Mapping[str, object]) -> FakeAnswer | None:
        assert set(cluster.objects) == {pod, ACCOUNT}
        signal.raise_signal(signal.SIGINT)
        return None

    cluster.scripted[f"DELETE {pod}"] = delete
    with pytest.raises(KeyboardInterrupt):
        climb(cluster, Question(canary=Canary(seconds=0.0)))
    assert cluster.objects == {}


def removal_that_fails(cluster: FakeCluster, *signals: signal.Signals) -> None:
    """While the signals come."""

    def delete(_body: Mapping[str, object]) -> FakeAnswer:
        for number in signals:
            signal.raise_signal(number)
        raise away()

    cluster.scripted[f"DELETE {ACCOUNT}"] = delete


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_removal_fails_does_not_hide_what_is_left(number: signal.Signals) -> None:
    cluster = FakeCluster()
    removal_that_fails(cluster, number)
    with pytest.raises(LeftBehindError, match="could not be removed") as told, stoppable():
        climb(cluster, Question())
    assert told.value.ladder is None
    assert list(cluster.objects) == [ACCOUNT]


@pytest.mark.usefixtures("_signals")
def test_ctrl_c_and_another_while_the_removal_fails() -> None:
    cluster = FakeCluster(scripted={"GET /openid/v1/jwks": KeyboardInterrupt()})
    removal_that_fails(cluster, signal.SIGINT, signal.SIGTERM, signal.SIGINT)
    with pytest.raises(LeftBehindError, match="could not be removed"), stoppable():
        climb(cluster, Question())
    assert cluster.requests.count(f"DELETE {ACCOUNT}") == 1, "whoever presses Ctrl-C is not made to wait twice"


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_just_before_the_removal(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At an instant that no signal of a test can be sure to meet: before signals are held back."""
    before = iter([True] * times)

    @contextlib.contextmanager
    def too_late() -> Iterator[None]:
        if next(before, False):
            raise KeyboardInterrupt
        with uninterrupted():
            yield

    monkeypatch.setattr("meshpki.provision.cluster.climb.uninterrupted", too_late)
    cluster = FakeCluster()
    with pytest.raises(KeyboardInterrupt if times == 1 else LeftBehindError) as told:
        climb(cluster, Question())
    assert list(cluster.objects) == ([] if times == 1 else [ACCOUNT])
    assert times == 1 or "may be left" in str(told.value)


@pytest.mark.usefixtures("_signals")
def test_a_signal_that_comes_while_handlers_are_put_back_leaves_them_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put, calls = signal.signal, iter(range(9))

    def another_comes(number: signal.Signals, handler: Any) -> Any:  # Any: as signal.signal has it
        put(number, handler)
        if next(calls) == 3:  # three were set; this is the first that is put back
            raise KeyboardInterrupt

    monkeypatch.setattr(signal, "signal", another_comes)
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        pass


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_is_as_a_ctrl_c(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), stoppable():
        signal.raise_signal(number)


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_of_several_signals_the_first_one_stops(number: signal.Signals) -> None:
    """Whoever tidies up then is not hit, not even before he has begun."""
    tidied = False
    with pytest.raises(KeyboardInterrupt), stopped_once():
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGINT)
            with uninterrupted():
                signal.raise_signal(number)
            tidied = True
    assert tidied
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # as before


@pytest.mark.usefixtures("_signals")
def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable(), uninterrupted():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_no_signal_is_touched() -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            climb(FakeCluster(), Question())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []


@pytest.mark.parametrize("said", ["", "no date", "Thu, 99 Foo 2026 00:00:00 GMT"])
def test_a_server_that_does_not_tell_the_time_has_ours(said: str) -> None:
    left = answer(200, account("elsewhere.1.x", age=STALE_SECONDS + 60))
    cluster = FakeCluster(objects={ACCOUNT: account("elsewhere.1.x", age=STALE_SECONDS + 60)})
    cluster.scripted[f"GET {ACCOUNT}"] = FakeAnswer(200, left.body, {"Date": said})
    assert climb(cluster, Question())[Rung.TOKEN].good


def test_an_age_is_by_the_servers_clock() -> None:
    """A server whose clock is far behind ours would else have its fresh accounts removed."""
    behind = "Thu, 01 Jan 2015 00:05:00 GMT"
    fresh = account("elsewhere.1.x")
    metadata = fresh["metadata"]
    assert isinstance(metadata, dict)
    metadata["creationTimestamp"] = "2015-01-01T00:04:59Z"
    cluster = FakeCluster(objects={ACCOUNT: fresh})
    cluster.scripted[f"GET {ACCOUNT}"] = FakeAnswer(200, answer(200, fresh).body, {"date": behind})
    assert climb(cluster, Question())[Rung.TOKEN].reason is Reason.ACCOUNT_IN_USE


def test_objects_without_a_time_are_new() -> None:
    found = throw_away.read_standing(
        {"metadata": {"uid": "u", "labels": dict(LABELS), "annotations": {MARK: "m"}}}, 9.0
    )
    assert found == Standing("u", ours=True, mark="m", age_seconds=0.0)
    assert throw_away.read_standing({"metadata": {}}, 9.0) is None
