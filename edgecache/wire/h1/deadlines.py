"""The deadlines of a client's HTTP/1.1 connection, checked by the worker's sweep.

Which of them holds depends on the state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgecache.wire.errors import BadRequest
from edgecache.wire.h1.connection_state import CLOSED, HOLDING, LINGERING, READING_BODY, RESPONDING, TUNNEL

if TYPE_CHECKING:
    from edgecache.wire.h1.server import ClientConnection

LONGEST_HELD: Final = 1.0  # seconds that a chunked body is held; a slower one is passed on as it arrives
LINGER: Final = 2.0  # seconds that the bytes of a refused client are discarded, so that it can read the response
DRAIN_IDLE: Final = 1.0  # seconds without a request after which a draining server may close without cutting one off


def check(connection: ClientConnection, now: float) -> None:
    """End what is overdue; `now` in monotonic seconds."""
    if connection.since == 0.0:
        connection.since = now
        return
    waited = now - connection.since
    if connection.state is TUNNEL:
        if waited > connection.site.tunnel_timeout:
            connection.cut()
    elif connection.state is LINGERING:
        if waited > LINGER:
            connection.transport.abort()
    elif connection.transport.get_write_buffer_size():
        _check_writing(connection, now, waited)
    elif connection.state is HOLDING or connection.state is READING_BODY:
        _check_body(connection, now, waited)
    elif connection.state is not RESPONDING and connection.state is not CLOSED:
        _check_between(connection, waited)


def _check_between(connection: ClientConnection, waited: float) -> None:
    """A head must be complete in time, and an idle connection is closed after a while."""
    site = connection.site
    if connection.unread:
        if waited > site.head_timeout:
            connection.refuse(BadRequest(408, "head-timeout", "the head took too long"), connection.buffered, waited)
        return
    patience = site.head_timeout if connection.fresh else site.idle_timeout
    if site.draining or site.crowded:
        patience = min(DRAIN_IDLE, patience)
    if waited > patience and not connection.has_unreceived:
        connection.close()


def _check_body(connection: ClientConnection, now: float, waited: float) -> None:
    """A request's body must keep moving, and after `body_timeout` no slower than the lowest rate."""
    exchange, incoming, site = connection.exchange, connection.incoming, connection.site
    if connection.reading_paused or exchange is None or incoming is None:
        return
    took = now - exchange.began
    if connection.state is HOLDING and exchange.request.framing.chunked and took > LONGEST_HELD:
        connection.release_body()
        return
    too_slow = took > site.body_timeout and incoming.size < took * site.min_rate
    if waited > site.body_timeout or too_slow:
        connection.refuse(BadRequest(408, "body-timeout", "the body took too long"))


def _check_writing(connection: ClientConnection, now: float, waited: float) -> None:
    """A client that takes nothing for too long is cut off."""
    waiting = connection.transport.get_write_buffer_size()
    if waiting != connection.stalled:
        connection.stalled, connection.since = waiting, now
    elif waited > connection.site.body_timeout:
        connection.cut()
