"""What telemetry reads of an exchange: protocols that `wire` and `storage` satisfy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edgecache.semantics.message import Fields, Request
from edgecache.semantics.outcomes import Forward, Refused, Result, Tier

if TYPE_CHECKING:
    from edgecache.telemetry.request_metrics import Tally
    from edgecache.telemetry.tracing import Trace


class StoredResponse(Protocol):
    """A stored response, in whichever tier."""

    @property
    def tags(self) -> tuple[bytes, ...]:
        """Tags by which it can be purged."""

    @property
    def lifetime(self) -> float:
        """Freshness lifetime in seconds (RFC 9111 §4.2.1)."""

    @property
    def initial_age(self) -> float:
        """Age on arrival in seconds (RFC 9111 §4.2.3)."""

    @property
    def content_type(self) -> bytes:
        """Its Content-Type; empty where it has none."""


class SizedBody(Protocol):
    """A body of which the size so far is known."""

    @property
    def size(self) -> int:
        """Bytes received."""


class UpstreamConnection(Protocol):
    """The connection on which a response arrived."""

    @property
    def origin_text(self) -> str:
        """The origin or parent at its other end."""


class Connection(Protocol):
    """A client's connection."""

    @property
    def number(self) -> int:
        """Its number in the worker."""

    @property
    def tls_version(self) -> str:
        """Its version of TLS; empty for plain HTTP."""


class Exchange(Protocol):
    """A request and its response."""

    request: Request
    fingerprint: bytes | None  # what the fast path may remember it by
    trace: Trace | None
    status: int
    bytes_out: int
    cache_status: bytes
    result: Result
    failure: str
    began: float  # monotonic seconds
    first_byte: float
    upstream_asked: float
    upstream_took: float
    regional_asked: float
    regional_took: float

    @property
    def client(self) -> str:
        """The client's address."""

    @property
    def tally(self) -> Tally | None:
        """Where it is counted, if that is known before its end."""

    @property
    def body(self) -> SizedBody | None:
        """The request's body."""

    @property
    def why(self) -> Forward | None:
        """The reason why memory did not answer."""

    @property
    def tier(self) -> Tier | None:
        """The tier that answered, where `result` does not imply it."""

    @property
    def not_stored(self) -> Refused | None:
        """The reason why the response was not stored."""

    @property
    def answered_on(self) -> UpstreamConnection | None:
        """The connection on which the response arrived."""


class KnownFields(Protocol):
    """What requests that differ in unkeyed fields only have in common."""

    @property
    def scheme(self) -> bytes:
        """The scheme."""

    @property
    def host(self) -> bytes:
        """The normalised host."""

    @property
    def fields(self) -> Fields:
        """The fields that are the same in each."""


class KnownVisitor(Protocol):
    """What requests of one browser have in common."""

    agent: bytes
    referer: bytes
    logged: str  # its members of the usual line of the access log, once they were written


class TemplatedRequest(Protocol):
    """A GET that was answered by a template, without being parsed into a `Request`."""

    @property
    def template(self) -> KnownFields:
        """What it has in common with others."""

    @property
    def target(self) -> bytes:
        """Its target."""

    @property
    def visitor(self) -> KnownVisitor:
        """What it has in common with others of its browser."""
