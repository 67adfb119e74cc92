"""pkilint on every certificate that a running server gives away, and on the one that it shows."""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from meshpki.ca.attestation import read_attested_at
from meshpki.ca.config import ProfileSettings
from meshpki.ca.keys import KeyKind
from support import ca_server, renewal
from support.authority import key, make_authority, make_csr
from support.ca_server import SERVER_NAME, RunningCa
from support.linted import findings
from support.renewal import obtain, renew

if TYPE_CHECKING:
    from pathlib import Path

KINDS = [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048, KeyKind.RSA_3072, KeyKind.RSA_4096]


def judged(chain: list[str] | tuple[str, ...]) -> list[str]:
    return [found for each in chain for found in findings(x509.load_pem_x509_certificate(each.encode()))]


def shown(ca: RunningCa, address: str) -> x509.Certificate:
    """The leaf of a listener."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.authority.root_pem.decode())
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


@pytest.mark.parametrize("signing", [KeyKind.EC_P256, KeyKind.RSA_2048])
def test_against_tokens(tmp_path: Path, signing: KeyKind) -> None:
    profile = ProfileSettings(clamp_to_token=True)
    with ca_server.running(tmp_path, authority=make_authority(key_type=signing), profile=profile) as ca:
        for kind in KINDS:
            assert judged(ca.client.sign(ca.maker.token(now=time.time()), make_csr(key(kind)))) == []
        assert judged(ca.client.sign(ca.maker.token(now=time.time(), namespace="n" * 63, name="s" * 253), ttl=60)) == []
        assert findings(shown(ca, ca.server.address)) == []


@pytest.mark.parametrize("signing", [KeyKind.EC_P256, KeyKind.RSA_2048])
def test_where_certificates_are_renewed_by_themselves(tmp_path: Path, signing: KeyKind) -> None:
    with renewal.running(tmp_path, authority=make_authority(key_type=signing)) as ca:
        first = obtain(ca)
        for held in (first, renew(ca, first)):
            assert read_attested_at(x509.load_pem_x509_certificate(held.chain[0].encode()).extensions)
            assert judged(held.chain) == []
        for kind in KINDS:
            assert judged(ca.client.sign(ca.maker.token(now=time.time()), make_csr(key(kind)))) == []
        assert findings(shown(ca, ca.server.address)) == []
