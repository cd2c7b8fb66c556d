"""What the HTTP/1 connections of one pool share: a reader of heads that remembers them, and a buffer to read into."""

from __future__ import annotations

from edgecache.wire.h1.client import OriginConnection
from edgecache.wire.h1.head import ResponseHeads
from edgecache.wire.read_buffer import ReadBuffer
from edgecache.wire.upstream_connection import ResponseRules, UpstreamPool


class Http1:
    """Makes the connections of one pool."""

    def __init__(self, rules: ResponseRules) -> None:
        self.heads = ResponseHeads(rules.hidden, rules.unbelieved, rules.tagging, rules.max_fields)
        self.buffer = ReadBuffer()
        self.max_head = rules.max_head

    def __call__(self, pool: UpstreamPool) -> OriginConnection:
        """A connection of `pool`, to be handed to the transport."""
        return OriginConnection(pool, self)
