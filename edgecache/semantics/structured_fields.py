"""Structured Fields (RFC 9651), by the `http-sf` library, with one result for every malformed value."""

from __future__ import annotations

from typing import Any

import http_sf


def parse_dictionary(value: bytes) -> dict[str, Any] | None:
    """The bare values of a Dictionary's members (an inner list is a list of bare values); None if malformed."""
    try:
        members: Any = http_sf.parse(value, tltype="dictionary")
    except (http_sf.StructuredFieldError, ValueError):  # ValueError: bytes that are not ASCII
        return None
    return {name: _bare(member) for name, (member, _) in members.items()}


def parse_list(value: bytes) -> list[Any] | None:
    """The bare values of a List's members (an inner list is a list of bare values); None if malformed."""
    try:
        members: Any = http_sf.parse(value, tltype="list")
    except (http_sf.StructuredFieldError, ValueError):
        return None
    return [_bare(member[0]) for member in members]


def _bare(member: Any) -> Any:
    return [item for item, _ in member] if isinstance(member, list) else member
