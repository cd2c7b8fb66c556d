"""The record of a request that was refused before its head was complete or valid, for counters and the access log."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from edgecache.semantics.message import Fields, Request
from edgecache.wire.errors import BadRequest
from edgecache.wire.exchange import Exchange
from edgecache.wire.handler import Site

if TYPE_CHECKING:
    from edgecache.wire.response_writer import ResponseWriter

LONGEST_TARGET: Final = 1024  # bytes of it that are logged
REQUEST_LINE: Final = re.compile(rb"(?:\r\n)?([!-~]{1,64}) ([^ \r\n]{0,%d})" % LONGEST_TARGET)
NOTHING: Final = Fields(())


class Refusal(Exchange):
    """An exchange that never was: of the head, only the request line is parsed, and leniently."""

    def __init__(
        self,
        site: Site,
        error: BadRequest,
        client: str,
        scheme: bytes,
        head: bytes = b"",
        connection: ResponseWriter | None = None,
    ) -> None:
        line = REQUEST_LINE.match(head)
        method, target = (line[1], line[2]) if line else (b"", b"")
        self.request = Request(method, target, b"", NOTHING, scheme=scheme)
        self.fingerprint = None
        self.body = None
        self.client = client
        self.began = site.clock()
        self.head_in = len(head)
        self.opened_on = connection
        self._writer = None
        self.refused_by(error)


def head_size(answer: bytes) -> int:
    """The bytes of an answer's head."""
    return answer.index(b"\r\n\r\n") + 4
