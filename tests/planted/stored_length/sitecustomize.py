"""A planted fault: of some bodies the memory keeps the last byte only."""

import edgecache.storage.memory

_put = edgecache.storage.memory.Memory.put


def put(self, key, *rest, **named):
    """Store as always, and lose most of the body of large objects."""
    entry = _put(self, key, *rest, **named)
    if entry is not None and entry.segments is None and len(entry.content) > 100_000:
        entry.content = bytes(entry.content[-1:])
    return entry


edgecache.storage.memory.Memory.put = put
