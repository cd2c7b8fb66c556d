"""An origin that answers ranges as RFC 9110 §14 has it, so that each question has one right answer."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field

from harness.origin import ReceivedRequest, Reply

_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass
class RangedOrigin:
    """Serves `content` under `etag`, whole or one range of it; use it as an origin's `otherwise`."""

    content: bytes
    etag: str | None = '"v1"'
    fields: list[tuple[str, str]] = field(default_factory=lambda: [("Cache-Control", "max-age=60")])
    asked: list[str] = field(default_factory=list)  # the Range of each request, or "whole"

    def __call__(self, request: ReceivedRequest) -> Reply:
        """The answer to one request."""
        self.asked.append(request.get("range") or "whole")
        fields = [*self.fields, *([("ETag", self.etag)] if self.etag else [])]
        if self.etag is not None and request.get("if-none-match") == self.etag:
            return Reply(304, fields)
        span = self.span(request)
        if span is None:
            return Reply(200, fields, self.content)
        first, end = span
        if first >= end:
            return Reply(416, [("Content-Range", f"bytes */{len(self.content)}")])
        fields.append(("Content-Range", f"bytes {first}-{end - 1}/{len(self.content)}"))
        return Reply(206, fields, self.content[first:end])

    def span(self, request: ReceivedRequest) -> tuple[int, int] | None:
        """The bytes that a request asks for, or None for the whole."""
        match = _ONE_RANGE.fullmatch(request.get("range") or "")
        condition = request.get("if-range")
        strong = self.etag is not None and not self.etag.startswith("W/")
        unmet = condition is not None and not (strong and condition == self.etag)
        if match is None or unmet or request.method != "GET":  # RFC 9110 §14.2: it is defined for GET alone
            return None
        size = len(self.content)
        if not match[1]:
            return max(0, size - int(match[2])), size
        return int(match[1]), min(int(match[2]) + 1, size) if match[2] else size


def numbered(size: int, at: int = 0) -> bytes:
    """So many bytes, no two places alike over a long way."""
    numbers = array("I", range(at // 4, (at + size) // 4 + 1))
    return numbers.tobytes()[at % 4 :][:size]
