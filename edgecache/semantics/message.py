"""HTTP messages as frozen values. Bytes throughout: the received bytes are compared and forwarded.

Named tuples, not dataclasses: one is made for every message, and a frozen dataclass costs five times as much to make.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgecache.semantics.outcomes import Revalidation

FieldLine = tuple[bytes, bytes]
FEW = 40  # lines of which most likely none has the name of another


class Fields:
    """The field lines of one message, in order and in the sender's spelling, with look-up by lower-case name.

    Names are looked up as lower-case bytes. Several lines of one name are combined with ", " in their order
    (RFC 9110 §5.2); `Set-Cookie`, which must not be combined (§5.3), is read with `all`. The index is made at the
    first look-up: many messages are only passed on.
    """

    __slots__ = ("_index", "lines")

    def __init__(self, lines: Iterable[FieldLine]) -> None:
        self.lines = tuple(lines)
        self._index: dict[bytes, bytes] | None = None

    @property
    def index(self) -> Mapping[bytes, bytes]:
        """Lower-case name to combined value."""
        if self._index is None:
            self._index = _indexed(self.lines)
        return self._index

    def get(self, name: bytes) -> bytes | None:
        """The combined value of the field `name` (lower case), or None if it is absent."""
        index = self._index
        if index is None:
            index = self._index = _indexed(self.lines)
        return index.get(name)

    def all(self, name: bytes) -> list[bytes]:
        """The value of each line of the field `name` (lower case), uncombined."""
        return [value for key, value in self.lines if key.lower() == name]

    @property
    def weight(self) -> int:
        """Bytes of names and values, and a few for each line."""
        return sum([len(name) + len(value) + 4 for name, value in self.lines])

    def names(self) -> KeysView[bytes]:
        """The lower-case names that occur."""
        return self.index.keys()

    def without(self, names: Iterable[bytes]) -> Fields:
        """These fields less every line whose lower-case name is in `names`."""
        drop = names if isinstance(names, frozenset) else frozenset(names)
        index = self.index
        if drop.isdisjoint(index):
            return self
        if len(index) < len(self.lines):
            return Fields([line for line in self.lines if line[0].lower() not in drop])
        lines, names, index = list(self.lines), list(index), dict(index)  # in one order, as no name is repeated
        for name in drop.intersection(names):
            at = names.index(name)
            del lines[at], names[at], index[name]
        rest = Fields(lines)
        rest._index = index
        return rest

    def plus(self, *lines: FieldLine) -> Fields:
        """These fields with `lines` appended."""
        return Fields((*self.lines, *lines))

    def __contains__(self, name: object) -> bool:
        return name in self.index

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


def _indexed(lines: tuple[FieldLine, ...]) -> dict[bytes, bytes]:
    index = {name.lower(): value for name, value in lines} if len(lines) <= FEW else {}
    if len(index) == len(lines):  # no name is repeated
        return index
    several: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        several.setdefault(name.lower(), []).append(value)
    return {name: b", ".join(values) if len(values) > 1 else values[0] for name, values in several.items()}


def members(value: bytes | None) -> list[bytes]:
    """The members of a list of tokens, in lower case; empty ones too."""
    return [] if value is None else [member.strip(b" \t") for member in value.lower().split(b",")]


class Framing(NamedTuple):
    """How a body is delimited (RFC 9112 §6.3): by a length in bytes, by chunks, or by the connection's end."""

    length: int | None = 0
    chunked: bool = False

    @property
    def until_close(self) -> bool:
        """Whether only the end of the connection ends the body."""
        return self.length is None and not self.chunked


NO_BODY = Framing(0)


@dataclass(frozen=True, slots=True)
class Child:
    """The POP that forwarded a request to this one, and what it states about that request."""

    name: bytes
    client: str = ""  # the client's address; empty if unknown
    jurisdiction: str = ""  # of the client; empty if unknown
    regions: tuple[str, ...] = ()  # that the request has passed through
    is_canary: bool = False  # the client is in the share of the canary of its site
    behind: bool = False  # this POP lacks log entries that the child requires: nothing stored here is proven to it


class Request(NamedTuple):
    """One request, validated; `host` is normalised (lower case, no default port, no final dot).

    Its fields are end-to-end: those for the connection that it came on (RFC 9110 §7.6.1) are its protocol's.
    """

    method: bytes
    target: bytes
    host: bytes
    fields: Fields
    framing: Framing = NO_BODY
    version: str = "1.1"  # of HTTP
    upgrade: bytes = b""  # the protocol that the client wants to switch to (RFC 9110 §7.8); empty: none
    scheme: bytes = b"http"
    place: tuple[FieldLine, ...] = ()  # geographic fields set by this POP; also in `fields`, in place of the client's
    child: Child | None = None  # the POP that forwarded it, if one did
    jurisdiction: str = ""  # where the response must stay; empty: anywhere
    revalidation: Revalidation = Revalidation.HONOUR  # policy for its cache directives
    claims: tuple[bytes, ...] = ()  # names of its fields that only trusted proxies may send
    written: bytes = b""  # the received target, where `target` is a reduced form of it
    group: bytes = b""  # part of the cache key: digest of the place that a trusted proxy names
    policy: Any = None  # of its site: a `RequestPolicy`; None where there are no sites
    content: bytes | None = None  # of a QUERY, where it is a part of the cache key; None: the cache has no part in it

    @property
    def received_target(self) -> bytes:
        """The target as received."""
        return self.written or self.target

    @property
    def expects_continue(self) -> bool:
        """Whether the client may wait for a 100 before it sends the content (RFC 9110 §10.1.1)."""
        expect = self.fields.get(b"expect")
        return expect is not None and b"100-continue" in members(expect)


class Response(NamedTuple):
    """The head of one response as received and validated."""

    status: int
    fields: Fields
    reason: bytes = b""
    framing: Framing = NO_BODY
    keep_alive: bool = True
    directives: Any = None  # `ResponseDirectives` in the stead of those in its fields, where a rule has them
    lifetime: float | None = None  # its freshness in seconds, where a rule has it

    @property
    def content_length(self) -> int | None:
        """The length to announce: that of the content, or, without any, what Content-Length says of another message.

        A response to HEAD, and a 304, speak of the response to a GET (RFC 9110 §8.6).
        """
        if self.framing.length != 0:
            return self.framing.length
        said = None if self.status == 204 or self.status < 200 else self.fields.get(b"content-length")
        return None if said is None else int(said.partition(b",")[0])  # several were found to be equal


def is_event_stream(response: Response) -> bool:
    """Whether `response` is a stream of events, between two of which nothing may come for long (HTML §9.2)."""
    kind = response.fields.get(b"content-type")
    return kind is not None and kind.partition(b";")[0].strip(b" \t").lower() == b"text/event-stream"
