"""What agents say of their roots, kept in memory: the last word of each, bounded in number, room and time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.ca.server import bundle_reports
from meshpki.ca.server.bundle_reports import (
    MOST_DIGESTS_SHOWN,
    OTHERS,
    BundleReport,
    BundleReports,
    Reporter,
    ReportsFullError,
)
from meshpki.identity import ServiceAccountRef

WEB, API = ServiceAccountRef("default", "web"), ServiceAccountRef("default", "api")


def reporter(instance: str = "pod:1", account: ServiceAccountRef = WEB, cluster: str = "east") -> Reporter:
    return Reporter(cluster, account, instance)


def report(digest: str = "a", at: float = 0, lasts: float = 100) -> BundleReport:
    return BundleReport(digest, sequence=1, roots=1, at=at, expires_at=at + lasts)


def test_the_last_word_of_each_counts() -> None:
    reports = BundleReports()
    reports.put(reporter("pod:1"), report("a"))
    reports.put(reporter("pod:1"), report("b", at=1))
    reports.put(reporter("pod:2"), report("a"))
    assert reports.counts(2) == {"a": 1, "b": 1}
    assert [(each.instance, said.digest) for each, said in reports.listing(2)] == [("pod:1", "b"), ("pod:2", "a")]


def test_clusters_and_accounts_are_told_apart() -> None:
    reports = BundleReports()
    for each in (reporter(), reporter(cluster="west"), reporter(account=API), reporter(cluster="")):
        reports.put(each, report())
    assert reports.counts(1) == {"a": 4}
    assert [(each.cluster, each.service_account.name) for each, _ in reports.listing(1)] == [
        ("", "web"),
        ("east", "api"),
        ("east", "web"),
        ("west", "web"),
    ]


def test_whoever_lists_them_holds_up_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports come in the thread that takes all calls."""
    reports, held = BundleReports(), list[bool]()
    reports.put(reporter(), report())

    def build(*parts: Any) -> Reporter:  # Any: what a Reporter is made of
        held.append(reports._lock.locked())
        return Reporter(*parts)

    monkeypatch.setattr(bundle_reports, "Reporter", build)
    assert len(reports.listing(1)) == 1
    assert held == [False]


def test_a_report_expires_and_is_forgotten() -> None:
    reports = BundleReports(most=1)
    reports.put(reporter(), report(lasts=10))
    assert reports.counts(9.9) == {"a": 1}
    assert reports.counts(10) == {}
    assert reports.listing(10) == []
    reports.put(reporter("pod:2"), report(at=11))
    assert reports.counts(12) == {"a": 1}


def test_when_it_is_full_known_ones_go_on_and_new_ones_wait_for_room() -> None:
    reports = BundleReports(most=2)
    reports.put(reporter("pod:1"), report(lasts=10))
    reports.put(reporter("pod:2"), report(lasts=50))
    with pytest.raises(ReportsFullError):
        reports.put(reporter("pod:3", API), report())
    reports.put(reporter("pod:1"), report("b", lasts=10))
    assert reports.counts(1) == {"a": 1, "b": 1}
    reports.put(reporter("pod:3", API), report("c", at=11))
    assert reports.counts(11) == {"a": 1, "c": 1}


def test_one_account_drives_out_its_own_oldest_and_nobody_elses() -> None:
    reports = BundleReports(most=4, most_of_one_account=2)
    reports.put(reporter("pod:x", API), report("kept"))
    for number in range(20):
        reports.put(reporter(f"serial:{number}"), report(at=number))
    assert reports.counts(20) == {"kept": 1, "a": 2}
    assert [each.instance for each, _ in reports.listing(20) if each.service_account == WEB] == [
        "serial:18",
        "serial:19",
    ]


def test_the_oldest_is_the_one_that_was_silent_longest() -> None:
    reports = BundleReports(most_of_one_account=2)
    for instance in ("pod:1", "pod:2", "pod:1", "pod:3"):
        reports.put(reporter(instance), report())
    assert [each.instance for each, _ in reports.listing(1)] == ["pod:1", "pod:3"]


def test_digests_of_callers_make_no_metrics_without_end() -> None:
    reports = BundleReports()
    for number in range(3):
        reports.put(reporter(f"pod:{number}"), report("common"))
    for number in range(100):
        reports.put(reporter(f"serial:{number}"), report(f"digest-{number}"))
    counts = reports.counts(1)
    assert len(counts) == MOST_DIGESTS_SHOWN + 1
    assert counts["common"] == 3
    assert counts[OTHERS] == 100 - (MOST_DIGESTS_SHOWN - 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([WEB, API]), st.integers(0, 6), st.sampled_from("abc"), st.integers(1, 8), st.integers(0, 3)
        ),
        max_size=60,
    )
)
def test_any_history_keeps_the_bounds_and_counts_what_it_lists(
    history: list[tuple[ServiceAccountRef, int, str, int, int]],
) -> None:
    reports, now = BundleReports(most=6, most_of_one_account=4), 0
    for account, instance, digest, lasts, passes in history:
        now += passes
        try:
            reports.put(reporter(str(instance), account), report(digest, at=now, lasts=lasts))
        except ReportsFullError:
            assert len(reports.listing(now)) == 6
        listed = reports.listing(now)
        assert len(listed) <= 6
        assert all(said.expires_at > now for _, said in listed)
        assert max(Counter(each.service_account for each, _ in listed).values(), default=0) <= 4
        assert reports.counts(now) == dict(Counter(said.digest for _, said in listed))
