"""Hits whose heads are not parsed in full: `head_template.py` says what is known of such heads."""

from __future__ import annotations

from collections.abc import Callable

from edgecache.proxy.components import Parts
from edgecache.proxy.deliver import Delivery
from edgecache.proxy.fastpath.head_template import Alike
from edgecache.storage.memory import Entry
from edgecache.storage.variants import Variants
from edgecache.wire.body_buffer import SLICE
from edgecache.wire.response_writer import ResponseWriter


class AlikeHits:
    """Answers GETs that are like known ones out of the memory. Whatever is new or not fresh is left to the long way."""

    def __init__(
        self, parts: Parts, delivery: Delivery, on_hit: Callable[[ResponseWriter, Alike, float], None]
    ) -> None:
        self._find = parts.alike.find
        self._answer = parts.alike.answer
        self._slot = parts.memory.slot
        self._still_passes = parts.invalidation.still_passes
        self._repeats = parts.known.is_worth_learning
        self._clock = parts.clock  # resident time
        self._delivery = delivery
        self._on_hit = on_hit  # told of each, with the time: to count and log

    def answers(self, connection: ResponseWriter, raw: bytes) -> bool:
        """Whether the request whose head is `raw` is answered now; if so, with what `Edge.answer` would answer."""
        alike = self._find(raw)
        if alike is None:
            return False
        entry = self._select(alike)
        if entry is None or entry.segments is not None or not self._still_passes(entry):
            return False
        likeness, now = alike.likeness, self._clock()
        rendered = self._delivery.rendering(entry) if likeness.is_plain else self._answer(likeness, entry)
        if rendered is None or not rendered.is_right(now) or self._repeats(raw):
            return False
        content = rendered.answer.content
        if rendered.full:
            connection.send_serialized(rendered.full)
        elif isinstance(content, bytes) and len(content) <= SLICE:  # what is longer is read slice by slice
            connection.send_serialized(rendered.head, content)
        else:
            return False
        alike.rendered = rendered
        self._on_hit(connection, alike, now)
        return True

    def _select(self, alike: Alike) -> Entry | None:
        """What is stored for it (RFC 9111 §4.1)."""
        slot = self._slot(alike.key)
        return slot.select(alike.selecting(slot.names)) if isinstance(slot, Variants) else slot
