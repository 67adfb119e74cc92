"""Values as an operator writes them in a configuration file: durations and addresses."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, NewType

from meshpki.errors import InvalidValueError

Seconds = NewType("Seconds", int)
DAY: Final = Seconds(86_400)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)
_HOST: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?", re.ASCII)
_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+)):([0-9]{1,5})", re.ASCII)


def parse_duration(text: object) -> Seconds:
    """Read `30s`, `2m`, `24h` or `7d`. Raises InvalidValueError."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidValueError(f"duration {str(text)[:40]!r}", wanted="a whole number and s, m, h or d: 30s, 2m, 24h")
    return Seconds(int(match[1]) * _UNITS[match[2]])


@dataclass(frozen=True, slots=True)
class HostPort:
    """Where to listen. Port 0 asks the operating system for a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: object) -> HostPort:
        """Read `host:port` or `[ipv6]:port`. Raises InvalidValueError."""
        match = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
        if match is None or int(match[3]) > 65535 or not _is_host(match[1], match[2]):
            raise InvalidValueError(
                f"address {str(text)[:80]!r}", wanted="HOST:PORT, for example 127.0.0.1:15012 or '[::1]:15012'"
            )
        return cls(match[1] or match[2], int(match[3]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_host(ipv6: str | None, host: str | None) -> bool:
    if ipv6 is None:
        return bool(_HOST.fullmatch(host or ""))
    try:
        ipaddress.IPv6Address(ipv6)
    except ValueError:
        return False
    return True
