"""How clusters are looked after: when, by whom, and what that says of a server."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from meshpki.ca.server.cluster_watch import ClusterWatch, Lookout
from meshpki.errors import UnavailableError
from meshpki.runtime.files import write_atomically
from meshpki.tokens.jwks import FileKeySource
from meshpki.tokens.keys import KeySet
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reviewer import TokenReviewer
from meshpki.tokens.trusted_cluster import TrustedCluster
from support.reviews import FakeApi, answer, confirming
from support.tokens import NOW, TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meshpki.tokens.keys import VerificationKey

MAKER, OTHER = TokenMaker(), TokenMaker(kid="other", slot=1)


class Keys:
    """Over the network, where there is something or not."""

    def __init__(self, *, there: bool = True) -> None:
        self.there = there
        self.asked = 0
        self._seen: Sequence[VerificationKey] | None = None

    def keys(self, kid: str | None, now: float) -> Sequence[VerificationKey]:
        assert (kid, now) == (None, NOW)
        self.asked += 1
        if not self.there:
            raise UnavailableError("away")
        self._seen = KeySet.from_jwks(MAKER.jwks()).keys
        return self._seen

    def at_once(self, kid: str | None, now: float) -> bool:
        return True

    def known(self) -> Sequence[VerificationKey] | None:
        return self._seen

    def may_be_behind(self, issued_at: float, now: float) -> bool:
        return False


def policy(name: str, issuer: str = "") -> ClusterPolicy:
    return ClusterPolicy(name, issuer or f"https://{name}.example")


def watch(cluster: TrustedCluster, *namesakes: TrustedCluster) -> ClusterWatch:
    return ClusterWatch(cluster, namesakes=namesakes, clock=lambda: NOW)


def test_when_an_api_server_is_looked_at() -> None:
    """Every few seconds until it works and after it failed, once a minute while it works."""
    api, now = FakeApi(lambda _: answer(b"", 403)), [0.0]
    reviewer = TokenReviewer(api, policy("prod"))
    looked = ClusterWatch(TrustedCluster(policy("prod"), None, reviewer), monotonic=lambda: now[0])
    assert looked.failures() == ("reviews: cluster prod: not asked yet",)
    seen = []
    for second in range(200):
        now[0] = float(second)
        if second == 10:
            api.behaviour = confirming(policy("prod"))
        if second == 100:
            api.behaviour = lambda _: answer(b"", 503)
        before = len(api.asked)
        looked.look()
        seen += [second] * (len(api.asked) - before)
        assert looked.ready == (second >= 10)
    assert seen[:6] == [0, 5, 10, 70, 130, 135]


def test_it_is_ready_when_all_that_judges_its_tokens_was_there_once() -> None:
    keys, api = Keys(there=False), FakeApi(lambda _: answer(b"", 403))
    looked = watch(TrustedCluster(policy("prod"), keys, TokenReviewer(api, policy("prod"))))
    looked.look()
    assert looked.failures() == (
        "keys: none yet for cluster prod",
        "reviews: cluster prod: the reviewer may not create tokenreviews.authentication.k8s.io",
    )
    keys.there = True
    looked.look()
    assert [line.partition(":")[0] for line in looked.failures()] == ["reviews"]
    assert not looked.ready
    api.behaviour = confirming(policy("prod"))
    looked._due = 0.0
    looked.look()
    assert (looked.ready, looked.failures()) == (True, ())
    keys.there = False
    looked.look()
    assert looked.ready, "what is away later keeps nobody away from this server"


def test_keys_are_looked_for_until_they_were_there_and_kept_fresh_for_those_of_one_issuer() -> None:
    alone, shared, other = Keys(), Keys(), Keys(there=False)
    clusters = [
        TrustedCluster(policy(name, "https://one.example"), keys) for name, keys in (("a", shared), ("b", other))
    ]
    looked = [
        watch(TrustedCluster(policy("c"), alone)),
        watch(clusters[0], clusters[1]),
        watch(clusters[1], clusters[0]),
    ]
    for _ in range(5):
        for each in looked:
            each.look()
    assert (alone.asked, shared.asked, other.asked) == (1, 5, 5)
    assert [each.ready for each in looked] == [True, False, False], "without the keys of both neither is believed"
    other.there = True
    looked[2].look()
    assert [each.ready for each in looked] == [True, True, True]


def test_what_is_missing_at_the_start_is_logged_once_and_again_when_it_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    keys = Keys(there=False)
    looked = watch(TrustedCluster(policy("prod"), keys))
    for there in (False, False, True, False):
        keys.there = there
        looked.look()
    assert [record.message for record in caplog.records] == [
        "no token of a cluster can be judged yet",
        "the tokens of a cluster can be judged",
    ]
    assert vars(caplog.records[0])["why"] == ["keys: none yet for cluster prod"]


def test_a_cluster_that_is_well_from_the_start_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    watch(TrustedCluster(policy("prod"), Keys())).look()
    assert caplog.records == []


def test_a_file_of_keys_is_looked_at_all_along_so_that_no_call_has_to(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(MAKER.jwks())
    keys = FileKeySource(path)
    lookout = Lookout([TrustedCluster(policy("prod"), keys)])
    assert not keys.at_once(None, time.time())
    lookout.start()
    try:
        until(lambda: keys.at_once(None, time.time()))
        assert [each.ready for each in lookout.clusters] == [True]
        write_atomically(path, OTHER.jwks())
        until(lambda: keys.at_once(OTHER.kid, time.time()))
    finally:
        lookout.stop()


class Hanging(Keys):
    """Says when it is asked, and answers when it is told to."""

    def __init__(self, came: threading.Barrier, go: threading.Event) -> None:
        super().__init__()
        self._came, self._go = came, go

    def keys(self, kid: str | None, now: float) -> Sequence[VerificationKey]:
        self._came.wait(60)
        self._go.wait(60)
        return super().keys(kid, now)


def test_clusters_that_hang_are_asked_at_once_and_the_end_waits_for_none_of_them() -> None:
    came, go = threading.Barrier(6), threading.Event()
    clusters = [TrustedCluster(policy(f"c{number}"), Hanging(came, go)) for number in range(5)]
    lookout = Lookout(clusters, lambda: NOW)
    lookout.start()
    came.wait(60)  # all five are under way
    lookout.end()
    lookout.stop()
    assert [each.ready for each in lookout.clusters] == [False] * 5, "none of them has answered"
    go.set()
    until(lambda: all(each.ready for each in lookout.clusters))


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it never came true")
