"""The rules of RFC 9111 as pure functions: storing, reuse, validation, invalidation.

`now` is always an argument, in epoch seconds. Outcomes are members of closed types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgecache.semantics import ranges
from edgecache.semantics.accept_encoding import ACCEPT_ENCODING, accepts
from edgecache.semantics.cache_control import ResponseDirectives, parse_request_directives, without_wishes
from edgecache.semantics.cache_key import same_origin_key, url_key
from edgecache.semantics.cache_tags import TooManyTags
from edgecache.semantics.client_claims import TARGETS, is_override, overrides_method
from edgecache.semantics.message import NO_BODY, Fields, Request, Response
from edgecache.semantics.outcomes import Forward, Refused, Revalidation
from edgecache.semantics.stored_response import (
    HEURISTICALLY_CACHEABLE,
    PER_USER,
    Policy,
    Stored,
    Times,
    kept_response,
    response_directives,
)
from edgecache.semantics.vary import VARY_STAR, selecting_values, vary_names

CLIENT_ERRORS: Final = frozenset(  # provoked by one request's form, or by one client's doings
    (400, 405, 406, 407, 408, *range(411, 418), 421, 422, 424, 425, 426, 428, 429, 431, 501, 505, 506, 510, 511)
)
UNDERSTOOD: Final = frozenset((200, 203, 204, 206, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501))
STORED_IS_KNOWN: Final = frozenset((b"if-none-match", b"if-modified-since", b"if-range"))  # set by this cache
PER_CLIENT: Final = frozenset((b"forwarded", b"x-forwarded-for"))  # set by this gateway, and different for each client
FAILURES: Final = frozenset((500, 502, 503, 504))  # RFC 5861 §4
NEW_FOR: Final = 1.0  # seconds for which one revalidation serves all clients that demand one
SAFE_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PROPFIND", b"REPORT", b"SEARCH", b"QUERY"))
CONDITIONS: Final = (
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    b"if-range",
    b"range",
)

READS: Final = frozenset((b"authorization", b"cache-control", b"pragma", *CONDITIONS))


def pass_reason(request: Request) -> Forward | None:
    """Why the cache has no part in `request`, or None where it has."""
    keyed, fields = request.content is not None, request.fields
    if request.method != b"GET" and request.method != b"HEAD" and not keyed:
        return Forward.METHOD
    if request.claims:  # what a trusted proxy says of the client makes the answer its own
        return Forward.BYPASS
    if request.upgrade or (request.framing.length != 0 and not keyed):  # a GET with content: its answer is for it alone
        return Forward.BYPASS
    if b"if-match" in fields or b"if-unmodified-since" in fields:  # RFC 9111 §4.3.2: not for a cache to evaluate
        return Forward.BYPASS
    return None


# --- May a response be stored? (RFC 9111 §3) -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Store:
    """The response may be stored, as this value."""

    stored: Stored


@dataclass(frozen=True, slots=True)
class DoNotStore:
    """The response may not be stored, for this reason."""

    reason: Refused


def may_store(
    request: Request, response: Response, times: Times, policy: Policy, previous: Stored | None = None
) -> Store | DoNotStore:
    """Whether the response to `request` may be stored; `previous` is what it would replace."""
    directives = response_directives(response)
    if reason := _rfc_forbids(request, response, directives, policy):
        return DoNotStore(reason)
    try:
        stored = kept_response(request, response, times, policy)
    except TooManyTags:
        return DoNotStore(Refused.TOO_MANY_TAGS)
    if reason := _policy_forbids(request, response, stored, policy):
        return DoNotStore(reason)
    if previous is not None and previous.status < 500 <= response.status:
        return DoNotStore(Refused.STALE_KEPT)  # it may still be validated (§4.3.3), or stand in (RFC 5861 §4)
    names = _varying(response, policy)
    part = ranges.content_range(response.fields.get(b"content-range")) if response.status == 206 else None
    return Store(
        stored._replace(
            vary=names,
            selecting=selecting_values(names, request.fields),
            first_byte=part.first if part else 0,
            whole_length=part.whole if part else None,
        )
    )


def _varying(response: Response, policy: Policy) -> tuple[bytes, ...]:
    """The fields that `response` is selected by: those of its Vary that were sent upstream."""
    names = vary_names(response.fields, policy.list_fields)
    return tuple(name for name in names if name not in policy.unsent) if policy.unsent else names


def forbids_keeping(
    request: Request, stored: Stored, freshened: Stored, response: Response, policy: Policy
) -> Refused | None:
    """Why a 304, or a HEAD's 200, says of `stored`, which it would make `freshened`, that it is not for others."""
    directives = freshened.directives
    if directives.no_store and not directives.must_understand:
        return Refused.NO_STORE
    if directives.private:
        return Refused.PRIVATE
    if _authorizes(request, directives, policy):
        return Refused.AUTHORIZATION
    if b"vary" in response.fields and _varying(response, policy) != stored.vary:
        return Refused.OTHER_VARY
    return Refused.SET_COOKIE if b"set-cookie" in response.fields and not policy.store_set_cookie else None


def never_stored(response: Response) -> Refused | None:
    """Why no request could make this response storable, if that is so: the short way to say no."""
    directives = response_directives(response)
    if directives.no_store and not directives.must_understand:
        return Refused.NO_STORE
    return Refused.PRIVATE if directives.private else None


def _rfc_forbids(
    request: Request, response: Response, directives: ResponseDirectives, policy: Policy
) -> Refused | None:
    """The conditions of RFC 9111 §3, in its order."""
    status = response.status
    if request.method != b"GET" and request.content is None:
        return Refused.METHOD
    if status < 200 or status == 304:
        return Refused.INTERIM
    if directives.must_understand and status not in UNDERSTOOD:
        return Refused.NOT_UNDERSTOOD
    if directives.no_store and not directives.must_understand:  # §5.2.2.3: must-understand sets it aside
        return Refused.NO_STORE
    if forbids_storing(request):
        return Refused.REQUEST_NO_STORE
    if directives.private:
        return Refused.PRIVATE
    if _authorizes(request, directives, policy):
        return Refused.AUTHORIZATION
    if not (directives.public or has_explicit_lifetime(response)) and status not in HEURISTICALLY_CACHEABLE:
        return Refused.NOT_CACHEABLE
    return None


def _authorizes(request: Request, directives: ResponseDirectives, policy: Policy) -> bool:
    """Whether only the authorized client may have the response (RFC 9111 §3.5)."""
    if request.claims:
        return True
    shared = directives.public or directives.must_revalidate or directives.s_maxage is not None
    return b"authorization" in request.fields and b"authorization" not in policy.unsent and not shared


def has_explicit_lifetime(response: Response) -> bool:
    """Whether the origin itself says how long the response is fresh (RFC 9111 §4.2.1)."""
    directives = response_directives(response)
    return directives.max_age is not None or directives.s_maxage is not None or b"expires" in response.fields


def _policy_forbids(request: Request, response: Response, stored: Stored, policy: Policy) -> Refused | None:
    """Restrictions of this cache beyond the RFC's."""
    names = tuple(name for name in vary_names(response.fields) if name not in policy.unsent)
    if VARY_STAR in names:
        return Refused.VARY_STAR
    if not PER_CLIENT.isdisjoint(names) or any(name in names and name in request.fields for name in PER_USER):
        return Refused.PER_USER_VARY  # responses to requests without them are shared
    if ACCEPT_ENCODING in names and not accepts(*_coded(request, stored)):
        return Refused.CODING
    if b"set-cookie" in response.fields and not (policy.store_set_cookie and has_explicit_lifetime(response)):
        return Refused.SET_COOKIE
    if _redirects_to_itself(request, response):
        return Refused.SELF_REDIRECT
    if response.status in CLIENT_ERRORS and not policy.store_client_errors:
        return Refused.CLIENT_ERROR
    if response.status == 206 and not ranges.storable_part(response):
        return Refused.PARTIAL
    useful = stored.lifetime > stored.initial_age or stored.has_validator or stored.stale_if_error > 0
    return None if useful else Refused.USELESS


def _coded(request: Request, stored: Stored) -> tuple[bytes | None, frozenset[bytes]]:
    """What of codings the request accepts, and in which ones it was answered."""
    return selecting_values((ACCEPT_ENCODING,), request.fields)[0], stored.codings


def _redirects_to_itself(request: Request, response: Response) -> bool:
    """Whether a redirect leads to its own URL: stored, it would be a loop for every client."""
    location = response.fields.get(b"location")
    if location is None or not 300 <= response.status < 400:
        return False
    target = url_key(request)
    return same_origin_key(target, location) == target


def as_get(request: Request, response: Response) -> Request | None:
    """The GET that the response to a POST may answer too, or None (RFC 9110 §9.3.3).

    It may if `Content-Location` is the target itself and the response has an explicit lifetime.
    """
    location = response.fields.get(b"content-location")
    if request.method != b"POST" or response.status != 200 or location is None:
        return None
    if any(map(is_override, request.fields.names())):  # it was passed on, and may have been answered for another target
        return None
    target = url_key(request)
    get = request._replace(method=b"GET", framing=NO_BODY)
    return get if has_explicit_lifetime(response) and same_origin_key(target, location) == target else None


# --- May a stored response be used? (RFC 9111 §4) ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fresh:
    """Usable without validation."""


@dataclass(frozen=True, slots=True)
class StaleWhileRevalidate:
    """Usable while it is validated in the background (RFC 5861 §3)."""


@dataclass(frozen=True, slots=True)
class MustValidate:
    """Not usable without validation."""

    why: Forward


Verdict = Fresh | StaleWhileRevalidate | MustValidate


def may_reuse(stored: Stored, request: Request, now: float) -> Verdict:
    """How `stored`, which matches by key and selecting fields, may be used for `request` now."""
    directives = stored.directives
    fields = request.fields
    asked = parse_request_directives(fields.get(b"cache-control"), fields.get(b"pragma"))
    if is_waived(request, stored, now):
        asked = asked.accepting
    age = stored.age(now)
    if asked.no_cache:  # §5.2.1.4
        return MustValidate(Forward.REQUEST)
    if directives.no_cache:  # §5.2.2.4
        return MustValidate(Forward.STALE)
    if asked.max_age is not None and age > asked.max_age and not directives.immutable:  # §5.2.1.1, RFC 8246 §2
        return MustValidate(Forward.REQUEST)
    if stored.lifetime > age:
        if asked.min_fresh is not None and stored.lifetime - age < asked.min_fresh:  # §5.2.1.3
            return MustValidate(Forward.REQUEST)
        return Fresh()
    if directives.forbids_stale:  # §4.2.4
        return MustValidate(Forward.STALE)
    staleness = age - stored.lifetime
    if asked.max_stale is not None and staleness <= asked.max_stale:  # §5.2.1.2
        return Fresh()
    if staleness < stored.stale_while_revalidate and asked.max_age is None and asked.min_fresh is None:
        return StaleWhileRevalidate()
    return MustValidate(Forward.STALE)


def always_needs_validation(stored: Stored) -> bool:
    """Whether every use of `stored` requires validation: it was never fresh, or has `no-cache` (§5.2.2.4)."""
    directives = stored.directives
    return directives.no_cache or (stored.lifetime <= 0 and not stored.stale_while_revalidate)


def may_serve_on_error(stored: Stored, request: Request, now: float) -> bool:
    """Whether `stored` may be used stale when the origin fails (RFC 5861 §4, RFC 9111 §4.2.4)."""
    if stored.directives.forbids_stale or stored.status >= 500:
        return False
    asked = parse_request_directives(request.fields.get(b"cache-control"), request.fields.get(b"pragma"))
    if request.revalidation is not Revalidation.HONOUR:
        asked = asked.accepting
    if asked.no_cache or asked.max_age is not None or asked.min_fresh is not None:
        return stored.is_fresh(now) and not asked.no_cache
    return stored.age(now) - stored.lifetime <= max(stored.stale_if_error, asked.stale_if_error)


def expects_shared(request: Request, fields: Fields) -> bool:
    """Whether the response to `request`, forwarded with `fields`, is likely to be shared.

    With a cookie it is not, unless a stored response is being validated or completed.
    """
    if b"authorization" in request.fields or forbids_storing(request):
        return False
    return b"cookie" not in request.fields or not STORED_IS_KNOWN.isdisjoint(fields.names())


def is_plain(fields: Fields) -> bool:
    """Whether a request has no directives about freshness (§5.2.1, §5.4)."""
    index = fields.index
    return b"cache-control" not in index and b"pragma" not in index


def requires_validation(request: Request) -> bool:
    """Whether only a fetch that starts after this request may answer it (RFC 9111 §5.2.1.4, §5.2.1.1 with 0)."""
    if request.revalidation is not Revalidation.HONOUR:
        return False
    asked = parse_request_directives(request.fields.get(b"cache-control"), request.fields.get(b"pragma"))
    return asked.no_cache or asked.max_age == 0


def with_no_cache(request: Request) -> Request:
    """`request` with `no-cache`, so that no stored response answers it here or upstream (RFC 9111 §5.2.1.4)."""
    fields = request.fields.plus((b"Cache-Control", b"no-cache"))
    return request._replace(fields=fields, revalidation=Revalidation.HONOUR)


def is_waived(request: Request, stored: Stored, now: float) -> bool:
    """Whether the policy ignores the directives of `request` that demand validation of `stored`."""
    if request.revalidation is Revalidation.COLLAPSE:
        return now - stored.received < NEW_FOR
    return request.revalidation is Revalidation.IGNORE


def accepting(fields: Fields) -> Fields:
    """The fields of a request without directives that demand validation."""
    said = fields.get(b"cache-control")
    kept = without_wishes(said) if said is not None else b""
    lines = [(b"Cache-Control", kept)] if kept else []
    return fields.without((b"cache-control", b"pragma")).plus(*lines)


def as_follower(request: Request) -> Request:
    """`request` as a follower of a fetch under way: without `no-cache`, unless the policy honours it."""
    if request.revalidation is Revalidation.HONOUR:
        return request
    return request._replace(revalidation=Revalidation.IGNORE)


def forbids_storing(request: Request) -> bool:
    """Whether the request forbids storing (RFC 9111 §5.2.1.5)."""
    return parse_request_directives(request.fields.get(b"cache-control"), None).no_store


def filling(request: Request) -> Request:
    """`request` as forwarded to fill the cache: HEAD becomes GET, whose response answers both."""
    return request._replace(method=b"GET") if request.method == b"HEAD" else request  # RFC 9110 §9.3.2


def only_if_cached(request: Request) -> bool:
    """Whether the request forbids forwarding (RFC 9111 §5.2.1.7)."""
    return parse_request_directives(request.fields.get(b"cache-control"), None).only_if_cached


# --- Validation (RFC 9111 §4.3) ------------------------------------------------------------------------------------


def conditional_fields(request: Request, stored: Stored) -> Fields:
    """The fields of a conditional request that validates `stored` (RFC 9111 §4.3.1)."""
    conditions = []
    if stored.etag is not None:
        conditions.append((b"If-None-Match", stored.etag))
    if stored.last_modified is not None:
        conditions.append((b"If-Modified-Since", stored.last_modified))
    return unconditional(request).plus(*conditions)


def resumption_fields(request: Request, stored: Stored, segments: ranges.Segments) -> Fields:
    """The fields of a request for what is missing at the end of a stored part (RFC 9111 §3.4), else for the whole."""
    missing = segments.missing_after()
    if missing is None:
        return unconditional(request)
    lines = [(b"Range", b"bytes=%d-" % missing)]
    if (etag := ranges.strong_etag(stored)) is not None:
        lines.append((b"If-Range", etag))
    return unconditional(request).plus(*lines)


def unconditional(request: Request) -> Fields:
    """The request's fields without preconditions and ranges."""
    return request.fields.without(CONDITIONS)


def validates(stored: Stored, response: Response) -> bool:
    """Whether a 304 selects `stored`: its validators, if any, must match (RFC 9111 §4.3.4).

    ETags are compared weakly: what weakens that of a 200 on its way, such as compression, may leave a 304's as it is.
    """
    etag, modified = response.fields.get(b"etag"), response.fields.get(b"last-modified")
    if etag is not None and stored.etag is not None:
        return etag.removeprefix(b"W/") == stored.etag.removeprefix(b"W/")
    if modified is not None and stored.last_modified is not None:
        return modified == stored.last_modified
    return etag is None or etag.startswith(b"W/")


def head_agrees(stored: Stored, length: int, response: Response) -> bool:
    """Whether a 200 to HEAD agrees with the stored content of `length` bytes (RFC 9111 §4.3.5)."""
    fields = response.fields
    for name, kept in (
        (b"etag", stored.etag),
        (b"last-modified", stored.last_modified),
        (b"content-length", b"%d" % length),
    ):
        new = fields.get(name)
        if new is not None and new != kept:
            return False
    return True


# --- Invalidation by unsafe methods (RFC 9111 §4.4) ----------------------------------------------------------------


def is_safe(request: Request) -> bool:
    """Whether the method is safe (RFC 9110 §9.2.1), also for an origin that obeys method overrides."""
    return request.method in SAFE_METHODS and not overrides_method(request)


def written_keys(request: Request) -> list[bytes]:
    """Keys of the target of an unsafe request, and of targets that override fields name."""
    target = url_key(request)
    named = (value for name in TARGETS if (value := request.fields.get(name)) is not None)
    return [target, *(key for value in named if (key := same_origin_key(target, value)) is not None and key != target)]


def invalidated_keys(request: Request, response: Response) -> list[bytes]:
    """The primary keys that the response to `request` invalidates: none for safe methods and errors."""
    if is_safe(request) or not 200 <= response.status < 400:
        return []
    keys = written_keys(request)
    target = keys[0]
    for name in (b"location", b"content-location"):  # same origin only, against denial of service (§4.4)
        value = response.fields.get(name)
        if value is not None:
            key = same_origin_key(target, value)
            if key is not None and key not in keys:
                keys.append(key)
    return keys
