"""When two answers are the same: the printed rules, and nothing else, say what may differ."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final

from loadtests.correctness.real_sites.client import Answer

HOP_BY_HOP: Final = frozenset(  # RFC 9110 §7.6.1
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
ADDED: Final = frozenset(("age", "cache-status", "via"))
LONGEST_RUN: Final = 1800.0  # seconds; a Date older than that was not made in this run
CLOCK: Final = 2.0  # seconds of rounding
SHOWN: Final = 120  # characters of a value in a difference

RULES: Final = (
    f"hop-by-hop fields are not compared: {', '.join(sorted(HOP_BY_HOP))}",
    f"edgecache may add: {', '.join(sorted(ADDED))}",
    f"Date: of this run (at most {LONGEST_RUN / 60:.0f} minutes old, not in the future); there if the origin sends it",
    "Expires: the same distance from Date, give or take 1 s",
    "Content-Length: may be added where the origin sends chunks; equals the length of the content, always",
    "every other field: the same lines, in the same order for each name; status and reason phrase: the same",
    "HEAD: the fields of the origin's answer to HEAD, or of its answer to GET (what a cache answers HEAD from)",
    "206: the fields of the origin's 206, or of its 200 (what a cache cuts ranges from), with Content-Range",
    "200 after ranges: the fields of the origin's 200, or of the 206 that it was joined from (nginx's 206 has no "
    "Accept-Ranges); counted",
    "304: what it has of the fields of the origin's 304 or 200 is the same, and ETag is there if the origin sends it",
    "gzip: where the packed bytes differ, the unpacked ones are compared, and counted (Django pads them at random)",
    "ETag: not compared where the content needed one of the site's rules",
    "a hit equals the first answer that edgecache gave, byte for byte, whatever the rules below would allow",
    "not comparable: the origin's own answers differ (asked up to five times) after the site's rules; counted",
)


@dataclass(frozen=True)
class Moving:
    """What an origin changes by itself: matched in the content or in one field, and replaced before comparing."""

    words: str
    pattern: str
    place: str = "content"  # or the name of a field

    @property
    def rule(self) -> str:
        """As it is printed."""
        return f"{self.words}: /{self.pattern}/ in the {self.place} is replaced before comparing, and counted"


@dataclass(frozen=True)
class Comparison:
    """What differs between two answers, and whether a site's rule was needed to find them the same."""

    differences: list[str] = field(default_factory=list)
    by_rule: bool = False

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


def compare(origin: Answer, other: Answer, moving: Sequence[Moving] = ()) -> Comparison:
    """Two answers to the same GET: status, fields and content."""
    if origin.failure or other.failure:
        texts = [f"{who} failed: {a.failure}" for who, a in (("origin", origin), ("edgecache", other)) if a.failure]
        return Comparison(texts)
    found = []
    if (origin.status, origin.reason) != (other.status, other.reason):
        found.append(f"status: {origin.status} {origin.reason} / {other.status} {other.reason}")
    by_rule = origin.content != other.content
    if by_rule and masked(origin, moving) != masked(other, moving):
        found.append(f"content: {_first_difference(origin.content, other.content)}")
    skip = ("etag",) if by_rule and origin.unpacked() != other.unpacked() else ()
    fields, fields_by_rule = compare_fields(origin, other, moving, skip)
    return Comparison(found + fields, by_rule or fields_by_rule)


def masked(answer: Answer, moving: Iterable[Moving]) -> bytes:
    """The content, unpacked, without what moves by itself."""
    content = answer.unpacked()
    for rule in moving:
        if rule.place == "content":
            content = re.sub(rule.pattern.encode(), b"<moving>", content)
    return content


def _first_difference(one: bytes, other: bytes) -> str:
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"{len(one)} / {len(other)} bytes, first at {at}: {one[at : at + 40]!r} / {other[at : at + 40]!r}"


def compare_fields(
    origin: Answer, other: Answer, moving: Sequence[Moving] = (), skip: Iterable[str] = ()
) -> tuple[list[str], bool]:
    """The fields that differ, and whether a site's rule was needed."""
    found = [*_date_problems(origin, other), *_length_problems(origin, other)]
    dropped = HOP_BY_HOP | ADDED | {"date", "expires", "content-length"} | set(skip)
    by_rule = False
    for name in sorted({name for name, _ in (*origin.fields, *other.fields)} - dropped):
        ours, theirs = origin.values(name), other.values(name)
        if ours == theirs:
            continue
        rules = [rule.pattern for rule in moving if rule.place == name]
        if rules and _replaced(ours, rules) == _replaced(theirs, rules):
            by_rule = True
            continue
        found.append(f"{name}: {str(ours)[:SHOWN]} / {str(theirs)[:SHOWN]}")
    return found, by_rule


def _replaced(values: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [re.sub("|".join(patterns), "<moving>", value) for value in values]


def _date_problems(origin: Answer, other: Answer) -> list[str]:
    theirs, ours = seconds(other.field("date")), seconds(origin.field("date"))
    found = []
    if ours is not None and (theirs is None or not -LONGEST_RUN < theirs - time.time() < CLOCK):
        found.append(f"date: {origin.field('date')} / {other.field('date')}")
    if origin.field("expires") != other.field("expires"):
        ours, theirs = _distance(origin), _distance(other)
        if ours is None or theirs is None or abs(ours - theirs) > 1:
            texts = f"{origin.field('expires')} / {other.field('expires')}"
            found.append(f"expires: {texts}, from Date: {ours} / {theirs}")
    return found


def _distance(answer: Answer) -> float | None:
    date, expires = seconds(answer.field("date")), seconds(answer.field("expires"))
    return None if date is None or expires is None else expires - date


def seconds(value: str | None) -> float | None:
    """A date of HTTP in epoch seconds; None if it is absent or unreadable."""
    try:
        return parsedate_to_datetime(value).timestamp() if value else None
    except (TypeError, ValueError):
        return None


def _length_problems(origin: Answer, other: Answer) -> list[str]:
    """For GET: where there is content, a Content-Length speaks of it."""
    ours, theirs = origin.field("content-length"), other.field("content-length")
    if not other.content and not origin.content:  # HEAD, 304, 204 and the like
        return [f"content-length: {ours} / {theirs}"] if ours != theirs and None not in (ours, theirs) else []
    if theirs is None:
        return [f"content-length: {ours} / absent"] if ours is not None else []
    return [] if theirs == str(len(other.content)) else [f"content-length: {theirs} for {len(other.content)} bytes"]


def compare_hit(first: Answer, hit: Answer) -> list[str]:
    """What differs between the answer that was stored and the hit that it made: nothing may, but Age and framing."""
    if hit.failure:
        return [f"failed: {hit.failure}"]
    found = []
    if (first.status, first.reason) != (hit.status, hit.reason):
        found.append(f"status: {first.status} / {hit.status}")
    if first.content != hit.content:
        found.append(f"content: {_first_difference(first.content, hit.content)}")
    names = {name for name, _ in (*first.fields, *hit.fields)} - HOP_BY_HOP - ADDED - {"content-length"}
    differing = [name for name in sorted(names) if first.values(name) != hit.values(name)]
    found += [f"{name}: {first.values(name)} / {hit.values(name)}" for name in differing]
    return found + _length_problems(first, hit)


def is_hit(answer: Answer) -> bool:
    """Whether the last member of Cache-Status says `hit` (RFC 9211 §2.1)."""
    member = (answer.field("cache-status") or "").rpartition(",")[2]
    return "hit" in [parameter.strip() for parameter in member.split(";")[1:]]
