"""Actions of rules, as values. Each action has a default without effect; later rules override earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, TypeVar

from edgecache.semantics.message import FieldLine, Fields
from edgecache.semantics.outcomes import Revalidation

A = TypeVar("A")


def over(earlier: A, later: A) -> A:
    """`earlier` with what `later` says: its values that are not None; tuples are joined."""
    changes: dict[str, Any] = {}
    for one in fields(later):  # type: ignore[arg-type]
        value = getattr(later, one.name)
        if isinstance(value, tuple):
            changes[one.name] = getattr(earlier, one.name) + value
        elif value is not None:
            changes[one.name] = value
    return replace(earlier, **changes)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class FieldEdits:
    """Changes of a message's fields: names to remove, lines to set (replacing others with their name), to add."""

    remove: tuple[bytes, ...] = ()  # lower case
    set: tuple[FieldLine, ...] = ()
    add: tuple[FieldLine, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.remove or self.set or self.add)

    def applied(self, edited: Fields) -> Fields:
        """`edited` with these changes, in the order remove, set, add."""
        if not self:
            return edited
        gone = frozenset(self.remove) | {name.lower() for name, _ in self.set}
        last = {name.lower(): (name, value) for name, value in self.set}
        return edited.without(gone).plus(*last.values(), *self.add)


@dataclass(frozen=True, slots=True)
class Canary:
    """A share of clients, 0 to 1, that is sent to another pool."""

    pool: str
    share: float
    cookie: bytes


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A rewriting of paths: a compiled expression, and the replacement for its first match."""

    expression: Any
    to: bytes


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests are sent, and how they are changed; None: as usual."""

    pool: str | None = None
    host: str | None = None  # "client", "origin" or a name
    strip_prefix: bytes | None = None
    add_prefix: bytes | None = None
    rewrite: Rewrite | None = None
    credentials: str | None = None
    canary: Canary | None = None


@dataclass(frozen=True, slots=True)
class QueryKey:
    """Parameters that a URL keeps, by patterns; None keeps all that `drop` does not name."""

    keep: Any | None = None  # a compiled expression
    drop: Any | None = None
    sort: bool = False


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Parts of the cache key besides the URL."""

    query: QueryKey | None = None
    headers: tuple[bytes, ...] = ()
    cookies: tuple[str, ...] = ()
    country: bool | None = None
    device: bool | None = None


@dataclass(frozen=True, slots=True)
class Caching:
    """How responses are stored and used; None: according to the site's settings. Times in seconds."""

    store: bool | None = None
    ttl: float | None = None
    default_ttl: float | None = None
    ttl_by_status: tuple[tuple[str, float], ...] = ()  # a status code, or a class as "5xx"
    stale_while_revalidate: float | None = None
    stale_if_error: float | None = None
    ignore_set_cookie: bool | None = None
    ignore_cache_control: bool | None = None
    revalidation: Revalidation | None = None
    read_only: bool | None = None
    query_method: bool | None = None
    slices: int | None = None  # bytes of each; 0: none
    tags: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirect; `to` has variables."""

    to: str
    status: int
    captures: Any | None = None  # the compiled expression whose groups are $1 … $9
    rule: str = ""  # the name of its rule


@dataclass(frozen=True, slots=True)
class Respond:
    """A fixed response."""

    status: int
    body: bytes
    lines: tuple[FieldLine, ...]
    rule: str = ""  # the name of its rule


@dataclass(frozen=True, slots=True)
class Cors:
    """Cross-origin resource sharing (Fetch §3.2)."""

    origins: Any | None  # a matcher of allowed origins; None: any origin, without credentials
    methods: tuple[bytes, ...]
    headers: tuple[bytes, ...]
    expose: tuple[bytes, ...]
    credentials: bool
    max_age: float  # seconds


@dataclass(frozen=True, slots=True)
class Compress:
    """Content codings applied here."""

    codings: tuple[bytes, ...]  # the best first; none: nothing is coded
    types: Any  # a matcher of media types
    min_size: int  # bytes


NO_EDITS: Final = FieldEdits()
NO_ROUTE: Final = Route()
NO_CACHING: Final = Caching()
NO_KEY: Final = CacheKey()


@dataclass(frozen=True, slots=True)
class Actions:
    """All actions of one rule. `own` are those of middleware, by its name: semantics does not know them."""

    route: Route = NO_ROUTE
    caching: Caching = NO_CACHING
    key: CacheKey = NO_KEY
    request_fields: FieldEdits = NO_EDITS
    response_fields: FieldEdits = NO_EDITS
    reply: Redirect | Respond | None = None
    cors: Cors | None = None
    security_headers: Literal["off", "basic", "strict"] | None = None
    debug: tuple[str, ...] = ()
    compress: Compress | None = None
    own: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def over(self, earlier: Actions) -> Actions:
        """These laid over those of an earlier rule."""
        names = [*earlier.own, *(name for name in self.own if name not in earlier.own)]
        return Actions(
            over(earlier.route, self.route),
            over(earlier.caching, self.caching),
            over(earlier.key, self.key),
            over(earlier.request_fields, self.request_fields),
            over(earlier.response_fields, self.response_fields),
            earlier.reply or self.reply,
            self.cors or earlier.cors,
            self.security_headers or earlier.security_headers,
            (*earlier.debug, *(name for name in self.debug if name not in earlier.debug)),
            self.compress or earlier.compress,
            {name: (*earlier.own.get(name, ()), *self.own.get(name, ())) for name in names},
        )


NO_ACTIONS: Final = Actions()
