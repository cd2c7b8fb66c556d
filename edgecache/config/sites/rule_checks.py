"""What a rule may not say although its grammar allows it: fields that are not its business, and what never matches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from edgecache.config.sites.model import FieldEdits, Rule, When
from edgecache.config.sites.positions import Path, Problem

# Fields of framing and of one hop (RFC 9110 §7.6.1, RFC 9112 §6), and those that POPs tell each other.
OF_THE_HOP: Final = frozenset(
    ("connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)
INTERNAL: Final = "edgecache-"
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
_GROUP: Final = re.compile(r"\$([1-9])")
_HOST: Final = re.compile(r"[a-z0-9._*?-]+|\[[0-9a-f:.*?]+\]", re.ASCII)


def rule_problems(rule: Rule, path: Path) -> Iterator[Problem]:
    """All mistakes of one rule that concern no other."""
    yield from _of_when(rule.when, (*path, "when"))
    yield from _of_edits(rule.request_headers, (*path, "request_headers"), of_requests=True)
    yield from _of_edits(rule.response_headers, (*path, "response_headers"))
    if rule.respond is not None:
        yield from _reserved(rule.respond.headers, (*path, "respond", "headers"))
    yield from _of_groups(rule, path)


def _of_edits(edits: FieldEdits | None, path: Path, *, of_requests: bool = False) -> Iterator[Problem]:
    if edits is None:
        return
    for key in ("remove", "set", "add"):
        yield from _reserved(getattr(edits, key), (*path, key), of_requests=of_requests)


def _reserved(names: Iterable[str], path: Path, *, of_requests: bool = False) -> Iterator[Problem]:
    for number, name in enumerate(names):
        place = (*path, number if path[-1] == "remove" else name)
        lowered = name.lower()
        if lowered in OF_THE_HOP or lowered.startswith("proxy-con"):
            yield Problem(place, f"{name} is of the connection: no rule changes it")
        elif lowered.startswith(INTERNAL):
            yield Problem(place, f"{name} is what POPs tell each other: no rule changes it")
        elif of_requests and lowered == "host":
            yield Problem(place, "Host is set by route.host")


def _of_groups(rule: Rule, path: Path) -> Iterator[Problem]:
    """$1 … $9 that no group of an expression answers to."""
    if rule.redirect is not None:
        yield from _groups(rule.redirect.to, rule.when.path_regex, "when.path_regex", (*path, "redirect", "to"))
    if rule.route is not None and rule.route.rewrite is not None and rule.route.to is not None:
        yield from _groups(rule.route.to, rule.route.rewrite, "rewrite", (*path, "route", "to"))


def _groups(template: str, expression: Any, name: str, path: Path) -> Iterator[Problem]:
    known = 0 if expression is None else expression.compiled.groups
    highest = max(map(int, _GROUP.findall(template)), default=0)
    if highest > known:
        has = f"{name} has {known or 'no'} group{'s' if known != 1 else ''}"
        yield Problem(
            path, f"${highest} is no group: " + ("there is no when.path_regex" if expression is None else has)
        )


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
        yield Problem((*path, "any"), "is an empty list, of which nothing can hold")
    for number, one in enumerate(when.any or ()):
        yield from _of_when(one, (*path, "any", number))


_MATCHING: Final[tuple[tuple[str, Callable[[str], Any], str], ...]] = (  # key, what can match, words for what cannot
    ("host", _HOST.fullmatch, "no host: hosts are lower case, without scheme, port and path"),
    ("path", lambda glob: glob.startswith(("/", "*", "?")), "no path: paths begin with /"),
    ("path_prefix", lambda prefix: prefix.startswith("/"), "no path: paths begin with /"),
    ("content_type", lambda kind: kind == kind.lower() and ";" not in kind, "no type: types are lower case, and bare"),
)


def _each(values: str | tuple[str, ...] | None, path: Path) -> Iterator[tuple[str, Path]]:
    """Each of several texts with its place."""
    if isinstance(values, str):
        yield values, path
    elif values is not None:
        for number, one in enumerate(values):
            yield one, (*path, number)
