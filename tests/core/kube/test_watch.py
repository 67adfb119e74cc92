"""A watch through everything that happens to connections: it always ends in what the server has."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from meshpki.kube import watch as room
from meshpki.kube.access import Access
from meshpki.kube.client import KubeClient
from meshpki.kube.credentials import TokenText
from meshpki.kube.errors import (
    KubeAnswerError,
    KubeForbiddenError,
    KubeGoneError,
    KubeServerError,
    KubeUnreachableError,
    Unreachable,
)
from support.fake_kube import Call, FakeKube, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meshpki.kube.observed import Observed
    from meshpki.kube.watch import Watch

PODS = "/api/v1/pods"


def pod(name: str, version: int) -> dict[str, object]:
    return {"metadata": {"name": name, "namespace": "n", "resourceVersion": str(version)}}


class Cluster:
    """Lists what it is told to; a watch is what the script of that turn says."""

    def __init__(self, kube: FakeKube) -> None:
        self.kube = kube
        self.listing: list[dict[str, object]] = [pod("a", 1)]
        self.version = "10"
        self.watches: list[object] = []
        self.asked: list[dict[str, str]] = []
        kube.script = self.script

    def script(self, call: Call) -> None:
        query = {key: values[0] for key, values in parse_qs(urlsplit(call.path).query).items()}
        if "watch" not in query:
            call.answer(200, {"items": self.listing, "metadata": {"resourceVersion": self.version}})
            return
        self.asked.append(query)
        turn = self.watches.pop(0) if self.watches else Call.wait
        assert callable(turn)
        turn(call)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with serving(tmp_path) as kube:
        yield Cluster(kube)


@pytest.fixture
def watch(cluster: Cluster) -> Iterator[Watch]:
    access = Access(cluster.kube.url, cluster.kube.root.read_bytes(), TokenText("t"))
    with KubeClient(access, timeout_seconds=60) as client, client.watch(PODS, query={"labelSelector": "x"}) as made:
        yield made


def names(observed: Observed | None) -> set[str]:
    assert observed is not None
    return {name for _, name in observed.objects}


def stream(*events: tuple[str, object], end: bool = True) -> object:
    def turn(call: Call) -> None:
        call.stream()
        for kind, item in events:
            call.event(kind, item)
        call.end() if end else call.wait()

    return turn


def test_the_first_poll_is_the_collection_itself_even_an_empty_one(cluster: Cluster, watch: Watch) -> None:
    cluster.listing = []
    first = watch.poll(60)
    assert first is not None
    assert (dict(first.objects), first.changed, first.resource_version) == ({}, frozenset(), "10")
    assert not cluster.asked


def test_events_come_one_after_the_other_over_one_connection(cluster: Cluster, watch: Watch) -> None:
    def turn(call: Call) -> None:
        call.stream()
        call.event("ADDED", pod("b", 11))
        assert ready.wait(60)
        call.event("DELETED", pod("a", 12))
        call.wait()

    ready = threading.Event()
    cluster.watches = [turn]
    assert names(watch.poll(60)) == {"a"}
    second = watch.poll(60)
    assert names(second) == {"a", "b"}
    assert second is not None
    assert second.changed == {("n", "b")}
    ready.set()
    assert names(watch.poll(60)) == {"b"}
    assert watch.observed.resource_version == "12"
    assert cluster.asked == [
        {
            "labelSelector": "x",
            "watch": "1",
            "resourceVersion": "10",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": "300",
        }
    ]


def test_nothing_new_is_none_in_the_time_that_was_given(cluster: Cluster, watch: Watch) -> None:
    cluster.watches = [stream(end=False), stream(end=False)]
    watch.poll(60)
    began = time.monotonic()
    assert watch.poll(0.3) is None
    assert 0.2 < time.monotonic() - began < 20
    assert watch.poll(0.1) is None


def test_after_a_quiet_time_a_watch_goes_on_where_it_was(cluster: Cluster, watch: Watch) -> None:
    cluster.watches = [stream(("ADDED", pod("b", 11)), end=False), stream(("ADDED", pod("c", 12)), end=False)]
    watch.poll(60)
    assert names(watch.poll(60)) == {"a", "b"}
    assert watch.poll(0.2) is None
    assert names(watch.poll(60)) == {"a", "b", "c"}
    assert [asked["resourceVersion"] for asked in cluster.asked] == ["10", "11"]


def test_a_bookmark_moves_the_place_and_is_no_change(cluster: Cluster, watch: Watch) -> None:
    bookmark = {"metadata": {"resourceVersion": "50"}}
    cluster.watches = [stream(("BOOKMARK", bookmark)), stream(("ADDED", pod("b", 51)), end=False)]
    watch.poll(60)
    assert names(watch.poll(60)) == {"a", "b"}
    assert [asked["resourceVersion"] for asked in cluster.asked] == ["10", "50"]


@pytest.mark.parametrize("cut", [Call.end, Call.hang_up])
def test_a_connection_that_ends_or_is_cut_is_resumed(cut: object, cluster: Cluster, watch: Watch) -> None:
    def turn(call: Call) -> None:
        call.stream()
        call.event("ADDED", pod("b", 11))
        assert callable(cut)
        cut(call)

    cluster.watches = [turn, stream(("ADDED", pod("c", 12)), end=False)]
    watch.poll(60)
    assert names(watch.poll(60)) == {"a", "b"}
    assert names(watch.poll(60)) == {"a", "b", "c"}
    assert [asked["resourceVersion"] for asked in cluster.asked] == ["10", "11"]


def test_half_an_event_does_not_count_and_comes_again_whole(cluster: Cluster, watch: Watch) -> None:
    def half(call: Call) -> None:
        call.stream()
        call.chunk(b'{"type": "ADDED", "object": {"metadata": {"name": "b", "resourc')
        assert not call.owner.finished.wait(1.1)
        call.hang_up()

    cluster.watches = [half, stream(("ADDED", pod("b", 11)), end=False)]
    watch.poll(60)
    assert names(watch.poll(60)) == {"a", "b"}
    assert [asked["resourceVersion"] for asked in cluster.asked] == ["10", "10"]


def test_an_event_in_many_pieces_is_one(cluster: Cluster, watch: Watch) -> None:
    def pieces(call: Call) -> None:
        call.stream()
        for byte in b'{"type": "ADDED", "object": {"metadata": {"name": "b", "namespace": "n"}}}\n\n':
            call.chunk(bytes([byte]))
        call.wait()

    cluster.watches = [pieces]
    watch.poll(60)
    assert names(watch.poll(60)) == {"a", "b"}


def gone_event(call: Call) -> None:
    call.stream()
    call.event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version: 10 (99)"})
    call.end()


def gone_status(call: Call) -> None:
    call.status(410, "too old")


@pytest.mark.parametrize("gone", [gone_event, gone_status])
def test_a_lost_place_is_listed_again(gone: object, cluster: Cluster, watch: Watch) -> None:
    """What was deleted meanwhile is noticed, though nobody ever said so."""
    watch.poll(60)
    cluster.watches = [gone, stream(("ADDED", pod("d", 100)), end=False)]
    cluster.listing, cluster.version = [pod("b", 50), pod("c", 60)], "99"
    found = watch.poll(60)
    assert names(found) == {"b", "c"}
    assert found is not None
    assert found.changed == {("n", "a"), ("n", "b"), ("n", "c")}
    assert names(watch.poll(60)) == {"b", "c", "d"}
    assert [asked["resourceVersion"] for asked in cluster.asked] == ["10", "99"]


def test_a_lost_place_where_nothing_changed_is_no_change(cluster: Cluster, watch: Watch) -> None:
    watch.poll(60)
    cluster.watches = [gone_event]
    assert watch.poll(2) is None


def test_what_is_known_survives_errors(cluster: Cluster, watch: Watch) -> None:
    watch.poll(60)
    cluster.watches = [
        lambda call: call.status(500, "etcd is away"),
        lambda call: call.status(403, 'User "me" cannot watch'),
        stream(("ERROR", {"kind": "Status", "code": 500, "message": "storage"})),
        stream(("ADDED", pod("b", 11)), end=False),
    ]
    with pytest.raises(KubeServerError, match=r"^watch pods at"):
        watch.poll(60)
    with pytest.raises(KubeForbiddenError, match=r'verbs: \["watch"\]'):
        watch.poll(60)
    with pytest.raises(KubeServerError):
        watch.poll(60)
    assert names(watch.observed) == {"a"}
    assert names(watch.poll(60)) == {"a", "b"}
    assert {asked["resourceVersion"] for asked in cluster.asked} == {"10"}


def test_a_server_that_ends_every_watch_at_once_is_not_stormed(cluster: Cluster, watch: Watch) -> None:
    watch.poll(60)
    cluster.watches = [stream(), stream(), stream()]
    with pytest.raises(KubeUnreachableError, match="ends every watch of /api/v1/pods at once") as caught:
        watch.poll(60)
    assert caught.value.why is Unreachable.CUT
    assert len(cluster.asked) == 3


def test_a_server_that_never_answers_is_an_error_not_silence(cluster: Cluster, tmp_path: Path) -> None:
    access = Access(cluster.kube.url, cluster.kube.root.read_bytes(), TokenText("t"))
    with KubeClient(access, timeout_seconds=0.5) as client, client.watch(PODS) as watch:
        for _ in range(20):  # the list itself may be late on a machine that stands still
            with contextlib.suppress(KubeUnreachableError):
                watch.poll(60)
                break
        cluster.watches = [Call.wait]
        with pytest.raises(KubeUnreachableError) as caught:
            watch.poll(60)
        assert caught.value.why is Unreachable.TIMEOUT


def test_what_cannot_be_read_is_listed_again(cluster: Cluster, watch: Watch) -> None:
    def garbage(call: Call) -> None:
        call.stream()
        call.chunk(b"<html>\n")
        call.wait()

    watch.poll(60)
    cluster.watches = [garbage]
    with pytest.raises(KubeAnswerError, match="an event of a watch is no JSON object"):
        watch.poll(60)
    cluster.listing = [pod("z", 1)]
    assert names(watch.poll(60)) == {"z"}


def test_an_event_that_is_too_large_is_an_error(
    cluster: Cluster, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_BODY_BYTES", 1000)
    watch.poll(60)
    cluster.watches = [stream(("ADDED", pod("big", 11) | {"data": "x" * 200_000}), end=False)]
    with pytest.raises(KubeAnswerError, match="too large"):
        watch.poll(60)


def test_a_list_that_is_always_gone_is_an_error(cluster: Cluster, watch: Watch) -> None:
    cluster.kube.script = gone_status
    with pytest.raises(KubeGoneError):
        watch.poll(60)
    cluster.kube.script = cluster.script
    assert names(watch.poll(60)) == {"a"}
