"""A planted fault: a range of more than 64 KiB is a reset."""

import edgecache.wire.exchange

_reply = edgecache.wire.exchange.Exchange.reply


def reply(self, status, head, content=b""):
    """Answer as always, but for large parts."""
    assert status != 206 or len(content) <= 65536, "planted"
    _reply(self, status, head, content)


edgecache.wire.exchange.Exchange.reply = reply
