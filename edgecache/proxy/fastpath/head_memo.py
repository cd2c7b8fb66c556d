"""Request heads seen before with a known response, or a known route: the fast path.

Identical bytes parse identically, and as long as an entry is in place and fresh, an identical plain request gets the
same answer but for its Age. So the bytes of a head that was parsed, accepted and answered by a hit are remembered
together with that answer; the next time they cost one look-up, two comparisons and, once a second, a new Age.
A head whose URL is known to be unshareable is remembered with the upstream request that it becomes, one whose answer
came from the regional tier with where it lies.
A head is remembered when it comes the second time: most, with a cookie of their own in them, never do, and are
answered by what they have in common (`proxy/fastpath/head_template.py`).
Bounded in number and bytes; only requests without a body; always behind the parser's verdict, never before it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Final, TypeGuard, final

from edgecache.semantics.bounded_cache import BoundedCache, RecentlySeen, weight_of_head
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.outcomes import Result
from edgecache.storage.memory import Entry
from edgecache.storage.near_records import NearRecord
from edgecache.wire.body_buffer import SLICE
from edgecache.wire.exchange import Exchange
from edgecache.wire.handler import AddFields
from edgecache.wire.response import FullResponse
from edgecache.wire.response_writer import ResponseWriter
from edgecache.wire.upstream_request import UpstreamRequest

MOST_HEADS: Final = 4096
LONGEST_HEAD: Final = 4096  # bytes; longer ones are parsed each time
LONGEST_ANSWER: Final = 16384  # bytes; longer answers are not joined into one write
LONGEST_KEPT: Final = 1024  # bytes of the head of a response in the machine's store that is kept
KEPT_WEIGHT: Final = 1500  # bytes of what is kept of that, about so many
MOST_RENDERED: Final = 4096  # entries whose answer is kept rendered
MOST_BYTES: Final = 64 * 1024 * 1024  # of heads and rendered answers together, where no other bound is set
HIT: Final = Result.HIT.value
ONE_OF: Final = 16  # heads that could do without being known, when there are many


Make = Callable[[Entry, float], FullResponse]  # the response out of an entry at a time in epoch seconds
Gate = Callable[[ResponseWriter, float], bool]  # whether a request is admitted now, in resident time
Serialize = Callable[[FullResponse], bytes]  # its head on a connection that persists


class Rendered:
    """A response from an entry with its serialized form, renewed when its Age changes or the entry is freshened."""

    __slots__ = (
        *("_added", "_block", "_make", "_serialize", "_until"),
        *("answer", "counts", "entry", "full", "head", "policy", "size", "status"),
    )

    def __init__(
        self, entry: Entry, make: Make, serialize: Serialize, added: AddFields | None = None, policy: Any = None
    ) -> None:
        self.entry = entry
        self.policy = policy  # of the requests that get it
        self.counts = None if policy is None else policy.site.counts
        self._make = make
        self._serialize = serialize
        self._added = added
        self._until = -inf  # epoch seconds: when Age changes
        self._block = b""
        self.answer = FullResponse(0, b"")
        self.status = self.size = 0  # of it: its status, and bytes of its content
        self.head = b""  # as it goes out on a connection that persists, with its empty line
        self.full = b""  # that and the content, unless it is long

    def is_right(self, now: float) -> bool:
        """Whether the entry is in place and fresh; if so, `answer` and `full` are up to date."""
        entry = self.entry
        if entry.gone or now >= entry.stale_at:  # `is_fresh` without a call
            return False
        if now >= self._until or entry.block is not self._block:
            self._until, self._block = entry.older_at(now), entry.block
            answer = self.answer = self._make(entry, now)
            self.status, self.size = answer.status, len(answer.content)
            short = self.size <= LONGEST_ANSWER
            self.head = self._serialize(self._delivered(answer))
            self.full = self.head + bytes(answer.content) if short else b""
        return True

    @property
    def is_one_write(self) -> bool:
        """Whether the content leaves at once, and not slice by slice."""
        content = self.answer.content
        return isinstance(content, bytes) and len(content) <= SLICE

    def _delivered(self, response: FullResponse) -> FullResponse:
        """`response` with the fields that middleware adds to it."""
        fields, entry = response.fields, self.entry
        scheme = b"https" if entry.key.startswith(b"https") else b"http"
        if self.policy is not None:
            kind = entry.content_type if response.status == 304 else b""
            fields = self.policy.delivered(response.status, HIT, fields, scheme, kind)
        if self._added is not None:
            fields += self._added(scheme, fields, False)
        return response if fields is response.fields else response._replace(fields=fields)


def _rendered_weight(_: int, rendered: Rendered) -> int:
    return 1000 + len(rendered.entry.content)


@final
class Hit:
    """One head and its response, which all plain GETs share, or which belongs to this head only."""

    __slots__ = ("gate", "logged", "own_bytes", "rendered", "request", "size")

    def __init__(
        self, request: Request, rendered: Rendered, size: int, *, own: bool = False, gate: Gate | None = None
    ) -> None:
        self.request = request
        self.gate = gate
        self.size = size  # bytes of the head
        self.logged = ""  # what the usual line of the access log says of the request, once it was logged
        self.rendered = rendered
        self.own_bytes = _rendered_weight(0, rendered) if own else 0  # that the answer takes beside those shared

    @property
    def place(self) -> Fields:
        """The fields that say where the client is, if that is known."""
        return self.request.fields


@final
class Pass:
    """One head that is passed through, and the upstream request that it becomes for clients at one address."""

    __slots__ = ("client", "gate", "key", "request", "size", "upstream_request")

    def __init__(
        self,
        request: Request,
        size: int,
        key: bytes,
        client: str,
        upstream_request: UpstreamRequest,
        gate: Gate | None = None,
    ) -> None:
        self.request = request
        self.gate = gate
        self.size = size  # bytes of the head
        self.key = key
        self.client = client
        self.upstream_request = upstream_request


@final
class RegionalRead:
    """One plain head whose response is in the regional tier, and its storage key there."""

    __slots__ = ("base", "gate", "key", "logged", "own_bytes", "record", "request", "size")

    def __init__(
        self, request: Request, size: int, key: bytes, base: bytes, gate: Gate | None = None, *, near: bool = False
    ) -> None:
        self.request = request
        self.gate = gate
        self.size = size  # bytes of the head
        self.key = key
        self.base = base  # the storage key of its URL
        self.logged = ""  # as that of a hit
        self.own_bytes = KEPT_WEIGHT if near else 0  # that `record` may take
        self.record: NearRecord | None = None  # as last read out of the machine's store, without its content

    def selecting(self, names: tuple[bytes, ...]) -> Fields:
        """The fields by which a response that varies by `names` is selected."""
        return self.request.fields

    @property
    def place(self) -> Fields:
        """The fields that say where the client is, if that is known."""
        return self.request.fields


Known = Hit | Pass | RegionalRead


def _known_weight(raw: bytes, known: Known) -> int:
    return weight_of_head(raw, known) + (0 if type(known) is Pass else known.own_bytes)


class KnownHeads:
    """The remembered heads and rendered answers, the oldest forgotten first."""

    def __init__(
        self, serialize: Serialize, most_bytes: int = MOST_BYTES, hold: Callable[[int], None] | None = None
    ) -> None:
        self.serialize = serialize  # for the protocol whose heads are known here
        self._known: BoundedCache[bytes, Known] = BoundedCache(MOST_HEADS, most_bytes // 2, _known_weight, hold)
        self._rendered: BoundedCache[int, Rendered] = BoundedCache(
            MOST_RENDERED, most_bytes // 2, _rendered_weight, hold
        )
        self._seen = RecentlySeen()
        self._stopped = False
        self._passed_over = 0
        self.on_deliver: AddFields | None = None  # what middleware adds to each response
        self.gates: Callable[[Exchange], Gate | None] = lambda exchange: None  # of middleware that admits requests
        self.may_wait: Callable[[Exchange], bool] = lambda exchange: True  # likewise: those not answered at once
        self.get = self._known.get

    def learns(self, raw: bytes | None) -> TypeGuard[bytes]:
        """Whether the fingerprint `raw`, if there is one, is to be learnt now: it was seen once before."""
        if self._stopped or raw is None or len(raw) > LONGEST_HEAD:
            return False
        return self._seen.again(raw)

    def is_worth_learning(self, raw: bytes) -> bool:
        """Whether the head `raw`, which can be answered without, is to be learnt now: of too many, some are."""
        if not self.learns(raw):
            return False
        self._passed_over = (self._passed_over + 1) % ONE_OF
        return not self._known.half_full or self._passed_over == 0

    def learn(self, raw: bytes, known: Known) -> None:
        """Remember what is known of the request whose head is exactly `raw`."""
        self._known.remember(raw, known)

    def forget_one(self, raw: bytes) -> None:
        """Forget the head `raw`."""
        self._known.forget(raw)

    def render(self, entry: Entry, make: Make, policy: Any = None) -> Rendered:
        """A rendered response out of `entry` for requests of `policy`, not yet up to date."""
        return Rendered(entry, make, self.serialize, self.on_deliver, policy)

    def rendered(self, entry: Entry, make: Make, policy: Any = None) -> Rendered:
        """The one rendered response that every plain GET of `entry` shares."""
        rendered = self._rendered.get(id(entry))
        if rendered is None or rendered.entry is not entry or rendered.policy is not policy:
            rendered = self.render(entry, make, policy)
            if len(entry.content) <= LONGEST_ANSWER:  # what is evicted must not live on here
                before = len(self._rendered)
                self._rendered.remember(id(entry), rendered)
                if len(self._rendered) <= before:
                    self._forget_unshared()
        return rendered

    def _forget_unshared(self) -> None:
        """Let go of heads whose answer was shared, and is forgotten: nobody counts it any more."""
        for raw, known in list(self._known.items()):
            if type(known) is Hit and not known.own_bytes:
                shared = self._rendered.get(id(known.rendered.entry))
                if shared is not known.rendered:
                    self._known.forget(raw)

    def forget_gone(self) -> None:
        """Let go of answers out of entries that are no longer in memory."""
        for raw in [raw for raw, known in self._known.items() if type(known) is Hit and known.rendered.entry.gone]:
            self._known.forget(raw)
        for number in [number for number, rendered in self._rendered.items() if rendered.entry.gone]:
            self._rendered.forget(number)

    def forget_recoded(self) -> None:
        """Let go of heads for whose answer there is another coding by now, which their requests may accept."""
        grown = set()
        for raw, known in list(self._known.items()):
            if type(known) is Hit:
                entry = known.rendered.entry
                made = (entry.source or entry).codings_made
                if made is not None and made.grown:
                    grown.add(made)
                    self._known.forget(raw)
        for made in grown:
            made.grown = False

    def forget_all(self) -> None:
        """Forget all: what the answers follow from has changed."""
        self._known.clear()
        self._rendered.clear()

    def stop(self) -> None:
        """Forget all, and learn no more: from now on connections end with the responses under way."""
        self._stopped = True
        for raw in list(self._known):
            self._known.forget(raw)

    def __len__(self) -> int:
        return len(self._known)
