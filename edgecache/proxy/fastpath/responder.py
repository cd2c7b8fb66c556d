"""The fast path: from the fingerprint of a head to a plan, without parsing the head.

    fingerprint ──► head_memo.py ──► Hit | Pass | RegionalRead     these very bytes were parsed and answered before
                └─► head_template.py ──► TemplateHit               they differ from such in unkeyed fields only

A fingerprint is a head's bytes after what middleware puts before them (`proxy/pipeline.py`). A hit, from wherever it
comes, leaves in one of three ways:

    FastPath.answer           serialized before: one write
    responses.send_stored     one response, built out of a stored one in memory or in the regional tier
    RegionalParts             a range of a body in chunks, streamed as the chunks come
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from edgecache.proxy.components import Parts
from edgecache.proxy.deliver import Delivery
from edgecache.proxy.fastpath.head_memo import Hit, Pass, RegionalRead
from edgecache.proxy.fastpath.head_template import TemplateHit
from edgecache.proxy.regional_deliver import RegionalHits
from edgecache.storage.memory import Entry
from edgecache.storage.variants import Variants
from edgecache.wire.response_writer import ResponseWriter

OnHit = Callable[[ResponseWriter, Hit | TemplateHit, float], None]


class FastPath:
    """Carries out plans. Whatever is new, or not fresh, is left to the parser and to `Edge.answer`."""

    def __init__(self, parts: Parts, delivery: Delivery, regional_hits: RegionalHits | None, on_hit: OnHit) -> None:
        self.on_hit = on_hit  # for counting and logging: each hit, with the time
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

    def answer(self, connection: ResponseWriter, raw: bytes) -> bool:
        """Answer, or pass on, the request with the fingerprint `raw`, if there is a plan and it still holds."""
        plan: Any = self._plan(raw) or self._from_template(raw)  # Hit, TemplateHit, Pass or RegionalRead
        kind = type(plan)
        if kind is Pass:
            return self._pass(connection, plan, raw, self._clock()) or self._forget(raw)
        if plan is None or kind is RegionalRead:
            return plan is not None and self._read_region(connection, plan, raw)
        now = self._clock()
        rendered = plan.rendered
        if rendered.entry.passed != self._log.fence and not self._is_usable(rendered.entry):
            return False
        if not rendered.is_right(now):
            return self._forget(raw)
        if kind is not Hit and not plan.is_new and self._is_worth_learning(raw):
            return False
        full = rendered.full
        if not full and not (rendered.is_one_write and connection.site.run_queue.has_room()):
            return False  # it is read slice by slice, or takes turns with other long ones
        if plan.gate is not None and not plan.gate(connection, now):
            return kind is not Hit and self._gate_is_shut(plan, raw)
        if full:
            connection.write_serialized(full)
        else:
            connection.send_serialized(rendered.head, rendered.answer.content)
        self.on_hit(connection, plan, now)
        return True

    def _read_region(self, connection: ResponseWriter, plan: RegionalRead, raw: bytes) -> bool:
        """Ask the regional tier for what the plan names."""
        return self._regional_hits is not None and self._regional_hits.look_up(connection, plan, raw, self._clock())

    def _forget(self, raw: bytes) -> Literal[False]:
        """Forget the plan for `raw`, which no longer holds: the request goes the long way."""
        self._known.forget_one(raw)
        return False

    def _from_template(self, raw: bytes) -> TemplateHit | None:
        """The hit that a template gives, if its response is in memory as a whole."""
        hit = self._template_hit(raw)
        entry = None if hit is None else self._select(hit)
        if hit is None or entry is None or entry.segments is not None:
            return None
        template = hit.template
        rendered = self._rendering(entry, hit.policy) if template.is_plain else self._conditional(template, entry)
        if rendered is None:
            return None
        hit.rendered = rendered
        return hit

    def _select(self, hit: TemplateHit) -> Entry | None:
        """The stored response that is selected for it (RFC 9111 §4.1)."""
        slot = self._slot(hit.key)
        return slot.select(hit.selecting(slot.names)) if isinstance(slot, Variants) else slot
