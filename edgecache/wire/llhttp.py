"""llhttp (by httptools) as the splitter of request heads, and as one of the two that must accept them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

import httptools

from edgecache.rules.message import FieldLine
from edgecache.wire.errors import BadRequest

LINE: Final = re.compile(rb"([^:\r]++):[ \t]*+([^\r]*+)\r\n")


class _FirstLines:
    """What llhttp calls back with: for each line a dict's own method, which costs no frame of ours."""

    def __init__(self) -> None:
        self.lines: dict[bytes, bytes] = {}  # the first line of each name, in its spelling
        self.on_header = self.lines.setdefault
        self.complete = False

    def on_headers_complete(self) -> None:
        self.complete = True


class Splitter:
    """Splits heads into field lines. It keeps one parser, which stands at a message's start between two calls."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Take a new parser: the last head was one after which llhttp waits for a body, or for the end."""
        self._first = _FirstLines()
        self._parser = httptools.HttpRequestParser(self._first)

    def split(self, raw: bytes, count: int) -> Collection[FieldLine]:
        """The field lines of the head `raw`, so many, as llhttp reads them; its refusal is a `BadRequest`."""
        first = self._first
        first.lines.clear()
        first.complete = False
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            self.renew()
        except (httptools.HttpParserError, httptools.HttpParserInvalidMethodError) as error:
            self.renew()
            raise BadRequest(400, "malformed-head", str(error)[:100]) from None
        if not first.complete:
            self.renew()
            raise BadRequest(400, "malformed-head")
        return first.lines.items() if len(first.lines) == count else _every_line(raw)


def _every_line(raw: bytes) -> list[FieldLine]:
    """The field lines of a head that llhttp has accepted, where names are repeated: as it reads them."""
    return LINE.findall(raw, raw.find(b"\n") + 1)
