"""What a client's connection needs of the service behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from edgecache.semantics.message import Request
from edgecache.telemetry.metrics import Counter
from edgecache.wire.body_charge import Room
from edgecache.wire.errors import BadRequest
from edgecache.wire.exchange import Exchange

if TYPE_CHECKING:
    from edgecache.wire.h1.server import ClientConnection

AddFields = Callable[[bytes, bytes, bool], bytes]  # to a response: by scheme, packed fields, whether a POP gets it


class Site(Protocol):
    """What a connection needs of the service behind it."""

    draining: bool
    crowded: bool  # hardly any room for more connections
    head_timeout: float
    body_timeout: float
    tunnel_timeout: float
    idle_timeout: float
    min_rate: int
    max_request_body: int
    finish_abandoned: bool  # what is of use to its client alone goes on though the client has sent FIN
    bytes_in: Counter  # received from clients
    room: Room  # the memory budget, which counts who reads what
    on_deliver: AddFields | None  # for each response; None: nothing is added

    def joined(self, connection: ClientConnection) -> BadRequest | None:
        """A client has connected; why it is to be turned away, if it is."""

    def left(self, connection: ClientConnection) -> None:
        """A client's connection has ended."""

    def answer_known(self, connection: ClientConnection, raw: bytes) -> bool:
        """Answer the request whose head is exactly `raw` if it is known; whether it was."""

    def parse(self, raw: bytes, scheme: bytes) -> Request:
        """The request whose head is `raw`; raises `BadRequest`."""

    def check_unfinished(self, start: bytes, scanned: int) -> None:
        """Raise `BadRequest` if `start` can no longer become a head; its first `scanned` bytes were checked before."""

    def answer(self, exchange: Exchange) -> None:
        """See to it that `exchange` is answered, now or later."""

    def answered(self, exchange: Exchange, took: float) -> object:
        """An answer is complete, after `took` seconds: count and log it."""

    def refused(self, error: BadRequest) -> None:
        """A request was refused: count it."""

    def clock(self) -> float:
        """Monotonic seconds."""
