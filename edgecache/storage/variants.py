"""The stored responses of one URL that varies, and what is learnt of the codings that each site uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from edgecache.semantics import uri
from edgecache.semantics.accept_encoding import ACCEPT_ENCODING, Codings, keyed_at, keyed_under
from edgecache.semantics.message import Fields
from edgecache.semantics.vary import preferred_language, selecting_values

if TYPE_CHECKING:
    from edgecache.storage.memory import Entry

MOST_SITES: Final = 4096
MOST_CODINGS: Final = 8  # of one site; where there are more, or longer names, Accept-Encoding counts in full
LONGEST_CODING: Final = 32  # bytes


class SiteCodings:
    """The codings that one site's answers have used; `used` None: none yet, or too many to tell."""

    __slots__ = ("_too_many", "used")

    def __init__(self) -> None:
        self.used: Codings | None = None
        self._too_many = False

    def learn(self, codings: Codings) -> bool:
        """An answer has used these; whether what was known counts otherwise now."""
        used = self.used
        if self._too_many or (used is not None and codings <= used):
            return False
        known, used = used, codings if used is None else used | codings
        self._too_many = len(used) > MOST_CODINGS or any(len(coding) > LONGEST_CODING for coding in used)
        self.used = None if self._too_many else used
        return known is not None  # else values counted in full, and those that were equal are so now


class UsedCodings:
    """What is known of each site, the one that was met first forgotten first: its values count in full again."""

    def __init__(self) -> None:
        self._sites: dict[bytes, SiteCodings] = {}
        self.grown = 0  # times that what a value counts as has changed

    def of(self, key: bytes) -> SiteCodings:
        """What is known, and will be, of the site of a cache key."""
        host = uri.site_of(key)
        site = self._sites.get(host)
        if site is None:
            if len(self._sites) >= MOST_SITES:
                del self._sites[next(iter(self._sites))]
            site = self._sites[host] = SiteCodings()
        return site

    def used(self, key: bytes) -> Codings | None:
        """What the site of a cache key is known to have used."""
        site = self._sites.get(uri.site_of(key))
        return None if site is None else site.used

    def learn(self, key: bytes, vary: tuple[bytes, ...], codings: Codings) -> None:
        """An answer for `key` that varies by these fields has used `codings`."""
        if codings and ACCEPT_ENCODING in vary and self.of(key).learn(codings):
            self.grown += 1


class Variants:
    """The stored responses of one URL that varies: by the values that the request's nominated fields had."""

    __slots__ = ("_at", "_keyed_by", "_retire", "_site", "by_values", "names", "select_language")

    def __init__(
        self,
        names: tuple[bytes, ...],
        site: SiteCodings,
        retire: Callable[[Entry], None],
        *,
        select_language: bool = False,
    ) -> None:
        self.names = names
        self.select_language = select_language
        self.by_values: dict[tuple[bytes | None, ...], Entry] = {}
        self._at = names.index(ACCEPT_ENCODING) if ACCEPT_ENCODING in names else 0
        self._site = site if ACCEPT_ENCODING in names else None
        self._keyed_by: Codings | None = None  # what the site had used when the entries were put where they lie
        self._retire = retire  # told of an entry that another has taken the place of

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(entry.size for entry in self.by_values.values()) + 400

    def select(self, fields: Fields) -> Entry | None:
        """The variant for a request with `fields` (RFC 9111 §4.1)."""
        values = selecting_values(self.names, fields)
        site = self._site
        if site is not None:
            if site.used is not self._keyed_by:
                self._move()
            if self._keyed_by is not None:
                values = keyed_at(self._at, values, self._keyed_by)
        entry = self.by_values.get(values)
        return self._by_language(fields) if entry is None and self.select_language else entry

    def _move(self) -> None:
        """The site has used another coding: let what is here lie by that."""
        assert self._site is not None, "it varies by Accept-Encoding"
        self._keyed_by = self._site.used
        entries, self.by_values = self.by_values.values(), {}
        for entry in entries:
            if (other := self.by_values.pop(self._place_of(entry), None)) is not None:  # what was apart is one now
                self._retire(other)
            self.put(entry)

    def _place_of(self, entry: Entry) -> tuple[bytes | None, ...]:
        if self._site is None:
            return entry.selecting
        return keyed_under(self.names, entry.selecting, self._keyed_by, entry.codings)

    def pop(self, entry: Entry) -> Entry | None:
        """Take out what lies in the place of `entry`, which may be itself."""
        if self._site is not None and self._site.used is not self._keyed_by:
            self._move()
        return self.by_values.pop(self._place_of(entry), None)

    def remove(self, entry: Entry) -> bool:
        """Take out `entry` itself; whether it was here."""
        place = next((place for place, one in self.by_values.items() if one is entry), None)
        return place is not None and self.by_values.pop(place) is entry

    def put(self, entry: Entry) -> None:
        """Let `entry` be the variant for what it was made for."""
        self.by_values[self._place_of(entry)] = entry

    def _by_language(self, fields: Fields) -> Entry | None:
        """The variant in the language that the request wants most, if language is all that it varies by.

        The origin might have chosen otherwise, so that this is not what RFC 9111 §4.1 means by a match.
        """
        if self.names != (b"accept-language",):
            return None
        wanted = preferred_language(fields.get(b"accept-language"))
        if wanted is None:
            return None
        for entry in self.by_values.values():
            language = entry.stored.fields.get(b"content-language")
            if language is not None and language.lower() == wanted:
                return entry
        return None
