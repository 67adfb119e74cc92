"""ca.yaml: the CA's configuration for a local installation, as bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from meshpki_local.settings import AUDIENCE, CLUSTER, ISSUER, SERVER_NAME, renewal_bound

if TYPE_CHECKING:
    from meshpki_local.ports import Ports
    from meshpki_local.settings import Settings

HEADER: Final = (
    "# Written by `meshpki provision --platform local`, and written again by it: change its options, not this.\n"
)


def render(settings: Settings, ports: Ports) -> bytes:
    """The file's bytes. Relative paths in it are relative to it. Every text is quoted: a trust domain may be `1.5`."""
    life, bound = f"{settings.certificate_ttl}s", renewal_bound(settings)
    renewal = (f"renewal: {{listen: {ports.renewal_address}, max_without_token: {bound}s}}\n",) if bound else ()
    lines = (
        HEADER,
        f"trust_domain: {json.dumps(settings.trust_domain)}\n",
        f"listen: {ports.grpc_address}\n",
        f"http: {ports.http_address}\n",
        f"server_names: [{SERVER_NAME}]\n",
        "issuer: {certificate: ca/issuer-cert.pem, key: ca/issuer-key.pem, root: ca/root-cert.pem}\n",
        "audit: audit/issuance.jsonl\n",
        f"profile: {{default_ttl: {life}, max_ttl: {life}}}\n",
        *renewal,
        "clusters:\n",
        f"  - name: {CLUSTER}\n",
        f"    issuer: {ISSUER}\n",
        f"    audiences: [{AUDIENCE}]\n",
        "    require_pod: true\n",
        "    jwks: {file: tokens/jwks.json}\n",
    )
    return "".join(lines).encode()


def is_ours(content: bytes) -> bool:
    """Whether provision wrote it, whatever was done to it since."""
    return content.startswith(HEADER.encode())
