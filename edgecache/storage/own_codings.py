"""The codings created here for one stored response: separate entries with the same lifetime.

They are no variants in the sense of RFC 9111 §4.1: whatever invalidates, freshens or evicts the response that they were
made of does the same to them, and only that one is validated, or goes into the regional tier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgecache.semantics.content_coding import ACCEPT_ENCODING, accepts_coded, coded, preferred

if TYPE_CHECKING:
    from edgecache.semantics.message import Fields, Request
    from edgecache.storage.memory import Entry

POPULAR: Final = 3  # seconds in which a response was requested: then the codings are made that take much CPU


class RulesOfNow:
    """The rules by which codings are made; once they are `replaced`, codings made by them are no longer used."""

    __slots__ = ("replaced",)

    def __init__(self) -> None:
        self.replaced = False


class OwnCodings:
    """The entries by their coding, the best first. Empty as long as none is made, and where none is to be made."""

    __slots__ = ("_second", "_seconds", "by_name", "grown", "later", "names", "rules")

    def __init__(self, rules: RulesOfNow) -> None:
        self.rules = rules
        self.by_name: dict[bytes, Entry] = {}
        self.names: tuple[bytes, ...] = ()
        self.later: tuple[bytes, ...] = ()  # all codings, the best first, while some wait until the response is popular
        self.grown = False  # by a coding that heads which are known may accept
        self._second = 0
        self._seconds = 0  # in which the response was requested

    def has_proven_popular(self, now: float) -> bool:
        """Note a request at `now`: whether there were some in `POPULAR` different seconds."""
        if self._second != (second := int(now)):
            self._second = second
            self._seconds += 1
        return self._seconds >= POPULAR

    def select(self, source: Entry, fields: Fields) -> Entry:
        """The representation for a request with `fields`: one of these, or `source`."""
        if not self.names or self.rules.replaced or not accepts_coded(fields):
            return source
        coding = preferred(fields.get(ACCEPT_ENCODING), self.names)
        return source if coding is None else self.by_name[coding]

    def put(self, coding: bytes, entry: Entry, order: tuple[bytes, ...]) -> None:
        """Add `entry`, in that coding; `order` has the best first."""
        self.by_name[coding] = entry
        self.grown = True
        self.names = tuple(name for name in order if name in self.by_name)

    def follow(self, source: Entry) -> None:
        """Take over the head of `source`, which has changed."""
        stored = source.stored
        for coding, entry in self.by_name.items():
            entry.passed = source.passed
            entry.set_head(coded(stored, coding))

    @property
    def size(self) -> int:
        """Bytes."""
        return sum([entry.size for entry in self.by_name.values()])


def representation(entry: Entry, request: Request) -> Entry:
    """The representation of a stored response for `request`; another POP makes its codings itself."""
    source = entry.source or entry
    if request.child is not None or source.codings_made is None:
        return source
    return source.codings_made.select(source, request.fields)
