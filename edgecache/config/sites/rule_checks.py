"""What a rule may not say although its grammar allows it: groups that are not there, and what never matches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from edgecache.config.sites.model import Rule, When
from edgecache.config.sites.positions import Path, Problem

METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
LEAST_SLICE: Final = 64 * 1024  # bytes
LARGEST_SLICE: Final = 16 * 1024 * 1024
_GROUP: Final = re.compile(r"\$([1-9])")
_PLAIN: Final = re.compile(r"[!\"$-~]*")
_QUERY: Final = re.compile(r"\?[^/*?]*=")
_GLOB: Final = re.compile(r"[*?]")
_HOST: Final = re.compile(r"[a-z0-9._*?-]+|\[[0-9a-f:.*?]+\]", re.ASCII)


def rule_problems(rule: Rule, path: Path) -> Iterator[Problem]:
    """All mistakes of one rule that concern no other."""
    yield from _of_when(rule.when, (*path, "when"))
    route = rule.route
    if route is not None and route.rewrite is not None and route.to is not None:
        groups, highest = route.rewrite.compiled.groups, max(map(int, _GROUP.findall(route.to)), default=0)
        if highest > groups:
            words = f"${highest} is no group: rewrite has {groups or 'no'} group{'s' if groups != 1 else ''}"
            yield Problem((*path, "route", "to"), words)
    slices = None if rule.cache is None else rule.cache.slices
    if slices and not LEAST_SLICE <= slices <= LARGEST_SLICE:
        yield Problem((*path, "cache", "slices"), "is neither 0 nor from 64KiB to 16MiB")


# --- conditions that nothing meets


def _of_when(when: When, path: Path) -> Iterator[Problem]:
    for key, right, words in _MATCHING:
        for written, place in _each(getattr(when, key), (*path, key)):
            if not right(written):
                yield Problem(place, f'"{written}" matches {words}')
    for method, place in _each(when.method, (*path, "method")):
        if method not in METHODS and method.upper() in METHODS:
            yield Problem(place, f'"{method}" is no method, their case counts; did you mean {method.upper()}?')
    if when.negated is not None:
        yield from _of_when(when.negated, (*path, "not"))
    if when.any == ():
        yield Problem((*path, "any"), "is an empty list, which never matches")
    for number, one in enumerate(when.any or ()):
        yield from _of_when(one, (*path, "any", number))


_MATCHING: Final[tuple[tuple[str, Callable[[str], Any], str], ...]] = (  # key, what can match, words for what cannot
    ("host", _HOST.fullmatch, "no host: hosts are lower case, without scheme, port and path"),
    ("path", lambda glob: glob.startswith(("/", "*", "?")), "no path: paths begin with /"),
    ("path_prefix", lambda prefix: prefix.startswith("/"), "no path: paths begin with /"),
    ("path", lambda glob: _PLAIN.fullmatch(glob), "no path: they are encoded, as /caf%C3%A9"),
    ("path_prefix", lambda prefix: _PLAIN.fullmatch(prefix), "no path: they are encoded, as /caf%C3%A9"),
    ("path", lambda glob: not _QUERY.search(glob), "no path: conditions on parameters are written under query"),
    (
        "path_prefix",
        lambda prefix: not _GLOB.search(prefix),
        "its * and ? alone: globs are for path",
    ),
    ("content_type", lambda kind: kind == kind.lower() and ";" not in kind, "no type: types are lower case, and bare"),
)


def _each(values: str | tuple[str, ...] | None, path: Path) -> Iterator[tuple[str, Path]]:
    """Each of several texts with its place."""
    if isinstance(values, str):
        yield values, path
    elif values is not None:
        for number, one in enumerate(values):
            yield one, (*path, number)
