"""TLS of the gRPC server: its own leaf, asked for at every handshake, so that a renewal drops no connection."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import grpc

from meshpki.ca.audit.record import AuditRecord, RecordKind, second_stamp, timestamp
from meshpki.ca.server.serving_certificate import ServingCertificate
from meshpki.errors import MeshpkiError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.ca.audit.log import AuditLog
    from meshpki.ca.issue import Issued
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.server.serving_certificate import ServingPair

_LOG = logging.getLogger(__name__)


class ServerTls:
    """Keeps grpcio's credentials on the serving certificate of now. Every such certificate is in the audit log."""

    def __init__(self, issuer: Issuer, names: Sequence[str], audit: AuditLog, clock: Callable[[], float]) -> None:
        """Raises MeshpkiError when there can be no certificate."""
        self._audit = audit
        self._clock = clock
        self._serving = ServingCertificate(issuer, names, record=self._record)
        self._pair = self._serving.pair(clock())

    @property
    def pair(self) -> ServingPair:
        """What is served to new connections."""
        return self._pair

    def credentials(self, client_roots: bytes | None = None) -> grpc.ServerCredentials:
        """Credentials that look for a newer pair at every handshake; TLS 1.2 and 1.3.

        With `client_roots` (PEM) a client has to show a certificate that leads to one of them; without, none is asked
        for. grpcio knows nothing in between (ADR 0009).
        """
        handed_over = pair = self._pair

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal handed_over
            pair = self._pair
            if pair is handed_over:
                return None
            handed_over = pair
            return _configuration(pair, client_roots)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(pair, client_roots),
            fetch,  # type: ignore[arg-type]  # None: as before
            require_client_authentication=client_roots is not None,
        )

    def renew(self) -> None:
        """Renew when it is due: beside the handshakes, which never wait for a signer. Keeps the old pair on failure."""
        try:
            pair = self._serving.pair(self._clock())
        except MeshpkiError as error:
            _LOG.error("there is no valid serving certificate", extra={"error": str(error)})
            return
        if pair is not self._pair:
            _LOG.info("serving certificate renewed", extra={"serial": f"{pair.serial:x}"})
            self._pair = pair

    def _record(self, issued: Issued) -> None:
        record = AuditRecord(
            kind=RecordKind.SERVING,
            time=timestamp(self._clock()),
            serial=f"{issued.serial:x}",
            not_after=second_stamp(issued.not_after),
            issuer_key_id=issued.issuer_key_id,
        )
        self._audit.append(record)


def _configuration(pair: ServingPair, client_roots: bytes | None) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key_pem, pair.chain_pem)], client_roots)
