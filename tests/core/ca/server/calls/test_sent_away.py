"""Calls that were sent away: counted, and a line in the log now and then, not one for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.ca.server.calls.sent_away import SAY_AGAIN_SECONDS, SentAway

if TYPE_CHECKING:
    import pytest


def test_counts_and_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    sent_away = SentAway()
    sent_away.say(0)
    assert not caplog.records
    for _ in range(1000):
        sent_away.count("server_busy")
    sent_away.say(1)
    sent_away.count("server_busy")
    sent_away.count("request_late")
    for now in range(2, 11):
        sent_away.say(now)
    assert len(caplog.records) == 1
    assert vars(caplog.records[0])["server_busy"] == 1000
    sent_away.say(1 + SAY_AGAIN_SECONDS)
    assert len(caplog.records) == 2
    assert (vars(caplog.records[1])["server_busy"], vars(caplog.records[1])["request_late"]) == (1, 1)
    sent_away.say(100)
    assert len(caplog.records) == 2
    assert sent_away.counts() == {"server_busy": 1001, "request_late": 1}
