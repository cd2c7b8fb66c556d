"""The invalidation rules of one POP without its tiers: the product's own functions over stand-ins, for the models.

Everything that judges is the product's: what is stored, what a hit is, what a child and its parent tell each other. The
stand-ins only hold what they are given.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from edgecache.invalidation.purge_log import PurgeLog, Stamp, Verdict
from edgecache.invalidation.scopes import Subject
from edgecache.invalidation.validity import Invalidation, written
from edgecache.invalidation.version_vector import Vector
from edgecache.semantics.message import NO_BODY, Fields, Request, Response
from edgecache.upstream.peer_fields import from_child, required_by
from edgecache.upstream.peering import Parental, tell_of_entry, tell_of_reply

PAGE: Final = Subject(b"http://a/")
GET: Final = Request(b"GET", b"/", b"a", Fields([]), NO_BODY)


class Held:
    """A stored response, as far as the rules look at it."""

    __slots__ = ("key", "passed", "softened", "tags", "url")

    def __init__(self, passed: int = 0) -> None:
        self.key = self.url = PAGE.key
        self.tags = PAGE.tags
        self.passed = passed
        self.softened = False

    def soften(self, now: float) -> None:
        """Make it stale."""
        self.softened = True


class Nowhere:
    """A memory, and fetches, that hold nothing."""

    def normal_key(self, key: bytes) -> bytes:
        """No URLs are merged."""
        return key

    def merged_keys(self, key: bytes) -> list[bytes]:
        """No URLs are merged."""
        return []

    def drop(self, entry: Held) -> None:
        """It is not here."""

    def resize(self, entry: Held) -> None:
        """It is not here."""

    def invalidate(self, key: bytes) -> None:
        """It is not here."""

    def dissolve(self, names: frozenset[bytes]) -> None:
        """None is under way."""


class Asked(NamedTuple):
    """A request to a parent: its stamp, what it says that the child knows, and whether only the origin may answer."""

    stamp: Stamp
    required: Vector
    forced: bool


class Rules:
    """The rules of a POP that has applied what is in `log`."""

    def __init__(self, log: PurgeLog, *, replaying: bool = False) -> None:
        nowhere: Any = Nowhere()
        self.log = log
        self.invalidation = Invalidation(log, nowhere, nowhere)
        self.invalidation.replaying = replaying
        self.parental = Parental(b"child", "eu", b"", self.invalidation, lambda: 0.0, lambda peer: False)

    # --- hits: what the entry remembers once it was used; None if it may not be used as it is

    def hit_by_known_head(self, passed: int) -> int | None:
        """A hit whose head was seen before, out of an entry that remembers `passed`."""
        entry: Any = Held(passed)
        return entry.passed if self.invalidation.is_usable(entry) else None

    def hit(self, passed: int) -> int | None:
        """Any other hit in memory."""
        entry: Any = Held(passed)
        usable = self.invalidation.check(entry, 0.0) is Verdict.USABLE
        return entry.passed if usable and not entry.softened else None

    def hit_by_known_record(self, seen: Vector) -> int | None:
        """A hit in the regional tier that is sent as it is, out of a record with this vector."""
        record: Any = SimpleNamespace(url=PAGE.key, tags=PAGE.tags, seen=written(seen))
        return self.log.position if self.invalidation.is_proven(record) else None

    def regional_hit(self, seen: Vector) -> int | None:
        """Any other hit in the regional tier."""
        entry: Any = Held()
        usable = self.invalidation.check_record(entry, written(seen), 0.0) is Verdict.USABLE
        return entry.passed if usable and not entry.softened else None

    # --- fills

    def filled(self, stamp: Stamp) -> int | None:
        """What an entry remembers of a fetch that was sent at `stamp` and has ended now; None: it is not stored."""
        return self.invalidation.passed(PAGE.key, PAGE.tags, stamp)

    # --- a child

    def ask_parent(self) -> Asked:
        """A request to the parent, sent now."""
        forced = self.parental.must_ask_itself(PAGE.key)
        sent = GET._replace(fields=Fields(self.parental.fields(GET, GET.fields, "", b"http")))
        heard = from_child(sent, b"child")
        assert heard is not None
        assert heard.child is not None
        return Asked(self.log.stamp(), required_by(heard.child), forced)

    def heard(self, asked: Asked, told: bytes) -> Stamp:
        """The stamp of the parent's response, which says `told`."""
        lines = [line.partition(b": ") for line in told.split(b"\r\n") if line]
        response = Response(200, Fields([(name, value) for name, _, value in lines]))
        return asked.stamp if asked.forced else self.parental.proven(PAGE.key, asked.stamp, response)

    # --- a parent

    def told_of_entry(self, passed: int) -> bytes:
        """What a child is told with a response out of an entry that remembers `passed`."""
        exchange: Any = SimpleNamespace(extra=b"")
        entry: Any = Held(passed)
        tell_of_entry(exchange, entry, self.invalidation, 0.0)
        return bytes(exchange.extra)

    def told_of_fill(self, stamp: Stamp) -> bytes:
        """What a child is told with the response to a fetch that was sent at `stamp`."""
        exchange: Any = SimpleNamespace(extra=b"", request=GET)
        reply: Any = SimpleNamespace(response=Response(200, GET.fields), tags=None, seen=stamp)
        tell_of_reply(exchange, reply, self.invalidation)
        return bytes(exchange.extra)
