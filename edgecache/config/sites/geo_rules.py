"""Rules that ask for the country of clients, where nothing can tell it."""

from __future__ import annotations

from collections.abc import Iterator

from edgecache.config.sites.model import Document, Rule, When
from edgecache.config.sites.positions import Path


def of_country(document: Document) -> Iterator[Path]:
    """Where the text asks for the country of clients."""
    for number, site in enumerate(document.sites):
        for position, rule in enumerate(site.rules):
            yield from _in_rule(rule, ("sites", number, "rules", position))


def _in_rule(rule: Rule, path: Path) -> Iterator[Path]:
    if rule.access is not None:
        for name in ("allow_countries", "deny_countries"):
            if getattr(rule.access, name):
                yield (*path, "access", name)
    yield from _in_condition(rule.when, (*path, "when"))
    if rule.cache is not None and rule.cache.key is not None and rule.cache.key.country:
        yield (*path, "cache", "key", "country")


def _in_condition(when: When, path: Path) -> Iterator[Path]:
    if when.country is not None:
        yield (*path, "country")
    if when.negated is not None:
        yield from _in_condition(when.negated, (*path, "not"))
    for number, one in enumerate(when.any or ()):
        yield from _in_condition(one, (*path, "any", number))
