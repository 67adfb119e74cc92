"""The CA's answer is examined before it is served: our key, a chain to our roots, one SPIFFE ID, times that hold."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from meshpki.agent.rotation.certificates import load_certificates
from meshpki.agent.rotation.snapshot import Snapshot
from meshpki.errors import InvalidValueError, MeshpkiError
from meshpki.identity import SpiffeId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.agent.rotation.key_request import KeyRequest

MAX_ELEMENTS: Final = 12
CLOCK_LEEWAY_SECONDS: Final = 60
"""How far our clock may lag behind the CA's, beyond what the CA sets `not_before` back."""


class AnswerError(MeshpkiError):
    """The CA's answer must not be served. `reason` is one word for status and scripts."""

    def __init__(self, reason: str, seen: str, *, wanted: str = "", todo: str = "") -> None:
        super().__init__(seen, wanted=wanted, todo=todo)
        self.reason = reason


def accept(answer: Sequence[str], request: KeyRequest, *, roots_pem: bytes, now: float) -> Snapshot:
    """Examine a `cert_chain` as the CA sent it: leaf first, roots last. Raises AnswerError.

    The bundle to serve is the answer's last element, so that a CA that changes its root can hand out old and new
    together. But the chain has to end at a root that is in `roots_pem` too: a root is never learned from an answer
    alone.
    """
    leaf, middle, roots = _parse(answer)
    return _examine(leaf, middle, roots, (request.spki, request.key_pem), roots_pem=roots_pem, now=now)


def accept_held(chain_pem: bytes, bundle_pem: bytes, key_pem: bytes, *, roots_pem: bytes, now: float) -> Snapshot:
    """Examine what an earlier run left behind as if a CA had just sent it. Raises AnswerError.

    `bundle_pem` is what came with the chain and may be empty; the chain has to end at a root in `roots_pem`.
    """
    known = _known(roots_pem)
    try:
        leaf, *middle = load_certificates(chain_pem)
        came = load_certificates(bundle_pem) if bundle_pem else []
        spki = (
            load_pem_private_key(key_pem, None)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AnswerError("chain_malformed", "what was held before cannot be read") from error
    snapshot = _examine(leaf, middle, [*came, *known], (spki, key_pem), roots_pem=roots_pem, now=now)
    return replace(snapshot, bundle_pem=_shared(bundle_pem))


def is_trusted(chain_pem: bytes, roots_pem: bytes, now: float) -> bool:
    """Whether a chain that was accepted once, without its root, ends at one of these roots."""
    last = load_certificates(chain_pem)[-1]
    return any(_issued(last, root, now) for root in load_certificates(roots_pem))


def _examine(
    leaf: x509.Certificate,
    middle: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    pair: tuple[bytes, bytes],
    *,
    roots_pem: bytes,
    now: float,
) -> Snapshot:
    spki, key_pem = pair
    _check_key(leaf, spki)
    _check_times(leaf, now)
    spiffe_id = spiffe_id_of(leaf)
    middle = [certificate for certificate in middle if certificate not in roots]
    _check_path([leaf, *middle], roots, _known(roots_pem), now)
    return Snapshot(
        spiffe_id=spiffe_id,
        serial=leaf.serial_number,
        not_before=int(leaf.not_valid_before_utc.timestamp()),
        not_after=int(leaf.not_valid_after_utc.timestamp()),
        chain_pem=_pem([leaf, *middle]),
        bundle_pem=_shared(_pem(roots)),
        key_pem=key_pem,
    )


@lru_cache(16)
def _shared(bundle_pem: bytes) -> bytes:
    """Equal roots are one object: a node's thousand identities have the same."""
    return bundle_pem


def check_same_identity(held: Snapshot, new: Snapshot) -> None:
    """Raise AnswerError when a renewal brings another SPIFFE ID: a workload does not turn into another one."""
    if held.spiffe_id != new.spiffe_id:
        raise AnswerError(
            "identity_changed",
            f"the CA's certificate is for {new.spiffe_id}, and {held.spiffe_id} is being served",
            todo="is the token file another workload's? if the change is meant, restart the agent",
        )


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _parse(answer: Sequence[str]) -> tuple[x509.Certificate, list[x509.Certificate], list[x509.Certificate]]:
    if not 2 <= len(answer) <= MAX_ELEMENTS:
        raise AnswerError(
            "chain_length", f"the CA's chain has {len(answer)} elements", wanted="the leaf, then the root"
        )
    try:
        elements = [load_certificates(element.encode("ascii")) for element in answer]
    except ValueError as error:
        raise AnswerError("chain_malformed", "the CA's chain holds something that is no PEM certificate") from error
    if len(elements[0]) != 1:
        raise AnswerError("chain_malformed", "the CA's first element holds several certificates", wanted="the leaf")
    return elements[0][0], [certificate for element in elements[1:-1] for certificate in element], elements[-1]


def _known(roots_pem: bytes) -> list[x509.Certificate]:
    try:
        return load_certificates(roots_pem)
    except ValueError as error:
        raise AnswerError("roots_malformed", "the file of roots holds no PEM certificate") from error


def _check_key(leaf: x509.Certificate, ours: bytes) -> None:
    try:
        spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception as error:  # a key of a kind that the library does not know: whatever it raises, it is not ours
        raise AnswerError("other_key", "the CA's certificate is for a key that we cannot read") from error
    if spki != ours:
        raise AnswerError("other_key", "the CA's certificate is for another key than the one we sent")


def _check_times(leaf: x509.Certificate, now: float) -> None:
    begin, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    clocks = f"valid from {begin:.0f} to {end:.0f}, this machine's clock says {now:.0f}"
    if end <= now or begin >= end:
        raise AnswerError("certificate_expired", f"the CA's certificate is over: {clocks}", todo="compare the clocks")
    if begin > now + CLOCK_LEEWAY_SECONDS:
        raise AnswerError("certificate_not_yet_valid", f"too early: {clocks}", todo="compare the clocks")


def spiffe_id_of(leaf: x509.Certificate) -> SpiffeId:
    """Read an X509-SVID (X509-SVID 5.2): one URI SAN with a path, no CA, no keyCertSign. Raises AnswerError."""
    try:
        extensions = leaf.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise AnswerError("not_an_svid", "the CA's certificate has no readable subject alternative name") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise AnswerError("not_an_svid", f"the CA's certificate has {len(uris)} URI names", wanted="one SPIFFE ID")
    if _may_sign(leaf, default=False):
        raise AnswerError("not_an_svid", "the CA's certificate may itself sign certificates", wanted="a leaf")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except InvalidValueError as error:
        raise AnswerError("not_an_svid", f"the CA's certificate names no SPIFFE ID: {error.seen}") from error
    if not spiffe_id.segments:
        raise AnswerError("not_an_svid", f"{spiffe_id} is a trust domain's own ID", wanted="a workload's, with a path")
    return spiffe_id


def _may_sign(certificate: x509.Certificate, *, default: bool) -> bool:
    """Whether basic constraints and key usage let it sign certificates; `default` where there is no key usage."""
    extensions = certificate.extensions
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        usage = default
    try:
        ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        ca = False
    return (ca and usage) if default else (ca or usage)


def _check_path(
    path: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    known: Sequence[x509.Certificate],
    now: float,
) -> None:
    for child, parent in itertools.pairwise(path):
        if not _issued(child, parent, now):
            raise AnswerError("chain_broken", "the CA's chain is broken: a certificate is not signed by the next one")
    anchors = [root for root in roots if _issued(path[-1], root, now)]
    if not anchors:
        raise AnswerError("chain_broken", "the CA's chain does not end at a root that came with it")
    if not any(anchor in known for anchor in anchors):
        raise AnswerError(
            "unknown_root",
            "the CA's chain ends at a root that is not among ours",
            todo="has the CA changed its root? give the agent the new one beside the old one (--ca-roots)",
        )


def _issued(child: x509.Certificate, parent: x509.Certificate, now: float) -> bool:
    """Name, signature, the parent's right to sign, and its time (RFC 5280, section 6.1)."""
    try:
        child.verify_directly_issued_by(parent)
        may_sign = _may_sign(parent, default=True)
    except (ValueError, TypeError, InvalidSignature, x509.DuplicateExtension):
        return False
    return may_sign and parent.not_valid_before_utc.timestamp() - CLOCK_LEEWAY_SECONDS <= now < (
        parent.not_valid_after_utc.timestamp()
    )
