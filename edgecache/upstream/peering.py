"""Between POPs: how this one asks its parents, and how it hears its children.

A child signs its request, and says what it knows of the invalidation logs (`Edgecache-Require`). Its parent lets its
own log catch up to that, and says with the answer what was known when the origin was asked (`Edgecache-Seen`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from edgecache.invalidation.purge_log import UNKNOWN, Stamp, Verdict
from edgecache.invalidation.scopes import Subject
from edgecache.invalidation.version_vector import NOTHING, Vector
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.cache_tags import TooManyTags, tags_of
from edgecache.semantics.client_address import Trust, client_address
from edgecache.semantics.client_claims import is_claim
from edgecache.semantics.forwarding import Gateway, upstream_lines
from edgecache.semantics.message import FieldLine, Fields, Request, Response
from edgecache.semantics.query_content import LARGEST, QUERY, with_content
from edgecache.upstream.peer_auth import Distrust, signature_line, verified_pop
from edgecache.upstream.peer_fields import (
    answer_lines,
    from_child,
    internal_lines,
    names_internal,
    required_by,
    seen_of,
    without_internal,
)
from edgecache.wire.exchange import Exchange

if TYPE_CHECKING:
    from edgecache.invalidation.validity import Invalidation
    from edgecache.storage.memory import Entry
    from edgecache.upstream.reply import Reply

CATCH_UP: Final = 0.25  # seconds that a child's request waits for this POP's log
DEFAULT_PORTS: Final = (b":80", b":443")  # parents may be asked by the other scheme, where they mean nothing
NOTHING_SEEN: Final = b"Edgecache-Seen: \r\n"

Go = Callable[[Exchange], None]


def may_go_to_parents(request: Request) -> bool:
    """Whether a parent may be asked: what may be repeated at will, and what a signature can hold for.

    Everything else goes to the origin at once: a write must not be replayed, and the POP that the client talks to
    sees to it that it is known everywhere; what is one identity's is for no cache.
    """
    if request.claims or request.upgrade or request.host.endswith(DEFAULT_PORTS):
        return False
    if request.content is not None:
        return True
    return (request.method == b"GET" or request.method == b"HEAD") and request.framing.length == 0


class Parental:
    """How this POP speaks to its parents."""

    def __init__(
        self,
        pop: bytes,
        region: str,
        secret: bytes,
        invalidation: Invalidation,
        clock: Callable[[], float],
        is_trusted: Trust,
    ) -> None:
        self._gateway = Gateway(pop, forwarded=False)
        self._region = region
        self._secret = secret
        self._invalidation = invalidation
        self._log = invalidation.log
        self._clock = clock  # epoch seconds
        self.is_trusted = is_trusted  # whether a peer's word for the client's address is believed

    def must_ask_itself(self, key: bytes) -> bool:
        """Whether what a parent may have of `key` cannot be proven.

        This process knows of a purge that no log holds, or is cut off from a log and may not know of one.
        """
        log = self._log
        return self._invalidation.is_unproven(key) or log.check_vector(Subject(key), log.vector) is not Verdict.USABLE

    def fields(self, request: Request, fields: Fields, client: str, scheme: bytes) -> list[FieldLine]:
        """The fields of a request to a parent that is asked by `scheme`, signed now."""
        child = request.child
        address = client_address(client, request.fields, self.is_trusted) if child is None else child.client
        required = self._log.vector if child is None else self._log.vector.merged(required_by(child))
        internal = internal_lines(request, address, required, self._region)
        lines = [line for line in upstream_lines(request, fields, self._gateway, "") if not is_claim(line[0].lower())]
        lines += internal
        if self._secret:  # else the connection proves which POP this is
            asked, signed = request._replace(scheme=scheme), [*request.place, *internal]
            lines.append(signature_line(self._secret, self._gateway.pop, self._clock(), asked, signed))
        return lines

    def proven(self, key: bytes, asked: Stamp, response: Response) -> Stamp:
        """What was known when the answer of a parent, asked at `asked`, was asked of the origin.

        No more than is known here: a parent that names what no log holds yet must not make its answers immune to it.
        """
        seen = seen_of(response)
        if seen is None or not seen.covers(asked.vector):
            return UNKNOWN
        seen = seen.at_most(asked.vector.merged(self._log.vector))
        try:
            subject = Subject(key, tags_of(response.fields))
        except TooManyTags:
            return UNKNOWN
        covered = self._log.check_vector(subject, seen.merged(self._log.vector)) is Verdict.USABLE
        return Stamp(asked.position, seen) if covered else UNKNOWN


class Children:
    """How this POP hears its children. Mutable state: the requests that wait for the log to catch up."""

    def __init__(
        self,
        secrets: Sequence[bytes],
        clock: Callable[[], float],
        invalidation: Invalidation,
        distrusted: Callable[[Distrust], None],
        located: Callable[[Request, str], Request] | None = None,
    ) -> None:
        self._secrets = secrets
        self._clock = clock  # epoch seconds
        self._log = invalidation.log
        self._distrusted = distrusted  # told why a request that claims to be a POP's is not taken for one
        self._located = located  # adds the place of the client at an address
        self._waiting: list[_Waiting] = []
        self._stuck: dict[str, int] = {}  # region → the mark at which its log stood when it was waited for in vain
        invalidation.on_applied = self._moved

    @staticmethod
    def may_be_one(exchange: Exchange) -> bool:
        """Whether a request has internal fields, or comes from a POP."""
        connection = exchange.connection
        return names_internal(exchange.request.fields) or (connection is not None and connection.peer_pop != b"")

    def hear(self, exchange: Exchange, client: Go, child: Go) -> None:
        """See to it that `exchange` is answered: as an ordinary client's, or as a POP's."""
        request = self._from_child(exchange)
        if request is None:
            exchange.request = exchange.request._replace(fields=without_internal(exchange.request.fields))
            client(exchange)
            return
        asks = request.child
        assert asks is not None, "it is a child's"
        exchange.request = request if self._located is None or request.place else self._located(request, asks.client)
        exchange.fingerprint = None  # it is signed for a moment only: nothing is remembered by it
        exchange.extra = NOTHING_SEEN
        required = required_by(asks)
        if self._log.has_applied(required):
            child(exchange)
        elif self._is_stuck(required):
            _answer_behind(exchange, child)
        else:
            self._wait(exchange, required, child)

    def _from_child(self, exchange: Exchange) -> Request | None:
        request, connection = exchange.request, exchange.connection
        name: bytes | Distrust = connection.peer_pop if connection is not None else b""
        if not name:
            name = verified_pop(self._secrets, self._clock(), _as_signed(exchange))
        if isinstance(name, Distrust):
            if name is not Distrust.UNSIGNED:
                self._distrusted(name)
            return None
        heard = from_child(request, name)
        if heard is None:
            self._distrusted(Distrust.MALFORMED)
        return heard

    # --- a child that knows more than this POP

    def _is_stuck(self, required: Vector) -> bool:
        """Whether what is missing of it was waited for in vain, and nothing of that region has come since."""
        vector = self._log.vector
        missing = [region for region in required if vector[region] < required[region]]
        return any(self._stuck.get(region) == vector[region] for region in missing)

    def _wait(self, exchange: Exchange, required: Vector, go: Go) -> None:
        """Answer as soon as the log has caught up; after a while, as a POP that is behind."""
        waiting = _Waiting(exchange, required, go)
        self._waiting.append(waiting)
        waiting.timer = asyncio.get_running_loop().call_later(CATCH_UP, self._give_up, waiting)

    def _moved(self) -> None:
        for waiting in [waiting for waiting in self._waiting if self._log.has_applied(waiting.required)]:
            self._waiting.remove(waiting)
            waiting.go_on()

    def _give_up(self, waiting: _Waiting) -> None:
        if waiting not in self._waiting:
            return
        self._waiting.remove(waiting)
        vector, required = self._log.vector, waiting.required
        self._stuck |= {region: vector[region] for region in required if vector[region] < required[region]}
        waiting.go_on(behind=True)


def _as_signed(exchange: Exchange) -> Request:
    """The request as a child has signed it: a QUERY with its content."""
    content = exchange.content_up_to(LARGEST) if exchange.request.method == QUERY else None
    return exchange.request if content is None else with_content(exchange.request, content)


def _answer_behind(exchange: Exchange, go: Go) -> None:
    """Answer a child that knows more than this POP: nothing that is here is proven to it."""
    request = exchange.request
    assert request.child is not None, "it is a child's"
    exchange.request = request._replace(child=replace(request.child, behind=True))
    go(exchange)


class _Waiting:
    """One request that waits for the log to know what its child knows."""

    __slots__ = ("_go", "exchange", "required", "timer")

    def __init__(self, exchange: Exchange, required: Vector, go: Go) -> None:
        self.exchange = exchange
        self.required = required
        self._go = go
        self.timer: asyncio.TimerHandle | None = None

    def go_on(self, *, behind: bool = False) -> None:
        """Answer now, if anybody still waits for it."""
        if self.timer is not None:
            self.timer.cancel()
        if self.exchange.gone:
            return
        if behind:
            _answer_behind(self.exchange, self._go)
        else:
            self._go(self.exchange)


# --- what a child is told with its answer


def tell_of_entry(exchange: Exchange, entry: Entry, invalidation: Invalidation, now: float) -> None:
    """With an answer out of `entry`: it has passed the rule now, so it is as good as asked now."""
    proven = invalidation.check(entry, now) is Verdict.USABLE
    exchange.extra = answer_lines(invalidation.log.vector if proven else NOTHING, entry.tags)


def tell_of_reply(exchange: Exchange, reply: Reply, invalidation: Invalidation) -> None:
    """With an answer that comes from upstream: what was known when it was asked, or is known now if it still holds."""
    try:
        tags = tags_of(reply.response.fields) if reply.tags is None else reply.tags
    except TooManyTags:
        exchange.extra = NOTHING_SEEN
        return
    seen = reply.seen.vector
    if invalidation.allows(primary_key(exchange.request), tags, reply.seen):
        seen = seen.merged(invalidation.log.vector)
    exchange.extra = answer_lines(seen, tags)
