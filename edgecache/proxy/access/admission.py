"""Types shared by all access checks: the request, the admission, and the refusal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple, Protocol

from edgecache.semantics.errors import EdgecacheError
from edgecache.semantics.field_codec import pack
from edgecache.semantics.message import FieldLine, Fields, Request
from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.semantics.secret_parameters import without_parameters
from edgecache.wire.response import FullResponse, local_reply

MOST_PARTS: Final = 256  # parameters of a query, or cookies: conditions and checks read no more


class AccessRefused(EdgecacheError):
    """A refused request: status, a fixed word for the reason, one sentence, and fields such as a challenge."""

    def __init__(self, status: int, reason: str, sentence: str, *more: FieldLine) -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason
        self.more = more

    @property
    def response(self) -> FullResponse:
        """The response to it."""
        return local_reply(self.status, self.reason, str(self), *self.more)


class RefusedElsewhere(AccessRefused):
    """A request that another server has refused, with its response."""

    def __init__(self, reason: str, status: int, fields: Fields, content: bytes) -> None:
        super().__init__(status, reason, "the server that decides has refused it")
        self._fields = fields
        self._content = content

    @property
    def response(self) -> FullResponse:
        """That server's response."""
        return FullResponse(self.status, pack(self._fields), self._content, len(self._content), failure=self.reason)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to be admitted, and the time: of the wall clock, and of a clock that is never set."""

    facts: RequestFacts
    peer: str  # the address that it came from
    now: float  # epoch seconds, for what others have dated
    steady: float = 0.0  # resident time, for what lasts a while here
    nonces: set[bytes] = field(default_factory=set)  # that this request has used

    @property
    def request(self) -> Request:
        """The request as received."""
        return self.facts.request


class Grant(NamedTuple):
    """The admission by one check: for how long, and which parts of the request were for this check only."""

    until: float = inf  # epoch seconds, of what others have dated
    lasts: float = inf  # the end of what lasts a while, in resident time, which no step of the wall clock moves
    fields: frozenset[bytes] = frozenset()  # of the request, in lower case, that do not go upstream
    cookies: frozenset[str] = frozenset()
    parameters: frozenset[bytes] = frozenset()
    adds: tuple[FieldLine, ...] = ()  # what goes upstream in their stead
    still: Callable[[], bool] | None = None  # whether nothing was revoked since
    by_address: Callable[[str], bool] | None = None  # whether a client at that address is admitted alike


GRANTED: Final = Grant()


class Check(Protocol):
    """One requirement of a rule."""

    order: int  # cheap checks first
    reads: frozenset[bytes]  # request fields, in lower case

    def admit(self, asked: Asked) -> Grant | Awaitable[Grant]:
        """Admit a request, at once or later; raises `AccessRefused`."""


class Admission:
    """All that the checks of one request have granted together."""

    __slots__ = ("addresses", "adds", "cookies", "fields", "lasts", "parameters", "stills", "until")

    def __init__(self) -> None:
        self.until = self.lasts = inf
        self.fields: frozenset[bytes] = frozenset()
        self.cookies: frozenset[str] = frozenset()
        self.parameters: frozenset[bytes] = frozenset()
        self.adds: tuple[FieldLine, ...] = ()
        self.stills: list[Callable[[], bool]] = []
        self.addresses: list[Callable[[str], bool]] = []

    def take(self, grant: Grant) -> None:
        """Add what one check has granted."""
        self.until = min(self.until, grant.until)
        self.lasts = min(self.lasts, grant.lasts)
        self.fields |= grant.fields
        self.cookies |= grant.cookies
        self.parameters |= grant.parameters
        self.adds += grant.adds
        if grant.still is not None:
            self.stills.append(grant.still)
        if grant.by_address is not None:
            self.addresses.append(grant.by_address)

    def upstream(self, request: Request) -> Request:
        """`request` without what was for the checks alone."""
        fields = request.fields.without(self.fields)
        if self.cookies and b"cookie" in fields:
            fields = without_cookies(fields, self.cookies)
        if self.adds:
            fields = fields.plus(*self.adds)
        if fields is not request.fields:
            request = request._replace(fields=fields)
        target = without_parameters(request.target, self.parameters)
        if target != request.target:
            request = request._replace(target=target, written=redacted(request.received_target, self.parameters))
        return request


def without_cookies(fields: Fields, names: frozenset[str]) -> Fields:
    """`fields` less these cookies; without the field if no other cookie is left."""
    pairs = [pair.strip(b" \t") for pair in b";".join(fields.all(b"cookie")).split(b";")]
    kept = [pair for pair in pairs if pair and pair.partition(b"=")[0].decode("latin-1") not in names]
    rest = fields.without((b"cookie",))
    return rest.plus((b"Cookie", b"; ".join(kept))) if kept else rest


def redacted(target: bytes, names: frozenset[bytes]) -> bytes:
    """`target` as it is logged: these parameters have the value #, which no target that is received can have."""
    path, mark, query = target.partition(b"?")
    parts = [part.partition(b"=")[0] for part in query.split(b"&")]
    shown = [name + b"=#" if name in names else part for name, part in zip(parts, query.split(b"&"), strict=True)]
    return path + mark + b"&".join(shown)


def challenge(kind: str, realm: str, more: str = "") -> FieldLine:
    """The field of a 401 (RFC 9110 §11.6.1)."""
    return b"WWW-Authenticate", f'{kind} realm="{realm}"{more}'.encode("latin-1")
