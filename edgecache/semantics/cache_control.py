"""`Cache-Control` of requests and responses, and `CDN-Cache-Control`, as frozen values.

Repeated directives and malformed values get the most restrictive reading (RFC 9111 §4.2.1 allows it): the smaller
lifetime, 0 for a malformed one, and a qualified `private` or `no-cache` counts as unqualified.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from edgecache.semantics.memoize import memoize
from edgecache.semantics.structured_fields import parse_dictionary

LONGEST_READ: Final = 4096  # bytes; longer values are read as the strictest, for their rest might be `no-store`
FOREVER: Final = 2**31  # RFC 9111 §1.2.2: the value to use for what is larger
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
DIRECTIVE: Final = re.compile(  # possessive: what matches one way is tried one way
    rb"[ \t]*+(?:(" + TOKEN + rb"++)(?:=(\"(?:[^\"\\]|\\.)*+\"|" + TOKEN + rb"*+))?)?[ \t]*+(?:,|\Z)",
    re.DOTALL,
)
MALFORMED: Final = re.compile(rb"(?:[^,\"]++|\"[^\"]*+\"|\")*+,?")
RESTRICTIVE: Final = re.compile(rb"(?i:no-store|private|no-cache|max-age|s-maxage|must-revalidate|proxy-revalidate)")
DIGITS: Final = re.compile(rb"[0-9]+")


def delta_seconds(value: bytes | None) -> int | None:
    """`value` as whole seconds, at most 2^31 (RFC 9111 §1.2.2), or None if it is not digits."""
    if value is None or not DIGITS.fullmatch(value):
        return None
    return FOREVER if len(value) > 10 else min(int(value), FOREVER)


def parse_directives(value: bytes) -> list[tuple[bytes, bytes | None]]:
    """The directives in `value`: lower-case names, arguments unquoted.

    Of a malformed member only the restrictive words in it count (`max-age=60; private` is private, and stale).
    """
    directives: list[tuple[bytes, bytes | None]] = []
    position = 0
    while position < len(value):
        match = DIRECTIVE.match(value, position)
        if match is None:
            match = MALFORMED.match(value, position)
            assert match is not None, "MALFORMED matches anything"
            directives += [(word.lower(), b"?") for word in RESTRICTIVE.findall(match[0])]
        elif match[1] is not None:
            directives.append((match[1].lower(), _unquoted(match[2])))
        position = match.end()
    return directives


def _unquoted(argument: bytes | None) -> bytes | None:
    if argument is None or argument[:1] != b'"':
        return argument
    return re.sub(rb"(?s)\\(.)", rb"\1", argument[1:-1])


@dataclass(frozen=True, slots=True)
class RequestDirectives:
    """`Cache-Control` of a request (RFC 9111 §5.2.1); ages in seconds."""

    max_age: int | None = None
    max_stale: int | None = None
    min_fresh: int | None = None
    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    stale_if_error: int = 0  # RFC 5861 §4: also a request directive

    @property
    def accepting(self) -> RequestDirectives:
        """These without directives that demand validation."""
        return replace(self, no_cache=False, max_age=None, min_fresh=None)


WISHES: Final = frozenset((b"no-cache", b"max-age", b"min-fresh"))
STRICTEST: Final = RequestDirectives(no_cache=True, no_store=True)
LONGEST_REQUEST: Final = 1024  # bytes of a request's `Cache-Control` that are read


@dataclass(frozen=True, slots=True)
class ResponseDirectives:
    """`Cache-Control` of a response (RFC 9111 §5.2.2, RFC 5861, RFC 8246); lifetimes in seconds, None = absent."""

    max_age: int | None = None
    s_maxage: int | None = None
    no_cache: bool = False
    no_store: bool = False
    private: bool = False
    public: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    must_understand: bool = False
    immutable: bool = False
    stale_while_revalidate: int = 0
    stale_if_error: int | None = None
    overrides_expires: bool = False  # a targeted field (RFC 9213 §2.1), or a rule: `Expires` does not count

    @property
    def forbids_stale(self) -> bool:
        """Whether a shared cache must validate once it is stale (RFC 9111 §4.2.4: s-maxage implies it)."""
        return self.must_revalidate or self.proxy_revalidate or self.no_cache or self.s_maxage is not None


@memoize(1024)
def parse_request_directives(cache_control: bytes | None, pragma: bytes | None) -> RequestDirectives:
    """The directives of a request; `Pragma: no-cache` counts only without `Cache-Control` (RFC 9111 §5.4).

    Overlong values are read as the strictest.
    """
    if len(cache_control or pragma or b"") > LONGEST_REQUEST:
        return STRICTEST
    if cache_control is None:
        return RequestDirectives(no_cache=pragma is not None and b"no-cache" in pragma.lower())
    max_age: int | None = None
    max_stale: int | None = None
    min_fresh: int | None = None
    stale_if_error = 0
    names = set()
    for name, argument in parse_directives(cache_control):
        names.add(name)
        seconds = delta_seconds(argument)
        if name == b"max-age":  # unreadable: as if nothing were fresh enough
            max_age = _smaller(max_age, seconds or 0)
        elif name == b"min-fresh" and seconds is not None:
            min_fresh = max(min_fresh or 0, seconds)
        elif name == b"max-stale":
            max_stale = _smaller(max_stale, FOREVER if argument is None else seconds or 0)
        elif name == b"stale-if-error":
            stale_if_error = seconds or 0
    return RequestDirectives(
        max_age,
        max_stale,
        min_fresh,
        b"no-cache" in names,
        b"no-store" in names,
        b"only-if-cached" in names,
        stale_if_error,
    )


def without_wishes(cache_control: bytes) -> bytes:
    """`cache_control` of a request without directives that demand validation, and without malformed ones."""
    kept = []
    position = 0
    while position < len(cache_control):
        match = DIRECTIVE.match(cache_control, position) or MALFORMED.match(cache_control, position)
        assert match is not None, "MALFORMED matches anything"
        if match.re is DIRECTIVE and match[1] is not None and match[1].lower() not in WISHES:
            kept.append(match[0].strip(b" \t,"))
        position = match.end()
    return b", ".join(kept)


@memoize(4096)
def parse_response_directives(cache_control: bytes | None, cdn_cache_control: bytes | None) -> ResponseDirectives:
    """The directives that a shared cache obeys: `CDN-Cache-Control` alone where it is valid (RFC 9213 §2.1)."""
    if max(len(cache_control or b""), len(cdn_cache_control or b"")) > LONGEST_READ:
        return ResponseDirectives(no_store=True)
    targeted = _targeted(cdn_cache_control) if cdn_cache_control is not None else None
    directives = targeted if targeted else parse_directives(cache_control or b"")
    max_age: int | None = None
    s_maxage: int | None = None
    stale_while_revalidate: int | None = None
    stale_if_error: int | None = None
    names = set()
    for name, argument in directives:
        names.add(name)
        if name == b"max-age":
            max_age = _smaller(max_age, delta_seconds(argument) or 0)
        elif name == b"s-maxage":
            s_maxage = _smaller(s_maxage, delta_seconds(argument) or 0)
        elif name == b"stale-while-revalidate":
            stale_while_revalidate = _smaller(stale_while_revalidate, delta_seconds(argument) or 0)
        elif name == b"stale-if-error":
            stale_if_error = _smaller(stale_if_error, delta_seconds(argument) or 0)
    return ResponseDirectives(
        max_age,
        s_maxage,
        stale_while_revalidate=stale_while_revalidate or 0,
        stale_if_error=stale_if_error,
        overrides_expires=targeted is not None,
        **{flag.replace("-", "_"): flag.encode() in names for flag in FLAGS},
    )


FLAGS: Final = (
    "no-cache",
    "no-store",
    "private",
    "public",
    "must-revalidate",
    "proxy-revalidate",
    "must-understand",
    "immutable",
)


PERMISSIVE: Final = frozenset(("public", "immutable", "must-understand"))  # they count where they are plain


def _targeted(value: bytes) -> list[tuple[bytes, bytes | None]] | None:
    """The directives of a targeted field, a Dictionary (RFC 9213 §2.2); None if it is to be ignored."""
    members = parse_dictionary(value)
    if members is None:
        return None
    directives: list[tuple[bytes, bytes | None]] = []
    for name, member in members.items():
        if member is True:
            directives.append((name.encode(), None))
        elif isinstance(member, int) and not isinstance(member, bool):
            directives.append((name.encode(), b"%d" % member))
        elif member is not False and name not in PERMISSIVE:  # `private=x`, `no-cache=("a")`: counts whole; others: 0
            directives.append((name.encode(), b"?"))
    return directives or None


def _smaller(before: int | None, value: int) -> int:
    return value if before is None else min(before, value)
