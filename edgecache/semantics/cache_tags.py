"""Tags of a response for purges: Surrogate-Key, Cache-Tag, Cache-Groups (RFC 9875). Pure.

A response whose tags cannot all be kept must not be stored: a purge by an omitted tag would miss it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from edgecache.semantics.memoize import memoize
from edgecache.semantics.message import Fields
from edgecache.semantics.structured_fields import parse_list

TAG_FIELDS: Final = frozenset((b"surrogate-key", b"cache-tag", b"cache-groups", b"xkey"))
BETWEEN_POPS: Final = b"edgecache-tags"  # all tags, between POPs
MARK: Final = b"\0"  # no tag begins with it: what comes after it is a wildcard that the response was stored under
MOST_TAGS: Final = 1000
LONGEST_TAG: Final = 1024  # bytes


class TooManyTags(ValueError):
    """More or longer tags than are kept."""


def tags_of(fields: Fields) -> tuple[bytes, ...]:
    """The tags in a response's `fields`, each once; raises `TooManyTags`.

    Surrogate-Key and xkey are parted by spaces, Cache-Tag by commas; Cache-Groups is a List of Strings (RFC 9875 §2),
    and what is malformed there names nothing (§2.1).
    """
    index = fields.index
    found: tuple[bytes, ...] = ()
    for name in (b"surrogate-key", b"cache-tag", b"cache-groups", b"xkey", BETWEEN_POPS):
        if name in index:
            found += _split(name, index[name])
    if not found:
        return ()
    tags = tuple(dict.fromkeys(found))
    more = [tag for tag in tags[MOST_TAGS:] if tag[:1] != MARK]
    if more or any(len(tag) > LONGEST_TAG for tag in tags):
        raise TooManyTags(f"more than {MOST_TAGS} tags, or one of more than {LONGEST_TAG} bytes")
    return tags


@memoize(1024)
def _split(name: bytes, value: bytes) -> tuple[bytes, ...]:
    if name == b"cache-groups":
        return group_names(value)
    if name == b"cache-tag":
        return tuple(tag for part in value.split(b",") if (tag := part.strip(b" \t")))
    if name == BETWEEN_POPS:
        return tuple(unquote_to_bytes(part) for part in value.split())
    return tuple(part for part in value.replace(b",", b" ").split())  # several lines were joined by commas


def group_names(value: bytes | None) -> tuple[bytes, ...]:
    """The groups in `Cache-Groups` or `Cache-Group-Invalidation` (RFC 9875 §2, §3): a List of Strings; else none."""
    members = parse_list(value) if value else None
    if members is None or not all(type(member) is str for member in members):
        return ()
    return tuple(member.encode() for member in members)


def with_tags(fields: Fields, names: frozenset[bytes]) -> Fields:
    """`fields` with the tags of further fields, by `names`, in the field between POPs."""
    if names.isdisjoint(fields.index):
        return fields
    told = fields.get(BETWEEN_POPS) or b""
    values = [value for name in sorted(names) if (value := fields.get(name)) is not None]
    tags = dict.fromkeys(tag for value in values for tag in value.replace(b",", b" ").split())
    return fields.without((BETWEEN_POPS,)).plus((BETWEEN_POPS, told + b" " + between_pops(tags)))


def between_pops(tags: Iterable[bytes]) -> bytes:
    """The value of the tags field between POPs."""
    return b" ".join([quote_from_bytes(tag, safe="-._~!$&'()*+,;=:@/?").encode() for tag in tags])
