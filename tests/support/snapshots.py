"""Snapshots for tests that need no certificate that verifies."""

from __future__ import annotations

from meshpki.agent.rotation.snapshot import Snapshot
from meshpki.identity import SpiffeId

SPIFFE_ID = SpiffeId.parse("spiffe://mesh.test/ns/default/sa/web")


def snapshot(serial: int = 1, *, begins: int = 0, ends: int = 3600, bundle: bytes = b"roots") -> Snapshot:
    """Number `serial`, with contents that name it, so that parts of two snapshots are told apart."""
    return Snapshot(
        spiffe_id=SPIFFE_ID,
        serial=serial,
        not_before=begins,
        not_after=ends,
        chain_pem=b"chain %d" % serial,
        bundle_pem=bundle,
        key_pem=b"key %d" % serial,
    )
