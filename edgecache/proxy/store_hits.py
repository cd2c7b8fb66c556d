"""The fast path of a hit in the machine's store: a plain GET whose head is known, or has a template.

    head known ──► not in memory ──► the record, as it lies there ──► fresh? not purged? ──► head and body: one write

No exchange and no entry are made. What is not at hand, or not as usual, takes the path in `proxy/edge.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from edgecache.invalidation.purge_log import Verdict
from edgecache.proxy.components import Parts
from edgecache.proxy.fastpath.head_memo import LONGEST_ANSWER, LONGEST_KEPT, Gate, KnownHeads, RegionalRead
from edgecache.proxy.fastpath.head_template import TemplateHit
from edgecache.proxy.regional_fetch import Region
from edgecache.proxy.responses import WITHOUT_LENGTH
from edgecache.semantics import cache_status
from edgecache.semantics.outcomes import Forward, Result
from edgecache.semantics.rules.debug_fields import Times
from edgecache.storage.near_records import NearRecord, NearRecords
from edgecache.storage.record import storage_key
from edgecache.storage.regional import Found
from edgecache.wire.body_buffer import SLICE
from edgecache.wire.response import FullResponse
from edgecache.wire.response_writer import ResponseWriter

REGIONAL: Final = Result.REGIONAL.value
Plan = RegionalRead | TemplateHit


# For counting and logging: the connection, what led to the record, the record, why it did not come out of memory, the
# policy of the request, and the time.
OnStoreHit = Callable[[ResponseWriter, Plan, NearRecord, Forward, Any, float], None]


def _uncounted(
    connection: ResponseWriter, plan: Plan, record: NearRecord, why: Forward, policy: Any, now: float
) -> None:
    """Nothing is counted."""


class StoreHits:
    """Answers plain requests out of the machine's store. Its state is in the parts that it receives."""

    def __init__(self, parts: Parts, region: Region, near: NearRecords) -> None:
        self.on_hit: OnStoreHit = _uncounted
        self._region = region
        self._near = near
        self._near_key = region.tier.near_key
        self._memory = parts.memory
        self._marks = parts.flights.marks
        self._invalidation = parts.invalidation
        self._log = parts.invalidation.log
        self._known: KnownHeads = parts.known
        self._clock = parts.clock  # resident time
        self._before_ttl = parts.pop + b"/store; hit; ttl="
        whys = (Forward.URI_MISS, Forward.VARY_MISS)
        self._after_ttl = {why: cache_status.from_tier(parts.pop, b"", why) for why in whys}

    def known(self, connection: ResponseWriter, plan: RegionalRead) -> bool | None:
        """Answer the request of `plan`, if its response is at hand, fresh and not purged; None: it is not admitted."""
        key = plan.key
        if key in self._marks or self._memory.has(key):
            return False
        now, at = self._clock(), self._near_key(plan.base, key, plan.selecting)
        record = None if at is None else self._near.read_again(key, at, plan.record)
        if record is None or not (now < record.stale_at and self._may_be_used(record)):
            return False
        if not _is_admitted(connection, record, plan.gate, now):
            return None
        self._answer(connection, plan, record, Forward.URI_MISS, plan.request.policy, now)
        record.content = b""  # the plan must not hold it
        plan.record = record if plan.own_bytes and len(record.head) <= LONGEST_KEPT else None
        return True

    def templated(self, connection: ResponseWriter, hit: TemplateHit, raw: bytes, why: Forward) -> bool:
        """The same of a template that gives a plain request; False too if the head `raw` is worth being known."""
        key = hit.key
        if key in self._marks:
            return False
        now, at = self._clock(), self._near_key(storage_key(key), key, hit.selecting)
        record = None if at is None else self._near.read(key, at)
        if record is None or not (now < record.stale_at and self._may_be_used(record)):
            return False
        if not hit.is_new and self._known.is_worth_learning(raw):
            return False
        if not _is_admitted(connection, record, hit.gate, now):
            return False
        self._answer(connection, hit, record, why, hit.policy, now)
        return True

    def _may_be_used(self, record: NearRecord) -> bool:
        """Whether it was not purged, and leaves in one write."""
        if self._invalidation.shared is not None:
            self._invalidation.shared.catch_up()
        if record.passed != self._log.fence:
            if not self._invalidation.passes(record, record.passed):
                return False
            self._near.note(record, self._log.position)
        return record.length <= SLICE and record.status not in WITHOUT_LENGTH

    def _answer(
        self, connection: ResponseWriter, plan: Plan, record: NearRecord, why: Forward, policy: Any, now: float
    ) -> None:
        if now >= record.until:
            self._make_head(record, why, policy, now)
        if record.length <= LONGEST_ANSWER:
            connection.write_serialized(record.head + record.content)
        else:
            connection.send_serialized(record.head, record.content)
        self._near.count_hit()
        self.on_hit(connection, plan, record, why, policy, now)
        fills = record.length <= self._memory.largest and (policy is None or not policy.actions.caching.read_only)
        if fills and self._region.rises(plan.key):
            self._region.tier.look_up(plan.key, plan.request.fields, self._adopt)

    def _make_head(self, record: NearRecord, why: Forward, policy: Any, now: float) -> None:
        """Make the head, as it goes out until Age changes."""
        age = int(record.initial_age + max(0.0, now - record.received))
        record.until = record.received - record.initial_age + age + 1
        record.outcome = b"%b%d%b" % (self._before_ttl, int(record.lifetime - age), self._after_ttl[why])
        fields = b"%bAge: %d\r\nCache-Status: %b\r\n" % (record.block, age, record.outcome)
        scheme, added = b"https" if record.url.startswith(b"https") else b"http", self._known.on_deliver
        if policy is not None and policy.changes_fields:
            times = Times(regional=self._clock() - now)
            fields = policy.delivered(record.status, REGIONAL, fields, scheme, b"", times)
        if added is not None:
            fields += added(scheme, fields, False)
        response = FullResponse(record.status, fields, b"", record.length, record.reason)
        record.head = self._known.serialize(response)

    def _adopt(self, found: Found | None) -> None:
        """What was read again so soon goes into memory."""
        if found is None or not found.whole or self._memory.has(found.record.url):
            return
        if self._region.check(found) is Verdict.USABLE:
            self._memory.adopt(found.entry, found.record.length)


def _is_admitted(connection: ResponseWriter, record: NearRecord, gate: Gate | None, now: float) -> bool:
    """Whether the request is answered now: of long ones, some in each turn of the loop; middleware may have a gate."""
    if record.length > LONGEST_ANSWER and not connection.site.run_queue.has_room_for_a_hit():
        return False
    return gate is None or gate(connection, now)
