"""A certificate authority as people read it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meshpki_cli.durations import show_duration
from meshpki_cli.page import WARN, Cell

if TYPE_CHECKING:
    from meshpki.ca.description import CertificateDescription, MaterialDescription
    from meshpki_cli.page import Page


def show_material(page: Page, found: MaterialDescription) -> None:
    """Write the authority, then each certificate, the issuing one first."""
    key = (
        "here; it is needed only to renew the issuing certificate: put it away" if found.root_key_here else "elsewhere"
    )
    page.pairs(
        [
            ("directory", str(found.directory)),
            ("trust domain", str(found.trust_domain or "")),
            ("root's key", key),
        ]
    )
    for certificate in found.certificates:
        page.blank()
        page.title(certificate.role)
        _show_certificate(page, certificate)


def _show_certificate(page: Page, item: CertificateDescription) -> None:
    page.pairs(
        [
            ("subject", item.subject),
            ("key", item.key_kind or "of a kind that meshpki does not make"),
            ("valid", f"{_moment(item.not_before)} to {_moment(item.not_after)}"),
            ("left", show_duration(item.remaining_seconds) if item.remaining_seconds > 0 else ""),
            ("serial", f"{item.serial:x}"),
            ("key id", item.key_id),
            ("sha256", item.fingerprint),
            ("warning", Cell(item.warning, WARN)),
        ],
        indent=2,
    )


def _moment(epoch: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
