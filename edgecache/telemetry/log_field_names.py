"""The names of the access log's fields, and the choice of some; `log_fields.py` has their meaning. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

NAMES: Final = (  # in the order of docs/logging.md
    *("time", "client", "forwarded_client", "country", "connection", "tls"),
    *("method", "scheme", "host", "site", "target", "protocol", "range", "request_id", "request_bytes"),
    *("status", "bytes", "head_bytes", "content_type", "duration_ms", "ttfb_ms"),
    *("cache", "result", "tier", "reason", "age", "ttl", "not_stored", "tags"),
    *("upstream", "upstream_status", "upstream_ms", "regional_ms"),
    *("user_agent", "referer", "trace_id"),
)
USUAL: Final = tuple(
    name
    for name in NAMES
    if name
    not in (
        *("forwarded_client", "country", "connection", "tls", "site", "range", "request_id", "request_bytes"),
        *("head_bytes", "content_type", "ttfb_ms", "age", "ttl", "tags"),
    )
)


def selected_fields(words: Iterable[str]) -> tuple[str, ...]:
    """The names chosen by `words`, in canonical order; raises ValueError for unknown fields."""
    names: set[str] = set()
    for word in words:
        if word in ("default", "all"):
            names.update(USUAL if word == "default" else NAMES)
        elif word in NAMES:
            names.add(word)
        else:
            raise ValueError(f"names {word}, which is not a field of the access log: see docs/logging.md")
    if not names:
        raise ValueError("chooses no field")
    return tuple(name for name in NAMES if name in names)
