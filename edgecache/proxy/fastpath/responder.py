"""The fast path: from the fingerprint of a head to a plan, without parsing the head.

    fingerprint ──► head_memo.py ──► Hit | Pass | RegionalRead     these very bytes were parsed and answered before
                └─► head_template.py ──► TemplateHit | StoreRead   they differ from such in unkeyed fields only

A fingerprint is a head's bytes after what middleware puts before them (`proxy/pipeline.py`). A hit, from wherever it
comes, leaves in one of four ways:

    FastPath.answer           serialized before: one write
    StoreHits                 out of the machine's store, with a head that is serialized then: one write
    responses.send_stored     one response, built out of a stored one in memory or in the regional tier
    RegionalParts             a range of a body in chunks, streamed as the chunks come
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from edgecache.proxy.components import Parts
from edgecache.proxy.deliver import Delivery
from edgecache.proxy.fastpath.head_memo import Hit, Pass, RegionalRead
from edgecache.proxy.fastpath.head_template import TemplateHit
from edgecache.proxy.fastpath.range_hits import RangeHits
from edgecache.proxy.regional_deliver import RegionalHits
from edgecache.proxy.store_hits import OnStoreHit, StoreHits
from edgecache.semantics.outcomes import Forward
from edgecache.storage.memory import Entry
from edgecache.storage.variants import Variants
from edgecache.wire.response_writer import ResponseWriter

OnHit = Callable[[ResponseWriter, Hit | TemplateHit, float], None]


class StoreRead(NamedTuple):
    """A request with a template whose response is not in memory, and why."""

    hit: TemplateHit
    why: Forward


class FastPath:
    """Carries out plans. Whatever is new, or not fresh, is left to the parser and to `Edge.answer`."""

    def __init__(self, parts: Parts, delivery: Delivery, regional_hits: RegionalHits | None, on_hit: OnHit) -> None:
        self.on_hit = on_hit  # for counting and logging: each hit, with the time
        region = parts.region
        near = None if region is None else region.tier.near
        self.store_hits = None if region is None or near is None else StoreHits(parts, region, near)
        self._plan = parts.known.get
        self._known = parts.known
        self._is_worth_learning = parts.known.is_worth_learning
        self._template_hit = parts.alike.find
        self._conditional = parts.alike.answer
        self._gate_is_shut = parts.alike.refused
        self._slot = parts.memory.slot
        self._is_usable = parts.invalidation.is_usable
        self._log = parts.invalidation.log  # what passed at its fence is usable: known without a call
        self._clock = parts.clock  # resident time
        self._pass = parts.relays.pass_known
        self._rendering = delivery.rendering
        self._regional_hits = regional_hits
        self.ranges = RangeHits(parts)

    def count_by(self, on_hit: OnHit, on_store_hit: OnStoreHit) -> None:
        """From now on hits are counted and logged by these, those of the machine's store by the second."""
        self.on_hit = on_hit
        if self.store_hits is not None:
            self.store_hits.on_hit = on_store_hit

    def answer(self, connection: ResponseWriter, raw: bytes) -> bool:
        """Answer, or pass on, the request with the fingerprint `raw`, if there is a plan and it still holds."""
        plan: Any = self._plan(raw) or self._from_template(raw)  # Hit, TemplateHit, Pass, RegionalRead or StoreRead
        kind = type(plan)
        if kind is not Hit and kind is not TemplateHit:
            if kind is Pass:
                return self._pass(connection, plan, raw, self._clock()) or self._forget(raw)
            return plan is not None and self._read_tiers(connection, plan, raw)
        now = self._clock()
        rendered = plan.rendered
        if rendered.entry.passed != self._log.fence and not self._is_usable(rendered.entry):
            return False
        if not rendered.is_right(now):
            return self._forget(raw)
        full = rendered.full  # else the head is not learnt
        if full and kind is not Hit and not plan.is_new and self._is_worth_learning(raw):
            return False
        if not full and not (rendered.is_one_write and connection.site.run_queue.has_room_for_a_hit()):
            return False  # it is read slice by slice, or takes turns with other long ones
        if plan.gate is not None and not plan.gate(connection, now):
            return kind is not Hit and self._gate_is_shut(plan, raw)
        if full:
            connection.write_serialized(full)
        else:
            connection.send_serialized(rendered.head, rendered.answer.content)
        self.on_hit(connection, plan, now)
        return True

    def _read_tiers(self, connection: ResponseWriter, plan: RegionalRead | StoreRead, raw: bytes) -> bool:
        """Read what the plan names: out of the machine's store if it is there, or else out of the regional tier."""
        hits, store = self._regional_hits, self.store_hits
        if store is not None:
            if isinstance(plan, StoreRead):
                return store.templated(connection, plan.hit, raw, plan.why)
            answered = store.known(connection, plan)
            if answered is not False:
                return bool(answered)  # what is not admitted goes the long way
        elif isinstance(plan, StoreRead):
            return False
        return hits is not None and hits.look_up(connection, plan, raw, self._clock())

    def _forget(self, raw: bytes) -> Literal[False]:
        """Forget the plan for `raw`, which no longer holds: the request goes the long way."""
        self._known.forget_one(raw)
        return False

    def _from_template(self, raw: bytes) -> TemplateHit | StoreRead | None:
        """The hit that a template gives, if its response is in memory as a whole, or not at all."""
        hit = self._template_hit(raw)
        if hit is None or not hit.template.is_plain:
            return None if hit is None else self._partial(hit)
        entry = self._select(hit)
        if entry is None or entry.segments is not None:
            return None if entry is not None else self._not_in_memory(hit)
        hit.rendered = self._rendering(entry, hit.policy)
        return hit

    def _partial(self, hit: TemplateHit) -> TemplateHit | None:
        """The hit that a template of requests with a range or a condition gives, if it is known."""
        found: Any = self.ranges.out_of_slices(hit) if hit.template.is_ranged else None
        if found is None and (entry := self._select(hit)) is not None and entry.segments is None:
            is_ranged = hit.template.is_ranged
            found = self.ranges.out_of_whole(hit, entry) if is_ranged else self._conditional(hit.template, entry)
        if found is None:
            return None
        hit.rendered = found
        return hit

    def _select(self, hit: TemplateHit) -> Entry | None:
        """The stored response that is selected for it (RFC 9111 §4.1)."""
        slot = self._slot(hit.key)
        return slot.select(hit.selecting(slot.names)) if isinstance(slot, Variants) else slot

    def _not_in_memory(self, hit: TemplateHit) -> StoreRead | None:
        """Whether the machine's store may have its response."""
        if self.store_hits is None:
            return None
        return StoreRead(hit, Forward.URI_MISS if self._slot(hit.key) is None else Forward.VARY_MISS)
