"""A planted fault: a range of more than 64 KiB is a reset."""

import edgecache.wire.exchange

_send = edgecache.wire.exchange.Exchange.send


def send(self, response):
    """Send as always, but for large parts."""
    assert response.status != 206 or len(response.content) <= 65536, "planted"
    _send(self, response)


edgecache.wire.exchange.Exchange.send = send
