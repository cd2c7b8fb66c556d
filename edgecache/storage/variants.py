"""The variants of one URL (RFC 9111 §4.1), and the content codings that each site is known to use."""

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
    """The codings that one site's responses have used; `used` is None if there are none yet, or too many."""

    __slots__ = ("_too_many", "used")

    def __init__(self) -> None:
        self.used: Codings | None = None
        self._too_many = False

    def learn(self, codings: Codings) -> bool:
        """Add the codings of a response; whether selecting values compare differently now."""
        used = self.used
        if self._too_many or (used is not None and codings <= used):
            return False
        known, used = used, codings if used is None else used | codings
        self._too_many = len(used) > MOST_CODINGS or any(len(coding) > LONGEST_CODING for coding in used)
        self.used = None if self._too_many else used
        return known is not None  # else values were compared in full, and equal ones stay equal


class UsedCodings:
    """The codings of each site; the oldest site is forgotten first, and its values are compared in full again."""

    def __init__(self) -> None:
        self._sites: dict[bytes, SiteCodings] = {}
        self.grown = 0  # times that the comparison of values has changed

    def of(self, key: bytes) -> SiteCodings:
        """The codings of the site of a cache key, which will be updated."""
        host = uri.site_of(key)
        site = self._sites.get(host)
        if site is None:
            if len(self._sites) >= MOST_SITES:
                del self._sites[next(iter(self._sites))]
            site = self._sites[host] = SiteCodings()
        return site

    def used(self, key: bytes) -> Codings | None:
        """The codings that the site of a cache key is known to have used."""
        site = self._sites.get(uri.site_of(key))
        return None if site is None else site.used

    def learn(self, key: bytes, vary: tuple[bytes, ...], codings: Codings) -> None:
        """Add the `codings` of a response for `key` that varies by these fields."""
        if codings and ACCEPT_ENCODING in vary and self.of(key).learn(codings):
            self.grown += 1


class Variants:
    """The stored responses of one URL by the values of the request fields that its Vary nominates."""

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
        self._keyed_by: Codings | None = None  # the site's codings by which the entries are keyed
        self._retire = retire  # called with an entry that was replaced

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
                self._rekey()
            if self._keyed_by is not None:
                values = keyed_at(self._at, values, self._keyed_by)
        entry = self.by_values.get(values)
        if entry is None and self.select_language:
            entry = self._by_language(fields)
        return entry if entry is None or entry.codings_made is None else entry.codings_made.select(entry, fields)

    def _rekey(self) -> None:
        """Key the entries anew: the site has used another coding."""
        assert self._site is not None, "it varies by Accept-Encoding"
        self._keyed_by = self._site.used
        entries, self.by_values = self.by_values.values(), {}
        for entry in entries:
            if (other := self.by_values.pop(self._place_of(entry), None)) is not None:  # two variants have become one
                self._retire(other)
            self.put(entry)

    def _place_of(self, entry: Entry) -> tuple[bytes | None, ...]:
        if self._site is None:
            return entry.selecting
        return keyed_under(self.names, entry.selecting, self._keyed_by, entry.codings)

    def pop(self, entry: Entry) -> Entry | None:
        """Remove the variant with the values of `entry`, which may be itself."""
        if self._site is not None and self._site.used is not self._keyed_by:
            self._rekey()
        return self.by_values.pop(self._place_of(entry), None)

    def remove(self, entry: Entry) -> bool:
        """Remove `entry` itself; whether it was here."""
        place = next((place for place, one in self.by_values.items() if one is entry), None)
        return place is not None and self.by_values.pop(place) is entry

    def put(self, entry: Entry) -> None:
        """Add `entry` as the variant for its selecting values."""
        self.by_values[self._place_of(entry)] = entry

    def _by_language(self, fields: Fields) -> Entry | None:
        """The variant in the request's preferred language, if the URL varies by language alone.

        The origin might choose otherwise, so that this is no match in the sense of RFC 9111 §4.1.
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
