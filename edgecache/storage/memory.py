"""L1: whole and partial responses in this worker's memory, within a budget of bytes. Synchronous.

Entries are compact: fields are packed, and the `Stored` value that the rules need is rebuilt only for requests that are
not plain. An entry is `gone` once it is evicted, replaced or invalidated; code that keeps one has to check that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final

from edgecache.semantics import uri
from edgecache.semantics.accept_encoding import Codings, codings_in_block, keyed, keyed_under
from edgecache.semantics.cache_key import SearchVariance, no_vary_search
from edgecache.semantics.content_coding import coded, may_be_coded
from edgecache.semantics.content_length import are_consistent, is_complete
from edgecache.semantics.field_codec import content_type_in, pack, unpack
from edgecache.semantics.message import Fields
from edgecache.semantics.outcomes import Refused
from edgecache.semantics.ranges import Segments
from edgecache.semantics.rope import Content
from edgecache.semantics.rules.directory import Sites
from edgecache.semantics.stored_response import Stored, current_age, etag_of, last_modified_of
from edgecache.semantics.vary import selecting_values
from edgecache.storage.eviction import POLICIES, EvictionPolicy
from edgecache.storage.memory_budget import Account
from edgecache.storage.own_codings import OwnCodings
from edgecache.storage.site_shares import share_out
from edgecache.storage.variants import UsedCodings, Variants
from edgecache.wire.body_charge import LARGE

log = logging.getLogger("edgecache")

ENTRY_OVERHEAD: Final = 900  # bytes that an entry costs beside head and body, its ghost included; measured by budget.py
TAG_OVERHEAD: Final = 48  # bytes
PART_OVERHEAD: Final = 160  # bytes
MOST_SEARCH_RULES: Final = 4096  # paths whose No-Vary-Search is remembered
SEARCH: Final = b"no-vary-search"


class Entry:
    """One stored response: whole (`content`) or in parts (`segments`)."""

    __slots__ = (
        "block",
        "codings_made",
        "content",
        "directives",
        "gone",
        "initial_age",
        "key",
        "lifetime",
        "passed",
        "reason",
        "received",
        "segments",
        "selecting",
        "size",
        "source",
        "stale_at",
        "stale_if_error",
        "status",
        "tags",
        "url",
        "vary",
    )

    def __init__(
        self, url: bytes, stored: Stored, content: Content, segments: Segments | None = None, passed: int = 0
    ) -> None:
        self.key = self.url = url  # `url` is as requested; `key` becomes where the entry lies
        self.passed = passed  # the log's position at which it was last known to be usable
        self.content = content
        self.segments = segments
        self.gone = False
        self.codings_made: OwnCodings | None = None  # of its content; None: nothing was decided yet
        self.source: Entry | None = None  # the entry whose content, coded, this one has
        self.set_head(stored)

    def set_head(self, stored: Stored) -> None:
        """Replace head and freshness by those of `stored`; the content stays."""
        self.block = pack(stored.fields.without((b"content-length",)))  # the length is that of what is sent
        self.status = stored.status
        self.reason = stored.reason
        self.directives = stored.directives
        self.received = stored.received
        self.initial_age = stored.initial_age
        self.lifetime = stored.lifetime
        self.stale_if_error = stored.stale_if_error
        self.vary = stored.vary
        self.selecting = stored.selecting
        self.tags = stored.tags
        self.stale_at = 0.0 if stored.directives.no_cache else stored.stale_at
        self.weigh()

    def soften(self, now: float) -> None:
        """It was softly purged: from `now` on, in epoch seconds, it is stale."""
        self.lifetime = min(self.lifetime, self.initial_age + max(0.0, now - self.received))
        self.stale_at = min(self.stale_at, now)

    def weigh(self) -> None:
        """Work out `size`, in bytes."""
        chosen = sum(len(value) for value in self.selecting if value is not None)
        tagged = sum(map(len, self.tags)) + TAG_OVERHEAD * len(self.tags) if self.tags else 0
        made = 0 if self.codings_made is None else self.codings_made.size
        self.size = ENTRY_OVERHEAD + len(self.key) + len(self.block) + chosen + tagged + self._held + made

    @property
    def _held(self) -> int:
        """Bytes of the content, or of the parts and what each costs."""
        parts = self.segments
        return len(self.content) if parts is None else parts.size + PART_OVERHEAD * len(parts.parts)

    @property
    def stored(self) -> Stored:
        """The value that the rules ask about, rebuilt."""
        fields = unpack(self.block)
        return Stored(
            status=self.status,
            reason=self.reason,
            fields=fields,
            directives=self.directives,
            received=self.received,
            initial_age=self.initial_age,
            lifetime=self.lifetime,
            vary=self.vary,
            selecting=self.selecting,
            etag=etag_of(fields),
            last_modified=last_modified_of(fields),
            stale_if_error=self.stale_if_error,
            first_byte=self.segments.parts[0][0] if self.segments else 0,
            whole_length=self.segments.whole if self.segments else None,
            tags=self.tags,
        )

    @property
    def contents(self) -> tuple[Content, ...]:
        """The content, or that of each part."""
        return (self.content,) if self.segments is None else tuple([content for _, content in self.segments.parts])

    @property
    def codings(self) -> Codings:
        """The codings that the content is in."""
        return codings_in_block(self.block)

    @property
    def content_type(self) -> bytes:
        """Its Content-Type; empty where it has none."""
        return content_type_in(self.block)

    @property
    def length(self) -> int:
        """The length of the whole representation, in bytes."""
        return len(self.content) if self.segments is None else self.segments.whole

    def age(self, now: float) -> int:
        """The value of `Age`, in whole seconds."""
        return int(current_age(self, now))

    def older_at(self, now: float) -> float:
        """When `age` is next another than at `now`."""
        return self.received - self.initial_age + self.age(now) + 1

    def __repr__(self) -> str:
        return f"<Entry {self.status}, {self.size} bytes{', gone' if self.gone else ''}>"


Slot = Entry | Variants


def _entries_of(slot: Slot | None) -> Iterable[Entry]:
    entries = tuple(slot.by_values.values()) if isinstance(slot, Variants) else () if slot is None else (slot,)
    made = [entry.codings_made.by_name.values() for entry in entries if entry.codings_made is not None]
    return chain(entries, *made) if made else entries


class Memory:
    """The mapping from cache keys to stored responses. Mutable state: the policy's queues, and the search rules."""

    def __init__(
        self,
        budget: int,
        policy: str,
        largest: int,
        max_variants: int,
        refused: Callable[[Refused], None] = lambda reason: None,
    ) -> None:
        self.limit = budget  # bytes
        self.largest = largest  # bytes of the largest body that is taken
        self.max_variants = max_variants
        self.select_language = False  # whether a variant may be selected by its Content-Language
        self._refused = refused  # called with the reason when a response is not stored
        self._warned = False  # that a length was wrong
        self.evictions = 0
        self.newly_coded = False  # since this was last looked at
        self.retired = 0  # times that something was taken out, or made room for what succeeds it
        self._slots: EvictionPolicy[bytes, Slot] = POLICIES[policy](
            budget, getsizeof=lambda slot: slot.size, on_evict=self._evicted, spares=self._spares
        )
        self.account = Account(budget, largest, self._slots.limit)  # what is held outside of the slots
        self.codings = UsedCodings()
        self._search: dict[bytes, tuple[SearchVariance, int]] = {}  # path → rule and its number
        self._spellings: dict[bytes, set[bytes]] = {}  # the name of a path → those that have rules
        self._search_count = 0

    def normal_key(self, key: bytes) -> bytes:
        """`key` as the path's `No-Vary-Search` merges it. A rule that changed never finds what an older one stored."""
        if not self._search:
            return key
        rule = self._search.get(key.partition(b"?")[0])
        return key if rule is None else rule[0].normal(key) + b" %d" % rule[1]

    def merged_keys(self, key: bytes) -> list[bytes]:
        """Under which keys No-Vary-Search has merged the URL of `key`, by whatever spelling of its path."""
        if not self._search:
            return []
        path, mark, query = key.partition(b"?")
        return [self.normal_key(one + mark + query) for one in self._spellings.get(uri.normalised(path), ())]

    def lookup(self, key: bytes, fields: Fields) -> tuple[Entry | None, bool]:
        """The stored response for a request, and whether anything is stored for its URL."""
        slot = self.slot(key)
        if slot is None:
            return None, False
        return (slot, True) if isinstance(slot, Entry) else (slot.select(fields), True)

    def slot(self, key: bytes) -> Slot | None:
        """What is stored for a URL: one response for all, or variants."""
        try:
            return self._slots[self.normal_key(key) if self._search else key]
        except KeyError:
            return None

    def has(self, key: bytes) -> bool:
        """Whether anything is stored for a URL; not counted as a hit."""
        return self._slots.peek(self.normal_key(key) if self._search else key) is not None

    def vary_of(self, key: bytes) -> tuple[bytes, ...]:
        """The field names by which the URL is known to vary."""
        slot = self._slots.peek(self.normal_key(key))
        return slot.names if isinstance(slot, Variants) else ()

    def values_for(self, key: bytes, fields: Fields) -> tuple[bytes | None, ...]:
        """The selecting values of a request with `fields`, among the known variants of a URL."""
        names = self.vary_of(key)
        return keyed(names, selecting_values(names, fields), self.codings.used(key)) if names else ()

    def suits(self, key: bytes, response: Stored | Entry, fields: Fields) -> bool:
        """Whether `response`, which was made for `key`, suits a request with `fields` (RFC 9111 §4.1)."""
        names = response.vary
        if not names:
            return True
        used = self.codings.used(key)
        asked = keyed(names, selecting_values(names, fields), used)
        return asked == keyed_under(names, response.selecting, used, response.codings)

    def share_out(self, sites: Sites | None) -> None:
        """Have `sites` hold their shares of it from now on."""
        share_out(self._slots, sites)

    def touch(self, entry: Entry) -> None:
        """`entry` was used without a look-up."""
        self._slots.touch(entry.key)

    # --- storing: each way proves the length of the content, and returns the entry; None if it is not stored

    def put(
        self, key: bytes, stored: Stored, content: Content, passed: int = 0, length: int | None = None
    ) -> Entry | None:
        """Store a whole response that was usable at `passed`, a log position; `length` is what its tier declares."""
        proven = is_complete(stored, len(content), length)
        return self._store(Entry(key, stored, content, passed=passed), proven=proven)

    def put_parts(self, key: bytes, stored: Stored, segments: Segments, passed: int = 0) -> Entry | None:
        """Store the parts of a response that are known."""
        return self._store(Entry(key, stored, b"", segments, passed), proven=are_consistent(stored, segments))

    def adopt(self, entry: Entry, length: int) -> Entry | None:
        """Store an entry made by another tier, which declares its `length`."""
        return self._store(entry, proven=len(entry.content) == length)

    def _store(self, entry: Entry, *, proven: bool) -> Entry | None:
        """Store `entry` in the place of the one that it succeeds; None if its length is not `proven`, or too large."""
        if not self._takes(entry, proven=proven):
            return None
        self._learn(entry)
        entry.key = self.normal_key(entry.url)
        return self._keep(self._succeeding(self._slots.peek(entry.key), entry), entry)

    def _takes(self, entry: Entry, *, proven: bool) -> bool:
        """Whether `entry` may be stored: its length is `proven`, and it is not too large."""
        if not proven:
            self._refuse_length(entry.url)
        return proven and len(entry.content) <= self.largest

    def _refuse_length(self, key: bytes) -> None:
        self._refused(Refused.LENGTH)
        if not self._warned:
            self._warned = True
            log.error("not stored, since its length differs from the announced one: %r; others are only counted", key)

    def _succeeding(self, slot: Slot | None, entry: Entry) -> Slot:
        """What is stored for a URL once `entry` has taken its place in `slot`."""
        if entry.vary:
            return self._with_variant(slot, entry)
        if slot is not None:
            self._retire(slot)
        return entry

    def _with_variant(self, slot: Slot | None, entry: Entry) -> Variants:
        """The variants of a URL with `entry` among them, in the place of the one with its selecting values."""
        if not isinstance(slot, Variants) or slot.names != entry.vary:
            self._retire(slot)
            site = self.codings.of(entry.key)
            slot = Variants(entry.vary, site, self._retire, select_language=self.select_language)
        if (old := slot.pop(entry)) is not None:
            self._retire(old)
        slot.put(entry)
        while len(slot.by_values) > self.max_variants:
            self._retire(slot.by_values.pop(next(iter(slot.by_values))))
        return slot

    def _keep(self, slot: Slot, entry: Entry) -> Entry | None:
        """Charge `slot`, which has `entry`, to the budget; None if there is no room for it."""
        for content in entry.contents:
            self.account.entered(content)
        try:
            self._slots[entry.key] = slot
        except ValueError:  # larger than the whole budget
            self._retire(slot)
            self._slots.pop(entry.key, None)
        self.account.settle()
        return None if entry.gone else entry

    def resize(self, entry: Entry) -> None:
        """Charge `entry` anew: its head has changed, and its codings follow."""
        slot = self._slots.peek(entry.key)
        if slot is not None and not entry.gone:
            if entry.codings_made is not None and entry.codings_made.by_name:
                self._follow(entry, entry.codings_made)
            self._keep(slot, entry)

    # --- codings made here

    def add_coding(self, entry: Entry, coding: bytes, content: bytes, order: tuple[bytes, ...]) -> bool:
        """Keep the content of `entry` in that coding beside it; False if `entry` is not here any more."""
        slot = self._slots.peek(entry.key)
        made = entry.codings_made
        if entry.gone or slot is None or made is None or not may_be_coded(entry.stored):
            return False
        if slot is entry:
            slot = Variants((), self.codings.of(entry.key), self._retire)
            slot.put(entry)
        elif not isinstance(slot, Variants) or entry not in slot.by_values.values():
            return False
        other = Entry(entry.url, coded(entry.stored, coding), content, passed=entry.passed)
        other.key, other.source = entry.key, entry
        made.put(coding, other, order)
        entry.weigh()
        self.account.entered(content)
        self.newly_coded = True
        return self._keep(slot, entry) is not None

    def _follow(self, entry: Entry, made: OwnCodings) -> None:
        """Have the codings of `entry` follow its new head, or leave, if that forbids them."""
        if may_be_coded(entry.stored) and not made.rules.replaced:
            made.follow(entry)
        else:
            for other in made.by_name.values():
                other.gone = True
                self.account.left(other.content)
            self.retired += 1
            entry.codings_made = OwnCodings(made.rules)
        entry.weigh()

    def invalidate(self, key: bytes) -> bool:
        """Forget every response stored for a URL; whether there was one."""
        slot = self._slots.pop(self.normal_key(key), None)
        if slot is not None:
            self._retire(slot)
        return slot is not None

    def drop(self, entry: Entry) -> None:
        """Forget one response, in all of its codings."""
        entry = entry.source or entry
        slot = self._slots.peek(entry.key)
        self._retire(entry)
        if slot is entry:
            del self._slots[entry.key]
        elif isinstance(slot, Variants) and slot.remove(entry):
            if slot.names:
                self._slots[entry.key] = slot
            else:
                del self._slots[entry.key]

    def _learn(self, entry: Entry) -> None:
        """Remember what `entry` says of other requests: its No-Vary-Search, and a coding that its site uses."""
        search = entry.stored.fields.get(SEARCH) if SEARCH in entry.block.lower() else None
        if search is not None or self._search:
            self._learn_search(entry.url.partition(b"?")[0], search)
        if entry.vary:
            self.codings.learn(entry.url, entry.vary, entry.codings)

    def _learn_search(self, path: bytes, value: bytes | None) -> None:
        rule = no_vary_search(value)
        known = self._search.get(path)
        if rule is None:
            if known is not None:
                self._forget_search(path)
        elif known is None or known[0] != rule:
            if len(self._search) >= MOST_SEARCH_RULES:
                self._forget_search(next(iter(self._search)))
            self._search_count += 1
            self._search[path] = (rule, self._search_count)
            self._spellings.setdefault(uri.normalised(path), set()).add(path)

    def _forget_search(self, path: bytes) -> None:
        del self._search[path]
        name = uri.normalised(path)
        self._spellings[name].discard(path)
        if not self._spellings[name]:
            del self._spellings[name]

    def _spares(self, slot: Slot) -> bool:
        return isinstance(slot, Entry) and len(slot.content) >= LARGE and self.account.spares(slot.content)

    def _evicted(self, key: bytes, slot: Slot) -> None:
        self.evictions += 1
        self._retire(slot)

    def _retire(self, slot: Slot | None) -> None:
        self.retired += 1
        for entry in tuple(_entries_of(slot)):
            entry.gone = True
            for content in entry.contents:
                self.account.left(content)
            entry.codings_made = None

    @property
    def size(self) -> int:
        """Bytes in use."""
        return int(self._slots.currsize)

    def __len__(self) -> int:
        return len(self._slots)

    def __repr__(self) -> str:
        return f"<Memory {len(self)} URLs, {self.size} bytes>"
