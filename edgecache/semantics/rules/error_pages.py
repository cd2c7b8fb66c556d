"""Error pages of a site for browsers, instead of problem details: which one, and for which clients."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

HTML: Final = frozenset((b"text/html", b"application/xhtml+xml"))
PROBLEM: Final = frozenset((b"application/problem+json", b"application/json", b"application/*"))
_WEIGHT: Final = re.compile(rb";\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*(?:;|$)", re.IGNORECASE)


class ErrorPages:
    """HTML by status: a code comes before its class. What is in them is never changed."""

    def __init__(self, pages: Mapping[str, bytes]) -> None:
        self._pages = dict(pages)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ErrorPages) and other._pages == self._pages

    __hash__ = None  # type: ignore[assignment]

    def page_for(self, status: int, accept: bytes) -> bytes | None:
        """The page for a response of that status to a client with that Accept, if it is to get one."""
        page = self._pages.get(str(status)) or self._pages.get(f"{status // 100}xx")
        return page if page is not None and prefers_html(accept) else None


def prefers_html(accept: bytes) -> bool:
    """Whether Accept (RFC 9110 §12.5.1) names HTML, and no JSON with a greater weight: browsers do, programs do not."""
    html, problem = 0.0, 0.0
    for member in accept.lower().split(b","):
        kind = member.partition(b";")[0].strip()
        if kind in HTML:
            html = max(html, _weight(member))
        elif kind in PROBLEM:
            problem = max(problem, _weight(member))
    return html > 0 and html >= problem


def _weight(member: bytes) -> float:
    found = _WEIGHT.search(member)
    return 1.0 if found is None else float(found[1])
