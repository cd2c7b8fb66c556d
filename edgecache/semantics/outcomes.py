"""The closed vocabularies of the cache: why a request went forward, why a response is not kept, who answered, how."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Word(Enum):
    """A closed vocabulary. Members are unique objects, and hashed as such: Enum's own hash costs a call of Python."""

    __hash__ = object.__hash__


class Forward(Word):
    """Why a request is forwarded: the values of `fwd` in RFC 9211 §2.2, and one that is a kind of `bypass`."""

    BYPASS = b"bypass"  # the cache is configured not to handle it
    METHOD = b"method"  # its method requires it
    URI_MISS = b"uri-miss"  # nothing is stored for the target
    VARY_MISS = b"vary-miss"  # nothing stored for the target matches the request's selecting fields
    REQUEST = b"request"  # a directive of the request asks for it
    STALE = b"stale"  # what is stored may not be used without asking
    PARTIAL = b"partial"  # what is stored holds only a part of what is asked for
    HIT_FOR_MISS = b"hit-for-miss"  # answers for the URL are known not to be shareable: a `bypass`


class Revalidation(Word):
    """What becomes of a client's wish for something newer than what is stored (RFC 9111 §5.2.1, §5.4)."""

    IGNORE = "ignore"  # nothing
    COLLAPSE = "collapse"  # one question for all who wish so, at most one a second for each object
    HONOUR = "honour"  # a question for each


class Refused(Word):
    """Why a response is not stored."""

    METHOD = "method"  # RFC 9111 §3: only GET is stored
    INTERIM = "interim"  # RFC 9111 §3: not a final status
    NOT_UNDERSTOOD = "not-understood"  # RFC 9111 §5.2.2.3: must-understand, and the status is unknown here
    NO_STORE = "no-store"  # RFC 9111 §5.2.2.5
    REQUEST_NO_STORE = "request-no-store"  # RFC 9111 §5.2.1.5
    PRIVATE = "private"  # RFC 9111 §5.2.2.7
    AUTHORIZATION = "authorization"  # RFC 9111 §3.5
    NOT_CACHEABLE = "not-cacheable"  # RFC 9111 §3: neither explicit freshness nor a heuristic for this status
    SET_COOKIE = "set-cookie"  # ours: it is one client's, unless a setting says otherwise
    VARY_STAR = "vary-star"  # RFC 9111 §4.1: it would never match
    PER_USER_VARY = "per-user-vary"  # ours: made for one client's Cookie or Authorization
    CODING = "coding"  # ours: it is in a coding that the request does not accept, and others like it do not either
    OTHER_VARY = "other-vary"  # a validation names other selecting fields: it was stored by values that nobody knows
    SELF_REDIRECT = "self-redirect"  # ours: it leads to where it comes from, and would do so for everybody
    CLIENT_ERROR = "client-error"  # ours: an error that one client's odd request can provoke (CPDoS)
    USELESS = "useless"  # never fresh, no validator, no stale window: it could not be used
    PARTIAL = "partial"  # a 206 whose part is not known, or that has no validator to join it by
    TOO_LARGE = "too-large"  # larger than the tier takes
    LENGTH = "length"  # not as long as its head, or the tier that had it, says
    NO_ROOM = "no-room"  # too much else was arriving at the same time
    TOO_MANY_TAGS = "too-many-tags"  # ours: a purge by one that was left out would miss it
    STALE_KEPT = "stale-kept"  # an error would replace a response that may still be served in its place
    PURGED = "purged"  # it was asked for before its URL was invalidated
    REQUEST_CONTENT = "request-content"  # ours: the request had content, and the answer may depend on it
    RESIDENCY = "residency"  # ours: it belongs to another jurisdiction
    INCOMPLETE = "incomplete"  # RFC 9111 §3.3: the body ended early
    KNOWN = "known"  # a part of what is stored whole
    REGIONAL = "regional"  # too large for the memory, and the regional tier did not take it


OF_THE_RESPONSE: Final = frozenset(  # reasons that will hold for the next request too
    (
        Refused.NO_STORE,
        Refused.PRIVATE,
        Refused.NOT_CACHEABLE,
        Refused.NOT_UNDERSTOOD,
        Refused.SET_COOKIE,
        Refused.VARY_STAR,
        Refused.PER_USER_VARY,
        Refused.USELESS,
        Refused.SELF_REDIRECT,
        Refused.TOO_LARGE,
    )
)


class Tier(Word):
    """Who an answer came from: the other label of the request metrics."""

    MEMORY = "memory"
    REGIONAL = "regional"
    PARENT = "parent"  # another POP
    ORIGIN = "origin"
    PASS = "pass"  # passed through, whoever is upstream
    NONE = "none"  # an answer of our own


class Result(Word):
    """What a request came to: a label of the request metrics and of the access log."""

    HIT = "hit"
    REGIONAL = "regional"  # a hit of the regional tier
    STALE = "stale"  # a stored response past its freshness, where that is allowed
    REVALIDATED = "revalidated"  # the origin said that what is stored is still good
    MISS = "miss"
    COLLAPSED = "collapsed"  # another request's answer
    PASS = "pass"
    PURGE = "purge"  # a PURGE that was recorded
    ERROR = "error"  # an answer of our own
    ABORTED = "aborted"  # the client left before the end, or the answer could not be completed


TIERS: Mapping[Result, Tier] = {  # unless the exchange knows better
    Result.HIT: Tier.MEMORY,
    Result.REGIONAL: Tier.REGIONAL,
    Result.STALE: Tier.MEMORY,
    Result.REVALIDATED: Tier.ORIGIN,
    Result.MISS: Tier.ORIGIN,
    Result.COLLAPSED: Tier.ORIGIN,
    Result.PASS: Tier.PASS,
    Result.PURGE: Tier.NONE,
    Result.ERROR: Tier.NONE,
    Result.ABORTED: Tier.NONE,
}
