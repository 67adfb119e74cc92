"""How the gRPC server behaves on the wire: small messages, short patience, pings as istio's clients send them."""

from __future__ import annotations

from typing import Final

MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_METADATA_BYTES: Final = 16 * 1024
HANDSHAKE_MILLISECONDS: Final = 5_000
"""Default is 120 s: a connection that says nothing would be kept for two minutes."""

OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not half of the calls
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Else a window grows with every round trip, up to 8 MiB for each call, while its credential is judged.
    ("grpc.http2.bdp_probe", 0),
    # One hard limit: between a soft and a hard one, headers are refused by chance.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MILLISECONDS),
    ("grpc.max_concurrent_streams", 128),
    # Istio's own server: a ping every 30 s, 10 s to answer, and clients may ping every 15 s (pkg/keepalive). The
    # library's default forbids more than one in 5 minutes, and ends connections over it.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # A connection without a call is closed, with notice: clients open one when they need it. Renewals are hours apart.
    ("grpc.max_connection_idle_ms", 120_000),
)


def connections(most: int) -> tuple[str, int]:
    """The option that bounds how many connections a port has, those in their handshake too; one more is closed."""
    return "grpc.max_allowed_incoming_connections", most
