"""h2 with less memory is h2 still: the same settings, and bounds where it has none."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
from h2.events import RequestReceived
from h2.settings import SettingCodes, Settings
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from meshpki.agent.socket.http2.limits import Limits
from meshpki.agent.socket.http2.slim import DEFAULTS, SlimConnection, SlimEncoder, SlimSettings
from support.http2 import ACK, END_HEADERS, HEADERS, PREFACE, SETTINGS, frame

LIMITS = Limits(message=1000, headers=100, block=20_000)
FLAGS = {SettingCodes.ENABLE_PUSH, SettingCodes.ENABLE_CONNECT_PROTOCOL}
CODES = st.sampled_from([code for code in SettingCodes if code not in FLAGS])
VALUES = st.integers(16_384, 2**24 - 1)


@given(st.lists(st.dictionaries(CODES, VALUES, max_size=3), max_size=6))
def test_it_keeps_what_h2_s_own_settings_keep(frames: list[dict[SettingCodes | int, int]]) -> None:
    """Each frame is acknowledged at once, as h2 does with those of the other side."""
    ours, theirs = SlimSettings(DEFAULTS, client=True), Settings(client=True)
    for values in frames:
        for settings in (ours, theirs):
            settings.update(values)
        mine, other = ours.acknowledge(), theirs.acknowledge()
        assert {key: (one.original_value, one.new_value) for key, one in mine.items()} == {
            key: (one.original_value, one.new_value) for key, one in other.items()
        }
        assert dict(ours) == dict(theirs)
    assert ours.max_frame_size == theirs.max_frame_size
    assert ours.max_concurrent_streams == theirs.max_concurrent_streams
    assert len(ours) == len(theirs)


def test_settings_that_nobody_knows_take_no_memory() -> None:
    settings = SlimSettings(DEFAULTS, client=True)
    for code in range(1000, 5000):
        settings[code] = 1
    assert settings.acknowledge() == {}
    assert len(settings) == len(DEFAULTS)


def test_what_it_says_of_itself() -> None:
    connection = SlimConnection(LIMITS)
    said = connection.local_settings
    assert said[SettingCodes.HEADER_TABLE_SIZE] == 0
    assert said[SettingCodes.MAX_HEADER_LIST_SIZE] == LIMITS.headers
    assert said[SettingCodes.MAX_CONCURRENT_STREAMS] == LIMITS.streams
    assert connection.decoder.max_header_list_size == LIMITS.block


@given(st.lists(st.sampled_from([0, 100, 4096, 65_536, 2**32 - 1]), max_size=8), st.booleans())
def test_of_sizes_of_a_table_the_least_and_the_last_are_said(sizes: list[int], spoken: bool) -> None:
    """What the client decodes by is what it allowed, also when it allowed less in between."""
    encoder, decoder = SlimEncoder(), Decoder()
    headers = [(b":status", b"200"), (b"x", b"y")]
    if spoken:
        decoder.decode(encoder.encode(headers))
    for size in sizes:
        encoder.header_table_size = size
        decoder.max_allowed_table_size = size
    assert len(encoder.table_size_changes) <= 2
    changed = list(encoder.table_size_changes)
    assert [(name, value) for name, value in decoder.decode(encoder.encode(headers), raw=True)] == headers
    assert min([4096, *sizes]) == min([4096, *changed])
    assert encoder.table_size_changes == []


@pytest.mark.parametrize("heeds", [True, False])
def test_a_client_that_has_seen_our_settings_holds_nothing_here_or_is_understood_nevertheless(heeds: bool) -> None:
    """Old ones of Go, Rust and Swift go on with the table of the default."""
    connection, client = SlimConnection(LIMITS), Encoder()
    connection.initiate_connection()
    connection.receive_data(PREFACE + frame(SETTINGS) + frame(SETTINGS, ACK))
    client.header_table_size = 0 if heeds else 4096
    for stream in (1, 3):
        block = client.encode([(":method", "POST"), ("authorization", "Bearer canary")])
        (event,) = connection.receive_data(frame(HEADERS, END_HEADERS, block, stream))
        assert isinstance(event, RequestReceived)
        assert (b"authorization", b"Bearer canary") in event.headers
    assert bool(connection.decoder.header_table.dynamic_entries) == (not heeds)
    assert connection.decoder.header_table.maxsize <= 4096


def test_hpack_logs_no_header(caplog: pytest.LogCaptureFixture) -> None:
    connection = SlimConnection(LIMITS)
    with caplog.at_level(logging.DEBUG):
        connection.decoder.decode(connection.encoder.encode([("authorization", "Bearer canary")]))
    assert "canary" not in caplog.text


def test_a_connection_that_is_forgotten_waits_for_no_collector() -> None:
    gc.disable()
    try:
        connection = SlimConnection(LIMITS)
        seen = weakref.ref(connection)
        connection.forget()
        del connection
        assert seen() is None
    finally:
        gc.enable()
