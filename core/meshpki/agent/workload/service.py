"""The SPIFFE Workload API on the agent's socket: streams of the X.509 profile, and a clear no to the other profiles."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import grpc

from meshpki.agent.socket.server import Kind, Method
from meshpki.agent.socket.sessions import CallRefusedError
from meshpki.agent.socket.shelf import Shelf
from meshpki.agent.workload.api import HEADER, PROFILE_OFF, Part, check_header, check_standing, documents_of
from meshpki.wire import methods
from meshpki.wire.workload_pb2 import X509BundlesRequest, X509SVIDRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.agent.rotation.snapshot import Snapshot
    from meshpki.agent.socket.server import Call
    from meshpki.agent.socket.sessions import Metadata, Session
    from meshpki.agent.workload.api import Documents, Refusal

log = logging.getLogger(__name__)

STREAMS: Final = {methods.FETCH_X509_SVID: Part.SVIDS, methods.FETCH_X509_BUNDLES: Part.BUNDLES}
RENAMED: Final = {
    grpc.StatusCode.UNAUTHENTICATED: grpc.StatusCode.PERMISSION_DENIED,  # no identity for this caller
    grpc.StatusCode.RESOURCE_EXHAUSTED: grpc.StatusCode.UNAVAILABLE,  # not able to handle the call now
}
"""Workload Endpoint, section 6 and appendix A."""
REQUESTS: Final = {Part.SVIDS: X509SVIDRequest, Part.BUNDLES: X509BundlesRequest}
OFF: Final = {
    methods.FETCH_JWT_SVID: Kind.UNARY,
    methods.FETCH_JWT_BUNDLES: Kind.SERVER_STREAM,
    methods.VALIDATE_JWT_SVID: Kind.UNARY,
    methods.FETCH_WIT_SVID: Kind.SERVER_STREAM,
    methods.FETCH_WIT_BUNDLES: Kind.SERVER_STREAM,
}
"""An operator may disable the JWT profile (Workload API, section 1); WIT is optional. Both: UNIMPLEMENTED."""


def workload_methods(*, clock: Callable[[], float] = time.time) -> tuple[Method, ...]:
    """Give the rows of this face for the socket's table. `clock` gives epoch seconds."""
    shelf = Shelf(_documents)
    served = (
        Method(
            path,
            Kind.SERVER_STREAM,
            partial(_stream, part, shelf, clock),
            decode=REQUESTS[part].FromString,  # they have no fields; those that a later standard adds are passed over
            encode=_as_it_is,
            admit=_admit,
            renamed=RENAMED,
            impatient=True,
        )
        for path, part in STREAMS.items()
    )
    off = (Method(path, kind, _never, decode=_as_it_is, encode=_as_it_is, admit=_off) for path, kind in OFF.items())
    return (*served, *off)


async def _stream(
    part: Part, shelf: Shelf[None, Documents], clock: Callable[[], float], session: Session, _: object, call: Call
) -> None:
    """Send the full set at once, and again whenever it is another one."""
    feed = session.feed
    refusal = check_standing(part, feed.current, denied=feed.denied, now=clock())
    if refusal is not None:
        raise _refused(refusal)
    sent = b""
    while not feed.closed and not session.must_reconnect.done():
        changed, snapshot = feed.changes(), feed.current
        document = shelf.get(feed, snapshot, None).of(part) if snapshot is not None else b""
        if document and document != sent:
            await call.write(document)
            log.debug("sent", extra={"part": part.value, "bytes": len(document)})
            sent = document
        await asyncio.wait([changed, session.must_reconnect], return_when=asyncio.FIRST_COMPLETED)


def _admit(metadata: Metadata) -> None:
    refusal = check_header([value for name, value in metadata if name == HEADER])
    if refusal is not None:
        raise _refused(refusal)


def _off(metadata: Metadata) -> None:
    """The header comes first: a caller without it learns nothing."""
    _admit(metadata)
    raise _refused(PROFILE_OFF)


async def _never(*_: object) -> NoReturn:
    raise AssertionError("a method that is off was admitted")


def _documents(snapshot: Snapshot, _: None) -> Documents:
    return documents_of(snapshot)


def _refused(refusal: Refusal) -> CallRefusedError:
    return CallRefusedError(grpc.StatusCode[refusal.status.value], refusal.sentence)


def _as_it_is(data: bytes) -> bytes:
    return data
