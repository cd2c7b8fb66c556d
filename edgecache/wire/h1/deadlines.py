"""The deadlines of a client's HTTP/1 connection, checked by the worker's sweep: which of them holds is its state's.

Those of the exchange under way are the same in every protocol (`wire/exchange_deadlines.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgecache.wire.errors import BadRequest
from edgecache.wire.exchange_deadlines import is_held_long, is_stuck, late_body
from edgecache.wire.h1.connection_state import CLOSED, HOLDING, LINGERING, READING_BODY, RESPONDING, TUNNEL

if TYPE_CHECKING:
    from edgecache.wire.h1.server import ClientConnection

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
    elif unsent := connection.transport.get_write_buffer_size():
        if is_stuck(connection, unsent, now):
            connection.cut()
    elif connection.state is HOLDING or connection.state is READING_BODY:
        _check_body(connection, now)
    elif connection.state is not RESPONDING and connection.state is not CLOSED:
        _check_between(connection, waited)


def _check_between(connection: ClientConnection, waited: float) -> None:
    """A head must be complete in time, and an idle connection is closed after a while."""
    site = connection.site
    if connection.unread:
        if waited > site.head_timeout and not connection.waits_turn:
            connection.refuse(BadRequest(408, "head-timeout", "the head took too long"), connection.buffered, waited)
        return
    patience = site.head_timeout if connection.fresh else site.idle_timeout
    if site.draining or site.crowded:
        patience = min(DRAIN_IDLE, patience)
    if waited > patience and not connection.has_unreceived:
        connection.close()


def _check_body(connection: ClientConnection, now: float) -> None:
    """A request's body must come in time, as long as it is read."""
    exchange, incoming = connection.exchange, connection.incoming
    if connection.reading_paused or exchange is None or incoming is None:
        return
    if connection.state is HOLDING and is_held_long(exchange, now):
        connection.release_body()
    elif (refusal := late_body(exchange, connection, incoming.size, now)) is not None:
        connection.refuse(refusal)
