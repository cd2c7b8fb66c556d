"""What a client's connection needs of the service behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from edgecache.semantics.message import Request
from edgecache.telemetry.metrics import Counter
from edgecache.wire.body_charge import Room
from edgecache.wire.errors import BadRequest
from edgecache.wire.exchange import Exchange
from edgecache.wire.response_writer import ResponseWriter
from edgecache.wire.run_queue import RunQueue

if TYPE_CHECKING:
    from edgecache.wire.h1.head import RequestHeads

AddFields = Callable[[bytes, bytes, bool], bytes]  # to a response: by scheme, packed fields, whether a POP gets it

BodyLimit = Callable[[Request, str, int], int]  # bytes, by the request, its peer and what holds for all; 0: any


class Connection(Protocol):
    """One connection of a client: what the service behind it needs, whatever the protocol."""

    peer: str  # the client's address
    admitted: bool  # it counts as a connection already

    @property
    def exchanges(self) -> Iterable[Exchange]:
        """The exchanges under way."""

    def sweep(self, now: float) -> None:
        """End what is overdue, or may end while the service is draining; `now` in monotonic seconds."""

    def cut(self) -> None:
        """End at once, visibly unfinished."""


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
    run_queue: RunQueue  # of requests that the fast path does not answer
    heads: RequestHeads  # reads those of HTTP/1
    body_limit: BodyLimit | None  # of one request, where they differ
    on_deliver: AddFields | None  # for each response; None: nothing is added

    def joined(self, connection: Connection) -> BadRequest | None:
        """A client has connected; why it is to be turned away, if it is."""

    def left(self, connection: Connection) -> None:
        """A client's connection has ended."""

    def answer_known(self, connection: ResponseWriter, raw: bytes) -> bool:
        """Answer the request with the fingerprint `raw` if it is known; whether it was."""

    def answer(self, exchange: Exchange) -> None:
        """See to it that `exchange` is answered, now or later."""

    def answered(self, exchange: Exchange, took: float) -> object:
        """An answer is complete, after `took` seconds: count and log it."""

    def refused(self, error: BadRequest) -> None:
        """A request was refused: count it."""

    def clock(self) -> float:
        """Monotonic seconds."""
