"""The product's rules of invalidation, each with a way to break it: owner, name, and what to put in its place.

The models find each of these breaks, and requests to a running POP call each of these functions.
"""

from __future__ import annotations

from typing import Any, Final

from edgecache.invalidation import validity, write_effects
from edgecache.invalidation.purge_log import PurgeLog, Verdict
from edgecache.invalidation.registers import Registers
from edgecache.invalidation.scopes import Subject
from edgecache.invalidation.validity import Invalidation
from edgecache.invalidation.version_vector import NOTHING, Vector
from edgecache.upstream import peering
from edgecache.upstream.peering import Parental

Broken = tuple[Any, str, Any]


def verdict_before_catching_up(self: Invalidation, stored: Any, seen: str) -> Verdict:
    """What is stored is believed before the log was caught up with."""
    return self.log.check_vector(Subject(stored.url), validity.vector_of(seen) or NOTHING)


def lines_that_require_nothing(request: Any, client: str, known: Vector, region: str) -> Any:
    """A child does not say what it knows."""
    return INTERNAL_LINES(request, client, NOTHING, region)


def advance_but_for_the_fence(self: PurgeLog, region: str, mark: int) -> None:
    """Entries are applied, and what was used before is not looked at again."""
    ADVANCE(self, region, mark)
    self.fence = 0


INTERNAL_LINES: Final = peering.internal_lines
ADVANCE: Final = PurgeLog._advance
HITS: Final[dict[str, Broken]] = {
    "a known head is always answered": (Invalidation, "is_usable", lambda self, entry: True),
    "a hit is not looked at": (Invalidation, "check", lambda self, entry, now: Verdict.USABLE),
    "positions are not compared": (Registers, "verdict_at", lambda self, names, site, seen: Verdict.USABLE),
    "a fill is stamped when it ends": (Invalidation, "passed", lambda self, key, tags, seen: self.log.position),
}
PURGE_RULES: Final[dict[str, Broken]] = HITS | {
    "a record is not looked at": (Invalidation, "check_record", lambda self, entry, seen, now: Verdict.USABLE),
    "a record is always proven": (Invalidation, "is_proven", lambda self, record: True),
    "a record is proven before its time": (Invalidation, "_verdict_on_record", verdict_before_catching_up),
    "vectors are not compared": (Registers, "verdict", lambda self, names, site, seen: Verdict.USABLE),
    "a child is told of purges that a fill has not seen": (Invalidation, "allows", lambda self, key, tags, seen: True),
    "a child requires nothing": (peering, "internal_lines", lines_that_require_nothing),
    "a parent does not wait": (PurgeLog, "has_applied", lambda self, vector: True),
    "a child stamps a response when it comes": (Parental, "proven", lambda self, key, asked, told: self._log.stamp()),
    "the fence stands still": (PurgeLog, "_advance", advance_but_for_the_fence),
    "what was missed is harmless": (PurgeLog, "_raise_floor", lambda self, region, mark: None),
}
WRITE_RULES: Final[dict[str, Broken]] = HITS | {
    "a fill is believed whatever came since": (PurgeLog, "is_at", lambda self, position: True),
    "a begin puts nothing in doubt": (PurgeLog, "_begin", lambda self, write: None),
    "doubt is not looked at": (PurgeLog, "_doubt", lambda self, names: Verdict.USABLE),
    "a fill is believed while a write is in doubt": (validity, "unproven_at", lambda position: position),
    "a write is of no target": (write_effects, "written_keys", lambda request: []),
    "a response invalidates nothing": (write_effects, "invalidated_keys", lambda request, response: []),
}
