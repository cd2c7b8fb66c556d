"""Encoding of log entries in a Valkey Stream: fields of bytes. Pure.

    i  incarnation, 18 digits in hexadecimal       p  ID of the entry before it, `0-0` for the first of an incarnation
    k  kind: open, purge, begin, end               s  scopes, a JSON array of strings (bytes as Latin-1)
    f  "1" if it is soft                           w  of a begin: seconds after which the write counts as lost
    b  of an end: the mark of its begin            a  author, for the ledger

`i` and `p` are written by the server's script, which alone knows them. A malformed entry may have named
anything (`EntryKind.UNKNOWN`): a later version may know kinds and scopes that this one does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import orjson

from edgecache.invalidation import scopes, version_vector
from edgecache.invalidation.purge_log import EntryKind, LogEntry

ID: Final = re.compile(rb"([0-9]{1,20})-([0-9]{1,20})")
DIGITS: Final = 18  # of an incarnation
StreamFields = Mapping[bytes, bytes]


class Draft(NamedTuple):
    """An entry without its place in the log."""

    kind: EntryKind = EntryKind.PURGE
    scopes: tuple[bytes, ...] = ()
    soft: bool = False
    within: float = 0.0  # of a BEGIN, in seconds
    begun: int = 0  # of an END: the mark of its BEGIN
    author: str = ""

    def fields(self) -> list[bytes]:
        """Names and values in turn, as a script appends them; without `i` and `p`."""
        fields = {
            b"k": self.kind.value.encode(),
            b"s": orjson.dumps([scope.decode("latin-1") for scope in self.scopes]),
            b"f": b"1" if self.soft else b"",
            b"w": b"%g" % self.within if self.within else b"",
            b"b": version_vector.encode_mark(self.begun).encode() if self.begun else b"",
            b"a": self.author.encode(),
        }
        return [part for field in fields.items() if field[1] for part in field]


def encode_incarnation(incarnation: int) -> bytes:
    """An incarnation so that bytes compare as the numbers do."""
    return b"%0*x" % (DIGITS, incarnation)


def encode_id(mark: int) -> bytes:
    """The ID of a mark."""
    return b"%d-%d" % version_vector.id_of(mark)


def decode_place(id_: bytes, fields: StreamFields) -> tuple[int, int]:
    """The marks of an entry and of the one before it; ValueError if it has none, so that it is no entry of a log."""
    incarnation = int(fields.get(b"i", b""), 16)
    return _mark(incarnation, id_), _mark(incarnation, fields.get(b"p", b""))


def decode_entry(id_: bytes, fields: StreamFields) -> LogEntry:
    """The entry; ValueError as `decode_place` says. Otherwise malformed entries are `UNKNOWN`."""
    mark, previous = decode_place(id_, fields)
    try:
        kind = EntryKind(fields[b"k"].decode())
        named = tuple(name.encode("latin-1") for name in orjson.loads(fields[b"s"]))
        within = float(fields.get(b"w", b"0"))
        begun = version_vector.decode_mark(fields[b"b"].decode()) if b"b" in fields else 0
        understood = all(scopes.is_scope(name) for name in named) and 0 <= within < 1e6
    except (KeyError, ValueError, AttributeError, TypeError):
        understood = False
    if not understood:
        return LogEntry(mark, previous, EntryKind.UNKNOWN)
    return LogEntry(mark, previous, kind, named, fields.get(b"f") == b"1", within, begun)


def _mark(incarnation: int, id_: bytes) -> int:
    match = ID.fullmatch(id_)
    if match is None:
        raise ValueError("is no ID of a stream")
    return version_vector.mark(incarnation, int(match[1]), int(match[2]))


def author_of(fields: StreamFields) -> str:
    """Author of an entry."""
    return fields.get(b"a", b"").decode("utf-8", "replace")


def flattened(fields: StreamFields) -> list[bytes]:
    """The fields as names and values in turn, for a copy: `i` and `p` first, as the server has written them."""
    rest = [part for pair in fields.items() if pair[0] not in (b"i", b"p") for part in pair]
    return [b"i", fields.get(b"i", b""), b"p", fields.get(b"p", b""), *rest]


def purge_id(region: str, mark: int) -> str:
    """The public ID of a purge."""
    return f"{region}:{version_vector.encode_mark(mark)}"


def decode_purge_id(number: str) -> tuple[str, int]:
    """Region and mark of a purge's ID; ValueError if it is none."""
    region, _, written = number.rpartition(":")
    if not version_vector.is_region(region):
        raise ValueError("is not region:mark")
    return region, version_vector.decode_mark(written)
