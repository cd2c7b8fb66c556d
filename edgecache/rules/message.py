"""HTTP messages as frozen values. Bytes throughout: what was received is what is compared and sent on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView
from dataclasses import dataclass, field

FieldLine = tuple[bytes, bytes]


class Fields:
    """The field lines of one message, in order and in the sender's spelling, with look-up by lower-case name.

    Names are looked up as lower-case bytes. Several lines of one name are combined with ", " in their order
    (RFC 9110 §5.2); `Set-Cookie`, which must not be combined (§5.3), is read with `lines`.
    """

    __slots__ = ("_combined", "lines")

    def __init__(self, lines: Iterable[FieldLine]) -> None:
        self.lines = tuple(lines)
        combined: dict[bytes, bytes] = {}
        for name, value in self.lines:
            lower = name.lower()
            combined[lower] = combined[lower] + b", " + value if lower in combined else value
        self._combined = combined

    def get(self, name: bytes) -> bytes | None:
        """The combined value of the field `name` (lower case), or None if it is absent."""
        return self._combined.get(name)

    def all(self, name: bytes) -> list[bytes]:
        """The value of each line of the field `name` (lower case), uncombined."""
        return [value for key, value in self.lines if key.lower() == name]

    def names(self) -> KeysView[bytes]:
        """The lower-case names that occur."""
        return self._combined.keys()

    def without(self, names: Iterable[bytes]) -> Fields:
        """These fields less every line whose lower-case name is in `names`."""
        drop = frozenset(names)
        if drop.isdisjoint(self._combined):
            return self
        return Fields(line for line in self.lines if line[0].lower() not in drop)

    def plus(self, *lines: FieldLine) -> Fields:
        """These fields with `lines` appended."""
        return Fields((*self.lines, *lines))

    def __contains__(self, name: object) -> bool:
        return name in self._combined

    def __iter__(self) -> Iterator[FieldLine]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self.lines == other.lines

    def __hash__(self) -> int:
        return hash(self.lines)

    def __repr__(self) -> str:
        return f"<Fields {len(self.lines)} lines>"  # values may be secrets: never in a repr


@dataclass(frozen=True, slots=True)
class Framing:
    """How a body is delimited (RFC 9112 §6.3): by a length in bytes, by chunks, or by the connection's end."""

    length: int | None = 0
    chunked: bool = False

    @property
    def until_close(self) -> bool:
        """Whether only the end of the connection ends the body."""
        return self.length is None and not self.chunked


NO_BODY = Framing(0)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as received, validated; `host` is normalised (lower case, no default port, no final dot)."""

    method: bytes
    target: bytes
    host: bytes
    fields: Fields
    framing: Framing = NO_BODY
    http_1_0: bool = False
    keep_alive: bool = True
    scheme: bytes = b"http"
    client: str = ""  # the peer's address, as text

    @property
    def is_upgrade(self) -> bool:
        """Whether the client asks to leave HTTP on this connection (RFC 9110 §7.8)."""
        return b"upgrade" in self.fields and not self.http_1_0


@dataclass(frozen=True, slots=True)
class Response:
    """The head of one response as received and validated."""

    status: int
    fields: Fields
    reason: bytes = b""
    framing: Framing = field(default=NO_BODY)
    keep_alive: bool = True
