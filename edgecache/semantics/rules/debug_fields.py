"""Fields that report where a response came from: X-Cache, and Server-Timing (W3C Server Timing). Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from edgecache.semantics.message import Fields

NAMES: Final = {"regional": "HIT", "collapsed": "MISS"}  # results whose name differs
STORED: Final = frozenset(("hit", "regional", "stale", "revalidated"))  # of responses whose head is an older one


class Times(NamedTuple):
    """Time that this response took in other tiers, in seconds; 0: it was not there."""

    origin: float = 0.0  # until the head came
    regional: float = 0.0


NO_TIMES: Final = Times()


def with_debug_fields(fields: Fields, names: tuple[str, ...], status: int, result: str, times: Times) -> Fields:
    """`fields` of a response with those that are wanted; `result` of its look-up."""
    if "x-cache" in names:
        fields = fields.without((b"x-cache",)).plus((b"X-Cache", x_cache(status, result)))
    if "server-timing" in names:
        if result in STORED:  # what the origin timed then is not true of this response
            fields = fields.without((b"server-timing",))
        fields = fields.plus((b"Server-Timing", server_timing(result, times)))
    return fields


def x_cache(status: int, result: str) -> bytes:
    """HIT, MISS, STALE, REVALIDATED, PASS, ERROR, or LOCAL of a response that a rule gives."""
    if result == "error" and status < 400:
        return b"LOCAL"
    return NAMES.get(result, result.upper()).encode()


def server_timing(result: str, times: Times) -> bytes:
    """The look-up and its result, and how long other tiers took, in milliseconds."""
    metrics = [b"cache;desc=" + result.encode()]
    for name, took in ((b"regional", times.regional), (b"origin", times.origin)):
        if took > 0:
            metrics.append(b"%b;dur=%.1f" % (name, took * 1000))
    return b", ".join(metrics)
