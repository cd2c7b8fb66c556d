"""llhttp (by httptools) as the splitter of request heads, and as one of the two that must accept them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import httptools

from edgecache.semantics.message import FieldLine
from edgecache.wire.errors import BadRequest

FEW: Final = 40  # field lines; of more, some are likely to have the same name


class _FirstLines:
    """What llhttp calls back with: for each line a dict's own method, which costs no frame of ours."""

    def __init__(self) -> None:
        self.lines: dict[bytes, bytes] = {}  # the first line of each name, in its spelling
        self.on_header = self.lines.setdefault
        self.complete = False

    def on_headers_complete(self) -> None:
        self.complete = True


class _EveryLine:
    """The same, where names are repeated."""

    def __init__(self) -> None:
        self.lines: list[FieldLine] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name, value))

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
        if count <= FEW:
            first = self._first
            first.lines.clear()
            first.complete = False
            try:
                if not _goes_on_after(raw, self._parser, first):
                    self.renew()
            except BadRequest:
                self.renew()
                raise
            if len(first.lines) == count:
                return first.lines.items()
        every = _EveryLine()
        _goes_on_after(raw, httptools.HttpRequestParser(every), every)
        return every.lines


def _goes_on_after(raw: bytes, parser: httptools.HttpRequestParser, told: _FirstLines | _EveryLine) -> bool:
    """Have the head `raw` read by `parser`; whether that can read another afterwards."""
    goes_on = True
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        goes_on = False
    except (httptools.HttpParserError, httptools.HttpParserInvalidMethodError) as error:
        raise BadRequest(400, "malformed-head", str(error)[:100]) from None
    if not told.complete:
        raise BadRequest(400, "malformed-head")
    return goes_on
