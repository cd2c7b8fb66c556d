"""Regular expressions of purges, as far as they name a path and what is below it, tags, or everything. Pure.

What else they may mean is refused: a purge is carried out in full, or more is purged than was named, or nothing is.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

ANYTHING: Final = re.compile(rb"\^?\(?\.[*+]\)?\$?")
PATHS: Final = re.compile(  # literal characters, escaped ones and dots; then what may follow
    rb"\^?((?:[^\\^$|?*+()\[\]{}]|\\[^0-9A-Za-z])*?)(\(/\.\*\)\?\$|\(\.\*\)\$?|\.\*\??\$?|\$|)"
)
EDGE: Final = re.compile(  # where a tag of a list begins or ends: (^|,) (,|$) (^|\s) (,.+)? ^ $ \b
    rb"\((?:\?:)?(?:\^|\$|,|\\s| )(?:\|(?:\^|\$|,|\\s| ))*\)|\(,\.[+*]\)\?|\^|\$|\\b"
)
INNER_GROUP: Final = re.compile(rb"(?<=[^(|,])\(|\)(?=[^)|,])")  # one that is no whole alternative
WORD: Final = re.compile(rb"(?:[^\\^$|?*+()\[\]{}]|\\[^0-9A-Za-z])*")
ESCAPED: Final = re.compile(rb"\\([^0-9A-Za-z])")
DOT: Final = re.compile(rb"(?<!\\)\.")


class Unsupported(ValueError):
    """An unsupported pattern; the message names supported ones."""


class PurgeTarget(NamedTuple):
    """A target, and whether all that is below its path is meant, too."""

    target: bytes
    below: bool


EVERY_TARGET: Final = PurgeTarget(b"/", below=True)


def target_of_pattern(pattern: bytes) -> PurgeTarget:
    """Literal prefix of an anchored regular expression over targets; raises `Unsupported`.

    Prefixes are of whole segments: one that ends within a segment, as `/shop/a.*` does, means all of `/shop/`.
    """
    if ANYTHING.fullmatch(pattern):
        return EVERY_TARGET
    match = PATHS.fullmatch(pattern)
    if match is None or match[1][:1] != b"/":
        raise Unsupported("a path is purged by /path/.*, or by .*; other regular expressions are not supported")
    body, end = match.groups()
    certain = DOT.split(body)[0]  # a dot stands for any character
    literal = ESCAPED.sub(rb"\1", certain)
    if end == b"$" and certain == body:
        return PurgeTarget(literal, below=False)
    path, query, _ = literal.partition(b"?")
    whole = query or (end.startswith(b"(/") and certain == body)
    return PurgeTarget(path if whole else path[: path.rfind(b"/") + 1], below=True)


def alternatives_of_pattern(pattern: bytes) -> list[bytes] | None:
    """The tags, or hosts, that a regular expression has as its alternatives; None: any. Raises `Unsupported`.

    `((^|,)a(,|$))|((^|,)b(,|$))`, `(a|b)(,.+)?$`, `^(a|b)$`, `a|b`, and the plain lists `a,b` and `a b`.
    """
    if ANYTHING.fullmatch(pattern):
        return None
    bare = EDGE.sub(b",", pattern)
    parts = re.split(rb"[|, \t]+", bare.translate(None, b"()"))
    grouped = INNER_GROUP.search(bare) is None and bare.count(b"(") == bare.count(b")")
    if not grouped or not all(WORD.fullmatch(part) for part in parts):
        raise Unsupported("names are purged by alternatives, a|b; other regular expressions are not supported")
    return [ESCAPED.sub(rb"\1", part) for part in parts if part]
