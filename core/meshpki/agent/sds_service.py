"""Secret discovery on the agent's socket: Envoy's streams, each driven by an `SdsStream`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from meshpki.agent.resources import Resources, resources_of
from meshpki.agent.sds import SdsStream
from meshpki.agent.socket_server import Kind, Method
from meshpki.wire import methods
from meshpki.wire.sds_pb2 import DiscoveryRequest, DiscoveryResponse

if TYPE_CHECKING:
    from meshpki.agent.feed import Feed
    from meshpki.agent.sessions import Session
    from meshpki.agent.socket_server import Context

log = logging.getLogger(__name__)

NOTHING = Resources("", {}, ())


def sds_methods() -> tuple[Method, ...]:
    """Give the rows of this face for the socket's table."""
    return (
        Method(
            methods.STREAM_SECRETS,
            Kind.STREAM,
            _stream_secrets,
            decode=DiscoveryRequest.FromString,
            encode=DiscoveryResponse.SerializeToString,
        ),
    )


async def _stream_secrets(session: Session, _: None, context: Context) -> None:
    """Drive one stream: whichever comes first, a request or a new snapshot, is given to the logic."""
    feed = session.feed
    reading = asyncio.create_task(_read(context))
    changed = feed.changes()
    stream = SdsStream(_current(feed))
    try:
        while not feed.closed and not session.must_reconnect.done():
            waiting: set[asyncio.Future[DiscoveryRequest | None] | asyncio.Future[None]]
            waiting = {reading, changed, session.must_reconnect}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if changed.done():
                changed = feed.changes()
                await _send(context, stream.update(_current(feed)))
            if reading.done():
                request = reading.result()
                if request is None:
                    return
                await _send(context, stream.request(request))
                reading = asyncio.create_task(_read(context))
    finally:
        reading.cancel()


def _current(feed: Feed) -> Resources:
    return resources_of(feed.current) if feed.current is not None else NOTHING


async def _read(context: Context) -> DiscoveryRequest | None:
    """Wait for the client's next request; None once it sends no more."""
    request: object = await context.read()
    return request if isinstance(request, DiscoveryRequest) else None


async def _send(context: Context, response: DiscoveryResponse | None) -> None:
    if response is not None:
        await context.write(response)
        log.debug("sent", extra={"version": response.version_info, "secrets": len(response.resources)})
