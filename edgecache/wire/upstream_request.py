"""A request upstream: `UpstreamRequest` is the message, `UpstreamCall` one time that it is sent, and its outcome.

The methods of an `UpstreamCall` are called in this order: any number of `on_interim`, then one of `on_answer`,
`on_whole` and `on_failure`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from edgecache.semantics.message import FieldLine, Fields, Response
from edgecache.semantics.outcomes import Tier
from edgecache.semantics.rfc9111 import SAFE_METHODS
from edgecache.semantics.rules.routing import UpstreamRoute
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError

if TYPE_CHECKING:
    from edgecache.wire.upstream_connection import UpstreamConnection

ASKED_BY: Final = {206: (b"range",), 304: (b"if-none-match", b"if-modified-since")}  # one of the fields asks for it
Stamp: TypeAlias = Any  # what is known of the invalidation log when a request is sent: opaque here


class Wording(Protocol):
    """The fields of a request that may go to a parent or to the origin: made when it is known to which."""

    key: bytes  # of the requested object

    def for_parent(self, scheme: bytes) -> list[FieldLine]:
        """The fields for a parent, signed now; the request goes there by `scheme`."""

    def for_origin(self) -> list[FieldLine]:
        """The fields for the origin."""

    def anew(self) -> Wording:
        """The same for another time that it is sent."""

    def proven(self, asked: Stamp, response: Response) -> Stamp:
        """The log position at which a parent, whose response was requested at `asked`, requested it of the origin."""


class Credential(Protocol):
    """What authenticates requests of a route upstream, in the stead of what their clients sent."""

    def without_clients(self, fields: Fields) -> Fields:
        """`fields` less those by which a client authenticates itself upstream."""

    def authorize(self, request: UpstreamRequest) -> UpstreamRequest:
        """`request` with the credentials; it is sent now."""


Authorize: TypeAlias = "Callable[[UpstreamRequest], UpstreamRequest]"


@dataclass(slots=True, eq=False)
class UpstreamRequest:
    """A request as it goes upstream. Once sent, nothing of it changes but its serialised form, a cache."""

    method: bytes
    target: bytes
    fields: Sequence[FieldLine] = field(repr=False)  # end-to-end; Host comes first
    body: Body | None = None
    length: int | None = 0  # bytes of the body; None: it is not known
    upgrade: bytes = b""  # the protocol to switch to (RFC 9110 §7.8); empty: none
    region: bytes = b""  # whose origins it is for; empty where geography does not say
    wording: Wording | None = None  # of what may go to a parent; then there are no fields yet
    jurisdiction: str = ""  # that the response must not leave; empty: it may go anywhere
    unsafe: bool = False  # whatever its method: a field of it may name another
    shared: bool = False  # the response is expected to serve others too: nothing in the request makes it one client's
    keyed: bool = False  # a QUERY whose content is here, and keys its response: it may be repeated as a GET may
    route: UpstreamRoute | None = None  # towards the origin, where a site has its own
    names_origin: bool | None = None  # whether Host is that of the server that it goes to; None: as is usual there
    authorize: Authorize | None = field(default=None, repr=False)  # adds the credentials of its route
    is_safe: bool = field(init=False)  # it asks for no change (RFC 9110 §9.2.1): nothing is lost if it is read twice
    h1: bytes = field(init=False, default=b"", repr=False)  # the head in HTTP/1, once it was sent in it
    _by_host: dict[bytes, UpstreamRequest] | None = field(init=False, default=None, repr=False)
    _routed: UpstreamRequest | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        self.is_safe = not self.unsafe and self.method in SAFE_METHODS

    def anew(self) -> UpstreamRequest:
        """The same request for another time that it is sent."""
        return self if self.wording is None else replace(self, wording=self.wording.anew())

    def with_body(self, body: Body | None) -> UpstreamRequest:
        """The same request with another body."""
        return replace(self, body=body)

    def with_fields(self, fields: Sequence[FieldLine]) -> UpstreamRequest:
        """The same request with these fields."""
        return replace(self, fields=fields)

    def for_host(self, host: bytes) -> UpstreamRequest:
        """The same request with `host` for its Host field; remembered, as requests may be sent again and again."""
        if self._by_host is None:
            self._by_host = {}
        known = self._by_host.get(host)
        if known is None:
            known = self._by_host[host] = self.with_fields([(b"Host", host), *self.fields[1:]])
        return known

    def routed(self, pool_host: bytes, credential: Credential | None = None) -> UpstreamRequest:
        """The same request as the pool of its route gets it; `pool_host` is the Host that the pool wants."""
        assert self.route is not None, "it has a route"
        if self._routed is None:
            wanted = self.route.host or pool_host
            fields = Fields(self.fields[1:])
            if credential is not None:
                fields = credential.without_clients(fields)
            host = self.fields[0] if wanted in (b"client", b"origin") else (b"Host", wanted)
            self._routed = replace(
                self,
                target=self.route.target,
                fields=[host, *self.route.edits.applied(fields)],
                route=None,
                names_origin=wanted == b"origin",
                authorize=None if credential is None else credential.authorize,
            )
        return self._routed

    @property
    def repeated_as(self) -> bytes:
        """The method that says whether it may be sent to one server after the other."""
        return b"GET" if self.keyed else self.method

    @property
    def has_body(self) -> bool:
        """Whether it has content that may not be here when it is sent again."""
        return self.body is not None and not self.keyed

    @property
    def may_be_repeated(self) -> bool:
        """Whether it may be sent once more (RFC 9110 §9.2.2): it is safe, and its body, if any, is still here."""
        return self.is_safe and (self.body is None or self.body.joinable)

    def may_be_answered(self, status: int) -> bool:
        """Whether `status` can answer this request at all (RFC 9110 §15.3.7, §15.4.5)."""
        asking = ASKED_BY.get(status)
        if asking is None or self.method not in (b"GET", b"HEAD"):  # other methods may define their own conditions
            return True
        return any(name.lower() in asking for name, _ in self.fields)


class UpstreamCall:
    """A request under way; subclasses take its response. It can be cancelled at any time."""

    cancelled = False
    retried = False
    is_check = False  # an active health check: what becomes of it is not a request's failure
    answered_by: Tier | None = None  # if not by the origin
    asked_on: UpstreamConnection | None = None  # the connection that it is under way on

    def __init__(self, request: UpstreamRequest, asked: float, seen: Stamp) -> None:
        self.upstream_request = request
        self.asked = asked  # epoch seconds
        self.seen = seen  # the position of the purge log then

    def on_interim(self, response: Response) -> None:
        """A 1xx response has come."""

    def on_answer(self, response: Response, body: Body) -> None:
        """The head has come; `body` fills as bytes arrive, and what goes wrong from here on fails it."""
        raise NotImplementedError

    def on_whole(self, response: Response, content: bytes) -> None:
        """Head and content have come at once."""
        self.on_answer(response, Body.of(content))

    def on_failure(self, error: OriginError) -> None:
        """There is no response."""
        raise NotImplementedError

    @property
    def uploads(self) -> bool:
        """Whether the request has its connection for as long as its client likes: a body that comes, or a tunnel."""
        body = self.upstream_request.body
        if self.upstream_request.upgrade and not self.cancelled:
            return self.asked_on is None or self.asked_on.belongs_to(self)
        if body is None or body.ended or self.cancelled:
            return False
        return self.asked_on is None or self.asked_on.is_sending(self)

    def is_for(self, call: UpstreamCall) -> bool:
        """Whether this is `call`, or in its place."""
        return self is call

    def cancel(self) -> None:
        """The response is not wanted any more. A connection that is done with it, or carries another, goes on."""
        self.cancelled = True
        if self.asked_on is not None and self.asked_on.belongs_to(self):
            self.asked_on.close()

    def fail(self, error: OriginError) -> None:
        """There will be no response."""
        if not self.cancelled:
            self.cancelled = True
            self.on_failure(error)
