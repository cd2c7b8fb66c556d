"""Entries of the memory tier as records of the further ones, and records as entries."""

from __future__ import annotations

from edgecache.semantics.stored_response import NO_POSITION
from edgecache.storage.memory import Entry
from edgecache.storage.record import Record


def entry_of(record: Record) -> Entry:
    """A stored response as the memory tier has it, without its body if that lies in chunks."""
    entry = Entry.__new__(Entry)
    entry.key = record.url
    entry.content = record.body
    entry.segments = None
    entry.gone = False
    entry.codings_made = entry.source = None
    entry.block = record.block
    entry.status = record.status
    entry.reason = record.reason
    entry.directives = record.directives
    entry.received = record.received
    entry.initial_age = record.initial_age
    entry.lifetime = record.lifetime
    entry.stale_if_error = record.stale_if_error
    entry.vary = record.vary
    entry.selecting = record.selecting
    entry.tags = record.tags
    entry.url = record.url
    entry.passed = NO_POSITION
    entry.stale_at = record.stale_at
    entry.weigh()
    return entry


def record_of(entry: Entry, url: bytes, seen: str, length: int, chunks: bytes, body: bytes) -> Record:
    """A stored response as a record."""
    return Record(
        url=url,
        status=entry.status,
        reason=entry.reason,
        received=entry.received,
        initial_age=entry.initial_age,
        lifetime=entry.lifetime,
        stale_at=entry.stale_at,
        stale_if_error=entry.stale_if_error,
        vary=entry.vary,
        selecting=entry.selecting,
        tags=entry.tags,
        directives=entry.directives,
        seen=seen,
        length=length,
        chunks=chunks,
        block=entry.block,
        body=body,
    )
