"""gRPC over HTTP/2 on a unix socket: a core of bytes and events over `h2`, and a thin shell of asyncio (ADR 0022)."""
