"""Snapshots whose certificates verify, made as the agent makes them: for clients that look into what they get."""

from __future__ import annotations

import time

from meshpki.agent.rotation.acceptance import accept
from meshpki.agent.rotation.key_request import KeyType, new_key_request
from meshpki.agent.rotation.snapshot import Snapshot
from support.fake_ca import SPIFFE_ID, FakeAuthority


def real_snapshot(
    authority: FakeAuthority, *, kind: KeyType = KeyType.EC_P256, uri: str = SPIFFE_ID, ends: float = 3600
) -> Snapshot:
    """A new key and certificate of that authority; it `ends` so many seconds from now."""
    request = new_key_request(kind)
    answer = authority.answer(request.csr_pem, ends=ends, uri=uri)
    return accept(answer, request, roots_pem=authority.roots_pem, now=time.time())
