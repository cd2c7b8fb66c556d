"""The deadlines of one exchange, whatever the protocol. Sweeps check them, so that no exchange has a timer.

Deadlines of a connection, for the next head and while it is idle, are its protocol's (`h1/deadlines.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgecache.wire.errors import BadRequest

if TYPE_CHECKING:
    from edgecache.wire.exchange import Exchange
    from edgecache.wire.response_writer import ResponseWriter

LONGEST_HELD: Final = 1.0  # seconds that a body of unknown length is held; a slower one is passed on as it arrives


def is_stuck(writer: ResponseWriter, unsent: int, now: float) -> bool:
    """Whether the client has taken nothing of the response for `body_timeout`; `unsent` bytes of it wait."""
    if unsent != writer.unsent:
        writer.unsent, writer.since = unsent, now
        return False
    return now - writer.since > writer.site.body_timeout


def is_held_long(exchange: Exchange, now: float) -> bool:
    """Whether the request is to be passed on though its body, which is held until it is complete, still comes in."""
    return exchange.request.framing.length is None and now - exchange.began > LONGEST_HELD


def late_body(exchange: Exchange, writer: ResponseWriter, received: int, now: float) -> BadRequest | None:
    """The refusal of a request whose body, of which `received` bytes are here, comes too slowly.

    It must keep moving, and after `body_timeout` be no slower than the lowest rate.
    """
    site, took = writer.site, now - exchange.began
    too_slow = took > site.body_timeout and received < took * site.min_rate
    if too_slow or now - writer.since > site.body_timeout:
        return BadRequest(408, "body-timeout", "the body took too long")
    return None
