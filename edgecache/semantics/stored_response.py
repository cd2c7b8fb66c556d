"""A stored response as a value: its stored parts, its age, and the end of its freshness (RFC 9111 §4.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from edgecache.semantics.accept_encoding import Codings, codings_in
from edgecache.semantics.cache_control import (
    FOREVER,
    ResponseDirectives,
    delta_seconds,
    parse_response_directives,
)
from edgecache.semantics.cache_tags import tags_of
from edgecache.semantics.http_date import format_date, parse_date
from edgecache.semantics.message import Fields, Request, Response

HEURISTICALLY_CACHEABLE = frozenset((200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501))  # RFC 9110 §15.1
INTERNAL = b"edgecache-"  # fields between POPs
ONE_ETAG = re.compile(rb"(?:W/)?\"[^\"]{0,1024}\"|(?!\*\Z)[^\s\",]{1,1024}")  # the latter: not quoted, as some have it
LONGEST_DATE = 64  # bytes
AGE = frozenset((b"age",))
NO_POSITION: Final = -1  # before all positions of the purge log: never proven
DATE = frozenset((b"date",))
PER_USER = (b"cookie", b"authorization")
HOP_BY_HOP = frozenset(  # RFC 9110 §7.6.1, RFC 9111 §3.1
    b"connection keep-alive proxy-authenticate proxy-authentication-info proxy-authorization proxy-connection te "
    b"trailer transfer-encoding upgrade".split()
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Configurable policy where RFC 9111 leaves a choice. Times in seconds."""

    heuristics: bool = True
    heuristic_max: float = 86400.0
    negative_ttl: float = 10.0  # the longest freshness of an error
    store_set_cookie: bool = False
    store_client_errors: bool = False
    default_stale_if_error: float = 0.0  # where the origin names no window
    max_ranges: int = 5
    list_fields: frozenset[bytes] = frozenset()  # of requests, beside the standard ones
    hidden: frozenset[bytes] = frozenset()  # fields that clients do not see
    unsent: frozenset[bytes] = frozenset()  # request fields that are not sent upstream: no response depends on them


class Times(NamedTuple):
    """When the request was sent and the response's head received, in resident time: epoch seconds that never step."""

    asked: float
    received: float
    ahead: float = 0.0  # seconds by which the wall clock, which `Date` is compared with, was ahead of that

    @property
    def by_the_wall(self) -> float:
        """When it was received by the wall clock."""
        return self.received + self.ahead


class Received(Protocol):
    """Anything with an age."""

    @property
    def received(self) -> float:
        """When it came: epoch seconds."""

    @property
    def initial_age(self) -> float:
        """Its corrected_initial_age."""


def current_age(response: Received, now: float) -> float:
    """RFC 9111 §4.2.3 current_age, in seconds; a clock set back never makes it younger than it came.

    Not rounded: `Age` is rounded down where it is written (`proxy/responses.py`).
    """
    return response.initial_age + max(0.0, now - response.received)


class Aging(Protocol):
    """Anything that is fresh until some moment."""

    @property
    def stale_at(self) -> float:
        """That moment: epoch seconds."""


def is_fresh(response: Aging, now: float) -> bool:
    """Whether `response` may be used without validation (RFC 9111 §4.2)."""
    return now < response.stale_at


class Stored(NamedTuple):
    """One response as kept: end-to-end fields, age and freshness worked out once, when it arrived.

    `initial_age` is RFC 9111 §4.2.3's corrected_initial_age, `lifetime` its freshness_lifetime, both in seconds.
    `selecting` holds the request's normalised values of the fields that `Vary` names, in the order of `vary`.
    """

    status: int
    reason: bytes
    fields: Fields
    directives: ResponseDirectives
    received: float
    initial_age: float
    lifetime: float
    vary: tuple[bytes, ...] = ()
    selecting: tuple[bytes | None, ...] = ()
    etag: bytes | None = None
    last_modified: bytes | None = None
    stale_if_error: float = 0.0
    first_byte: int = 0  # of a 206: where its content begins in the whole
    whole_length: int | None = None  # of a 206: the length of the whole, in bytes
    tags: tuple[bytes, ...] = ()  # by which it can be purged

    def age(self, now: float) -> float:
        """Its age in seconds."""
        return current_age(self, now)

    @property
    def stale_at(self) -> float:
        """Epoch seconds at which it becomes stale."""
        return self.received + self.lifetime - self.initial_age

    def is_fresh(self, now: float) -> bool:
        """RFC 9111 §4.2."""
        return self.lifetime > self.age(now)

    @property
    def stale_while_revalidate(self) -> float:
        """RFC 5861 §3, in seconds; an error is never used once it is stale."""
        return 0.0 if self.status >= 400 else float(self.directives.stale_while_revalidate)

    @property
    def codings(self) -> Codings:
        """The codings that the content is in."""
        return codings_in(self.fields.get(b"content-encoding"))

    @property
    def content_type(self) -> bytes:
        """Its Content-Type; empty where it has none."""
        return self.fields.get(b"content-type") or b""

    @property
    def has_validator(self) -> bool:
        """Whether it can be validated (RFC 9111 §4.3.1)."""
        return self.etag is not None or self.last_modified is not None

    def freshened(self, response: Response, times: Times, request: Request, policy: Policy) -> Stored:
        """This response updated by a 304 (RFC 9111 §4.3.4) or by a HEAD's 200 (§4.3.5): new fields replace old ones."""
        new = response.fields.without(NOT_UPDATED)
        kept = self.fields.without(new.names() | DATE)  # without a Date, it is of when it came (RFC 9110 §6.6.1)
        merged = Response(self.status, Fields((*kept, *new)), self.reason)
        if request.policy is not None:
            merged = request.policy.governed(merged)
        fresh = kept_response(request, merged, times, policy, age_field=response.fields.get(b"age"))
        return fresh._replace(
            tags=tuple(dict.fromkeys((*self.tags, *fresh.tags))),  # those of the content, and what is new
            vary=self.vary,
            selecting=self.selecting,
            first_byte=self.first_byte,
            whole_length=self.whole_length,
        )


# What describes the stored content itself is never updated by a message without content (RFC 9111 §3.2).
NOT_UPDATED = frozenset((b"content-length", b"content-encoding", b"content-range", b"transfer-encoding"))


def response_directives(response: Response) -> ResponseDirectives:
    """The response's directives for a shared cache."""
    if response.directives is not None:
        given: ResponseDirectives = response.directives
        return given
    fields = response.fields
    return parse_response_directives(fields.get(b"cache-control"), fields.get(b"cdn-cache-control"))


def kept_response(
    request: Request, response: Response, times: Times, policy: Policy, *, age_field: bytes | None = None
) -> Stored:
    """`response` to `request` as a stored value; `may_store` decides whether to keep it."""
    fields = response.fields
    directives = response_directives(response)
    date = parse_date(fields.get(b"date") or b"", int(times.by_the_wall))
    internal = {name for name in fields.names() if name.startswith(INTERNAL)}
    kept = fields.without(policy.hidden | AGE | internal)
    if date is None:
        date = times.by_the_wall
        kept = kept.without((b"date",)).plus((b"Date", format_date(date)))  # RFC 9110 §6.6.1
    return Stored(
        status=response.status,
        reason=response.reason,
        fields=kept,
        directives=directives,
        received=times.received,
        initial_age=_initial_age(age_field or fields.get(b"age"), date, times),
        lifetime=_lifetime(request, response, directives, date, policy),
        etag=etag_of(fields),
        last_modified=last_modified_of(fields),
        tags=tags_of(fields),
        stale_if_error=_stale_if_error(response, directives, policy),
    )


def etag_of(fields: Fields) -> bytes | None:
    """The ETag for conditional requests, or None.

    `*` or a list in its place would match other representations (RFC 9110 §13.1.2).
    """
    value = fields.get(b"etag")
    return value if value is not None and ONE_ETAG.fullmatch(value) else None


def last_modified_of(fields: Fields) -> bytes | None:
    """The Last-Modified for conditional requests, or None."""
    value = fields.get(b"last-modified")
    return value if value is not None and len(value) <= LONGEST_DATE else None


def _stale_if_error(response: Response, directives: ResponseDirectives, policy: Policy) -> float:
    """RFC 5861 §4, in seconds; an error is never used once it is stale."""
    if response.status >= 400:
        return 0.0
    return float(policy.default_stale_if_error if directives.stale_if_error is None else directives.stale_if_error)


def _initial_age(age: bytes | None, date: float, times: Times) -> float:
    """RFC 9111 §4.2.3 corrected_initial_age; of several ages the first counts, an unreadable one is ignored (§5.1)."""
    age_value = delta_seconds(age.split(b",")[0].strip(b" \t")) if age is not None else 0
    apparent_age = max(0.0, int(times.by_the_wall) - date)  # Date has whole seconds
    response_delay = max(0.0, times.received - times.asked)
    return min(max(apparent_age, (age_value or 0) + response_delay), float(FOREVER))


def _lifetime(
    request: Request, response: Response, directives: ResponseDirectives, date: float, policy: Policy
) -> float:
    """RFC 9111 §4.2.1, in seconds; an error's is capped (negative caching), unless a rule gives it."""
    if response.lifetime is not None:
        return response.lifetime
    lifetime = _explicit_lifetime(response, directives, date)
    if lifetime is None:
        lifetime = _heuristic_lifetime(request, response, directives, date, policy)
    return min(lifetime, policy.negative_ttl) if response.status >= 400 else lifetime


def _explicit_lifetime(response: Response, directives: ResponseDirectives, date: float) -> float | None:
    if directives.s_maxage is not None:
        return directives.s_maxage
    if directives.max_age is not None:
        return directives.max_age
    expires = response.fields.get(b"expires")
    if expires is None or directives.overrides_expires:
        return None
    moment = parse_date(expires, int(date))
    return 0.0 if moment is None else min(max(0.0, moment - date), float(FOREVER))  # RFC 9111 §5.3: invalid = past


def _heuristic_lifetime(
    request: Request, response: Response, directives: ResponseDirectives, date: float, policy: Policy
) -> float:
    """RFC 9111 §4.2.2: a tenth of the time since Last-Modified, and never for what may be one client's."""
    if not policy.heuristics or any(name in request.fields and name not in policy.unsent for name in PER_USER):
        return 0.0
    if response.status not in HEURISTICALLY_CACHEABLE and not directives.public:
        return 0.0
    modified = parse_date(response.fields.get(b"last-modified") or b"", int(date))
    if modified is None:
        return 0.0
    return min(max(0.0, (date - modified) / 10), policy.heuristic_max)
