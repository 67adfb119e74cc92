"""Values as an operator writes them in a configuration file: durations, addresses, YAML without traps."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, NewType

import yaml

from meshpki.errors import InvalidValueError, UsageError

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


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses what can be read in two ways (a key given twice) or grows (an alias)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(problem="an alias", problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {str(key)[:80]!r} " + ("twice" if key in seen else "that is no text"),
                    problem_mark=key_node.start_mark,
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_yaml(content: bytes, name: str) -> object:
    """Read one YAML document: no aliases, no key twice, text keys only. Raises UsageError that names the place."""
    try:
        return yaml.load(content, Loader=_StrictLoader)  # noqa: S506  # a SafeLoader made stricter
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}, line {mark.line + 1}, column {mark.column + 1}" if mark else name
        raise UsageError(f"{where}: {error.problem}", wanted="YAML, every key once, no aliases") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"{name} cannot be read as YAML", wanted="one YAML document in UTF-8") from error
