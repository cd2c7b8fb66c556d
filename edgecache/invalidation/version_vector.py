"""Version vectors: positions in all regions' logs. Pure, immutable values.

A *mark* names one place in one region's log. It is one integer, `incarnation · 2¹²⁸ + milliseconds · 2⁶⁴ + sequence`,
so that the order of integers is the order of the log: entry after entry within an incarnation (the last two are the ID
that Valkey gave the entry), and a later incarnation after all that an earlier one held. An incarnation is
`count · 2³² + nonce`; its count rises whenever the log was lost or rolled back. No mark is 0: that is "nothing known".

A later incarnation covers an earlier one: it begins after the last entry of the earlier was written, so a request that
was sent with it in `seen` was sent after all of those. The reverse never holds: what was seen of an earlier incarnation
proves nothing about a later one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

SIXTY_FOUR: Final = (1 << 64) - 1
MOST_REGIONS: Final = 256  # in a vector that is read
LONGEST_VECTOR: Final = 16384  # bytes that are read as one
_NONCE_BITS: Final = 32
_COUNT_BITS: Final = 40
_REGION = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_MARK = re.compile(r"([0-9a-f]{1,18})\.(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)


def incarnation(count: int, nonce: int) -> int:
    """The incarnation with this count (40 bits) and nonce (32 bits); ValueError beyond that."""
    if not (0 < count < 1 << _COUNT_BITS and 0 <= nonce < 1 << _NONCE_BITS):
        raise ValueError("an incarnation is a count from 1 below 2^40 and a nonce below 2^32")
    return count << _NONCE_BITS | nonce


def count_of(incarnation: int) -> int:
    """The incarnation's count."""
    return incarnation >> _NONCE_BITS


def mark(incarnation: int, milliseconds: int = 0, sequence: int = 0) -> int:
    """The mark of the entry `milliseconds-sequence`; without an ID, of the beginning of the incarnation."""
    if not (0 <= milliseconds <= SIXTY_FOUR and 0 <= sequence <= SIXTY_FOUR):
        raise ValueError("an entry's ID is two numbers below 2^64")
    return incarnation << 128 | milliseconds << 64 | sequence


def incarnation_of(mark: int) -> int:
    """The incarnation that a mark belongs to."""
    return mark >> 128


def id_of(mark: int) -> tuple[int, int]:
    """The entry's ID: milliseconds and sequence."""
    return mark >> 64 & SIXTY_FOUR, mark & SIXTY_FOUR


def beyond(mark: int) -> int:
    """The least mark that every incarnation of a higher count reaches, and nothing before."""
    return count_of(incarnation_of(mark)) + 1 << _NONCE_BITS + 128


def encode_mark(mark: int) -> str:
    """A mark as text: `incarnation.milliseconds-sequence`, the first in hexadecimal."""
    milliseconds, sequence = id_of(mark)
    return f"{incarnation_of(mark):x}.{milliseconds}-{sequence}"


def decode_mark(text: str) -> int:
    """The mark that `encode_mark` wrote; ValueError for anything else."""
    match = _MARK.fullmatch(text)
    if match is None:
        raise ValueError("is not incarnation.milliseconds-sequence")
    return mark(int(match[1], 16), int(match[2]), int(match[3]))


def is_region(name: str) -> bool:
    """Whether `name` can name a region: 1 to 64 letters, digits, dots, dashes and underscores."""
    return _REGION.fullmatch(name) is not None


class Vector:
    """Per region the last mark known: an immutable value. A region that it does not name is at 0."""

    __slots__ = ("_hash", "_marks")

    def __init__(self, marks: Mapping[str, int] | None = None) -> None:
        self._marks = {region: mark for region, mark in marks.items() if mark} if marks else {}
        self._hash: int | None = None

    def __getitem__(self, region: str) -> int:
        """The mark known of `region`; 0 if none."""
        return self._marks.get(region, 0)

    def __iter__(self) -> Iterator[str]:
        return iter(self._marks)

    def covers(self, other: Vector) -> bool:
        """Whether every mark of `other` is reached."""
        marks = self._marks
        for region, mark in other._marks.items():  # noqa: SIM110 (`all` costs a generator, for each regional hit)
            if marks.get(region, 0) < mark:
                return False
        return True

    def merged(self, other: Vector) -> Vector:
        """The pointwise maximum."""
        if self.covers(other):
            return self
        if other.covers(self):
            return other
        return Vector({region: max(self[region], other[region]) for region in self._marks.keys() | other._marks.keys()})

    def at_most(self, other: Vector) -> Vector:
        """The pointwise minimum."""
        marks = other._marks
        return Vector({region: min(mark, marks[region]) for region, mark in self._marks.items() if region in marks})

    def reaching(self, region: str, mark: int) -> Vector:
        """This vector, knowing at least `mark` of `region`."""
        return self if self[region] >= mark else Vector({**self._marks, region: mark})

    def without(self, region: str) -> Vector:
        """This vector, knowing nothing of `region`."""
        return Vector({name: mark for name, mark in self._marks.items() if name != region})

    def encode(self) -> bytes:
        """As text, canonical: `eu=1f.1700000000000-0,us=…` in the order of the names."""
        return ",".join(f"{region}={encode_mark(mark)}" for region, mark in sorted(self._marks.items())).encode()

    @classmethod
    def decode(cls, text: bytes) -> Vector:
        """The vector that `encode` wrote; ValueError if malformed; callers then use `NOTHING`."""
        if len(text) > LONGEST_VECTOR or text.count(b",") >= MOST_REGIONS:
            raise ValueError("a vector is too long")
        marks: dict[str, int] = {}
        for member in text.decode("ascii").split(",") if text else ():
            region, equals, written = member.partition("=")
            if not equals or not is_region(region) or region in marks:
                raise ValueError("a vector is a list of region=mark, each region once")
            marks[region] = decode_mark(written)
        return cls(marks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and self._marks == other._marks

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self._marks.items()))
        return self._hash

    def __len__(self) -> int:
        return len(self._marks)

    def __repr__(self) -> str:
        return f"<Vector {self.encode().decode()}>"


NOTHING: Final = Vector()
