"""What each part of one certificate costs by itself, in a loop in this process: where the time over the wire goes."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.primitives import cpu_us
from meshpki.ca.audit.record import AuditRecord, RecordKind, chain_line, encode_fields, second_stamp, timestamp
from meshpki.ca.authorize import authorize
from meshpki.ca.csr import read_csr
from meshpki.ca.issue import issue
from meshpki.ca.prepare import prepare
from meshpki.ca.serials import draw
from meshpki.tokens.bearer import extract
from meshpki.tokens.jwks import FileKeySource
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.trusted_cluster import TrustedCluster
from meshpki.tokens.verify import TokenVerifier
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from support.authority import key, make_authority, make_csr
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshpki.ca.prepare import Prepared


TOKENS = 500


class Parts:
    """The steps of one certificate, each callable by itself."""

    def __init__(self) -> None:
        maker, self._now = TokenMaker(), time.time()
        with tempfile.TemporaryDirectory() as directory:
            jwks = Path(directory) / "jwks.json"
            jwks.write_bytes(maker.jwks())
            keys = FileKeySource(jwks)
            keys.keys(None, self._now)
        verifier = TokenVerifier([TrustedCluster(ClusterPolicy("bench", maker.issuer), keys)])
        authority = make_authority()
        tokens = itertools.cycle([maker.token(now=self._now, jti=f"part-{number}") for number in range(TOKENS)])
        requests = itertools.cycle([make_csr(key(number=number)) for number in range(16)])
        caller, csr = verifier.verify(next(tokens), self._now), read_csr(next(requests))
        identity = authorize(caller, authority.profile, None)
        header = "Bearer " + next(tokens).decode()
        wire = IstioCertificateRequest(csr=next(requests), validity_duration=3600).SerializeToString()

        def prepared() -> Prepared:
            return prepare(
                authority.issuer,
                authority.profile,
                identity,
                csr,
                requested_seconds=3600,
                token_expires_at=caller.expires_at,
                now=self._now,
                serial=draw(),
            )

        issued = issue(prepared())
        record = encode_fields(self._record(issued.spiffe_id, issued.not_after))
        self.steps: Mapping[str, Callable[[], object]] = {
            "token: header, parse, RSA verify, policy": lambda: (
                extract([header]),
                verifier.verify(next(tokens), self._now),
            ),
            "CSR: PEM, DER, EC verify": lambda: read_csr(next(requests)),
            "identity": lambda: authorize(caller, authority.profile, None),
            "prepare and lint": prepared,
            "prepare, lint, sign, PEM": lambda: issue(prepared()),
            "messages: decode, encode": lambda: (
                IstioCertificateRequest.FromString(wire).csr,
                IstioCertificateResponse(cert_chain=issued.cert_chain).SerializeToString(),
            ),
            "audit record: build, chain": lambda: chain_line(
                record[:32], 7, encode_fields(self._record(issued.spiffe_id, issued.not_after))
            ),
        }

    def _record(self, spiffe_id: str, not_after: int) -> AuditRecord:
        return AuditRecord(
            kind=RecordKind.ISSUED,
            time=timestamp(self._now),
            request_id="0123abcd-77",
            cluster="bench",
            namespace="default",
            service_account="web",
            service_account_uid="5a4b3c2d-1e0f-4a9b-8c7d-6e5f4a3b2c1d",
            pod="web-7d4b9c6f5-x2x9k",
            pod_uid="0b0e4f3a-8f1e-4a57-9b6e-3d2c1b0a9f8e",
            node="node-a",
            jti="c2b1a0f9-e8d7-4c6b-a5f4-e3d2c1b0a9f8",
            serial="c765b4cea0d12485ff14ad151703774a",
            spiffe_id=spiffe_id,
            not_after=second_stamp(not_after),
            issuer_key_id="8be539b46dbb0a6bfdd0b03e19e7d71825c8bd0d",
            peer="ipv4:127.0.0.1:53304",
        )

    def round(self, times: int) -> dict[str, float]:
        """CPU microseconds of each step."""
        return {name: cpu_us(step, times) for name, step in self.steps.items()}
