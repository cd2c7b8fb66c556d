"""Response directives as changed by rules: freshness, stale windows, and the respected parts of Cache-Control."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edgecache.semantics.cache_control import FOREVER, ResponseDirectives
from edgecache.semantics.message import Response
from edgecache.semantics.rules.actions import Caching
from edgecache.semantics.stored_response import response_directives

NONE_GIVEN: Final = ResponseDirectives()
SUCCESSFUL: Final = range(200, 400)  # statuses that `ttl` and `default_ttl` are of
NOT_MODIFIED: Final = 304


def governed(caching: Caching, response: Response) -> Response:
    """`response` with the freshness and the directives that `caching` gives it.

    `ttl` and `default_ttl` are of responses below 400; errors have theirs by status (`ttl_by_status`), a code before
    a class. Directives that forbid storing count as long as `cache_control` is not ignored.
    """
    ignores = bool(caching.ignore_cache_control)
    given = NONE_GIVEN if ignores else response_directives(response._replace(directives=None))
    explicit = not ignores and (
        given.max_age is not None
        or given.s_maxage is not None
        or (b"expires" in response.fields and not given.overrides_expires)
    )
    changes = _windows(caching)
    lifetime = lifetime_of(caching, response.status, explicit=explicit)
    if lifetime is not None:
        changes |= {"max_age": min(int(lifetime), FOREVER), "s_maxage": None}
    if ignores:
        changes["overrides_expires"] = True
    if caching.store is False:
        changes |= {"no_store": True, "must_understand": False}
    directives = replace(given, **changes) if changes else None  # type: ignore[arg-type]
    return response._replace(directives=directives, lifetime=None if lifetime is None else min(lifetime, FOREVER))


def _windows(caching: Caching) -> dict[str, object]:
    """The stale windows that rules give (RFC 5861)."""
    windows = {
        "stale_while_revalidate": caching.stale_while_revalidate,
        "stale_if_error": caching.stale_if_error,
    }
    return {name: int(seconds) for name, seconds in windows.items() if seconds is not None}


def lifetime_of(caching: Caching, status: int, *, explicit: bool) -> float | None:
    """The freshness lifetime in seconds that rules give; None if they do not. `explicit`: the response has its own."""
    by_status = dict(caching.ttl_by_status)
    for name in (str(status), f"{status // 100}xx"):
        if name in by_status:
            return by_status[name]
    if status not in SUCCESSFUL:
        return None
    if caching.ttl is not None:
        return caching.ttl
    return None if explicit else caching.default_ttl
