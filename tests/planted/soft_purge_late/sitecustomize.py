"""A planted fault: a soft purge takes effect half a second late."""

import edgecache.memory

_soften = edgecache.memory.Entry.soften
edgecache.memory.Entry.soften = lambda self, now: _soften(self, now + 0.5)
