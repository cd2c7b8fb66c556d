"""A planted fault: a soft purge takes effect half a second late."""

import edgecache.storage.memory

_soften = edgecache.storage.memory.Entry.soften
edgecache.storage.memory.Entry.soften = lambda self, now: _soften(self, now + 0.5)
