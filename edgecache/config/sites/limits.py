"""The limits of rules: from what is written to what requests are counted by."""

from __future__ import annotations

from edgecache.config.sites import model
from edgecache.semantics.rules.gcra import rate_of
from edgecache.semantics.rules.limits import RequestLimit


def limits_of(site: str, rule: model.Rule) -> tuple[RequestLimit, ...]:
    """The limits of one rule."""
    return tuple(_limit(site, rule.name, number, limit) for number, limit in enumerate(rule.limits))


def _limit(site: str, rule: str, number: int, limit: model.Limit) -> RequestLimit:
    return RequestLimit(
        site,
        rule,
        number,
        limit.by,
        None if limit.rate is None else rate_of(limit.rate, limit.burst),
        limit.concurrency,
        limit.body,
        limit.header.lower().encode(),
        limit.cookie,
    )
