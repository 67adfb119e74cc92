"""h2's connection, with what it keeps of each client cut down.

By itself h2 keeps 17 KiB for a connection, 11 of them in queues for settings that hold one number each, takes settings
of any name, holds streams that are over, and remembers 65,536 of them beside.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from h2.settings import ChangedSetting, SettingCodes, Settings
from hpack import Encoder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from h2.events import Event
    from hyperframe.frame import Frame, GoAwayFrame

    from meshpki.agent.socket.http2.limits import Limits

logging.getLogger("hpack").setLevel(logging.INFO)  # at debug level it logs every header, and so every token
_CONFIG: Final = H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_inbound_headers=False,  # h2 would end the connection; we refuse the call
    normalize_inbound_headers=False,
    validate_outbound_headers=False,  # they are ours, and the same each time
    normalize_outbound_headers=False,
)
_KNOWN: Final = frozenset(int(code) for code in SettingCodes)
DEFAULTS: Final[dict[SettingCodes | int, int]] = {
    SettingCodes.HEADER_TABLE_SIZE: 4096,
    SettingCodes.ENABLE_PUSH: 1,
    SettingCodes.INITIAL_WINDOW_SIZE: 65_535,
    SettingCodes.MAX_FRAME_SIZE: 16_384,
    SettingCodes.ENABLE_CONNECT_PROTOCOL: 0,
}
"""RFC 9113, section 6.5.2, and RFC 8441."""


class SlimSettings(Settings):
    """Settings as one map of those that HTTP/2 knows, with one change at a time: h2 acknowledges each at once."""

    def __init__(self, values: Mapping[SettingCodes | int, int], *, client: bool) -> None:
        self._client = client
        self._values: dict[SettingCodes | int, int] = dict(values)
        self._changes: dict[SettingCodes | int, int] | None = None

    def acknowledge(self) -> dict[SettingCodes | int, ChangedSetting]:
        """Let what was set become what is."""
        changes, self._changes = self._changes, None
        found: dict[SettingCodes | int, ChangedSetting] = {}
        for key, value in (changes or {}).items():
            found[key] = ChangedSetting(key, self._values.get(key), value)
            self._values[key] = value
        return found

    def __getitem__(self, key: SettingCodes | int) -> int:
        return self._values[key]

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        if key in _KNOWN:
            self._changes = {**(self._changes or {}), int(key): value}

    def __delitem__(self, key: SettingCodes | int) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[SettingCodes | int]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]  # as every map that changes


class SlimEncoder(Encoder):
    """Says before its next headers at most two new sizes of its table, the least and the last (RFC 7541, section 4.2).

    hpack's own keeps every one, and says none when the last is the one before it again.
    """

    @property
    def header_table_size(self) -> int:
        """Of what the client allows no more than it does by itself."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        size = min(value, DEFAULTS[SettingCodes.HEADER_TABLE_SIZE])
        if size != self.header_table.maxsize:
            least = min((size, *self.table_size_changes))
            self.header_table.maxsize = size
            self.table_size_changes = [size] if least == size else [least, size]


class SlimConnection(H2Connection):
    """The server's side of a connection that takes no more of a client than `limits` allow."""

    MAX_CLOSED_STREAMS = 128
    """Frames of these that were on their way are no fault of the client's."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(_CONFIG)
        # No table for their headers: a token in it would be held as long as the connection. Asked for and not insisted
        # upon, for some clients do not heed it (RFC 9113, section 4.3.1): theirs has the 4 KiB of the default.
        mine: dict[SettingCodes | int, int] = {
            SettingCodes.HEADER_TABLE_SIZE: 0,
            SettingCodes.MAX_CONCURRENT_STREAMS: limits.streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.headers,
        }
        self.local_settings = SlimSettings({**DEFAULTS, SettingCodes.ENABLE_PUSH: 0, **mine}, client=False)
        self.remote_settings = SlimSettings(DEFAULTS, client=True)
        self._wasted = 0
        self.encoder = SlimEncoder()
        self.decoder.max_header_list_size = limits.block

    @property
    def open_inbound_streams(self) -> int:
        """None, so that h2 allows one more: who knows them judges it. h2 would look at each of them each time to
        count them, and end the connection for one too many (RFC 9113, section 5.1.2: refuse that one).
        """
        return 0

    def wasted(self) -> int:
        """Say how many frames brought nothing since the last time: those of streams that are over or never were."""
        wasted, self._wasted = self._wasted, 0
        return wasted

    def _receive_frame(self, frame: Frame) -> list[Event]:
        found = super()._receive_frame(frame)
        self._wasted += not found
        return found

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        """Tell of it, and go on when it is nobody's fault: h2 by itself could send nothing any more."""
        if frame.error_code:
            return super()._receive_goaway_frame(frame)
        event = ConnectionTerminated()
        event.error_code = ErrorCodes.NO_ERROR
        return [], [event]

    def drop(self, stream: int) -> None:
        """Hold no more of a stream that is over than how it ended. By itself h2 holds all until another one begins."""
        if (over := self.streams.pop(stream, None)) is not None:
            self._closed_streams[stream] = over.closed_by

    def forget(self) -> None:
        """Be over. What leads from it back to itself would wait for the collector of cycles, with all it holds."""
        vars(self).clear()
