"""The cache key: the target URI (RFC 9111 §2), exactly as it is forwarded.

The key is `scheme://host` + target. A validated host holds no "/" and a target begins with "/" or is "*", so the key
is injective; two targets whose forwarded bytes differ never share one. Percent-encoding is not touched: `/a` and `/%61`
may be two things to an origin; what is purged by either is purged by both (`uri.py`). `No-Vary-Search` merges keys only
where the origin says that it may.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_plus

from edgecache.semantics import uri
from edgecache.semantics.memoize import memoize
from edgecache.semantics.message import Request
from edgecache.semantics.structured_fields import parse_dictionary

MOST_PARAMETERS: Final = 256  # of a query that is compared with others; a longer one is a URL of its own


def primary_key(request: Request) -> bytes:
    """The cache key of `request`: its URL, and the group of its trusted claims."""
    return request.scheme + request.group + b"://" + request.host + request.target


def key_under(request: Request, group: bytes) -> bytes:
    """The cache key of `request` with one more `group`."""
    return request.scheme + request.group + group + b"://" + request.host + request.target


def url_key(request: Request) -> bytes:
    """The URL of `request`, without its group."""
    return request.scheme + b"://" + request.host + request.target


def same_origin_key(key: bytes, reference: bytes) -> bytes | None:
    """The key of the URI that `reference` means, relative to `key`; None if that is of another origin, or no URI."""
    found = uri.resolved(key, reference)
    scheme, _, rest = key.partition(b"://")
    if found is None or found[:2] != (scheme, rest.partition(b"?")[0].partition(b"/")[0]):
        return None
    return scheme + b"://" + found[1] + found[2]


class SearchVariance:
    """`No-Vary-Search` for a URL's query: which parameters are irrelevant, and whether their order matters."""

    __slots__ = ("allow_all", "ignore_order", "names")

    def __init__(self, ignore_order: bool, allow_all: bool, names: frozenset[str]) -> None:
        self.ignore_order = ignore_order
        self.allow_all = allow_all  # every parameter is ignored but those in `names`
        self.names = names

    def normal(self, target: bytes) -> bytes:
        """`target` with its query reduced to what matters."""
        path, mark, query = target.partition(b"?")
        if not mark or query.count(b"&") >= MOST_PARAMETERS:
            return target
        named = [(parameter_name(part), part) for part in query.split(b"&") if part]
        kept = [pair for pair in named if (pair[0] in self.names) is self.allow_all]
        if self.ignore_order:
            kept.sort(key=lambda pair: pair[0])
        return path + b"?" + b"&".join([part for _, part in kept]) if kept else path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchVariance) and (self.ignore_order, self.allow_all, self.names) == (
            other.ignore_order,
            other.allow_all,
            other.names,
        )

    def __hash__(self) -> int:
        return hash((self.ignore_order, self.allow_all, self.names))


def parameter_name(part: bytes) -> str:
    """The name of one parameter of a query as the origin reads it: `%69d` is `id`, or it would seem not to matter."""
    return unquote_plus(part.partition(b"=")[0].decode("latin-1"))


@memoize(256)
def no_vary_search(value: bytes | None) -> SearchVariance | None:
    """The `No-Vary-Search` field as a value; None where it is absent, malformed, or changes nothing.

    A dictionary: `key-order` (boolean), `params` (boolean or list of strings), `except` (list of strings, with
    `params`). Parameter names are compared as they are decoded.
    """
    if value is None:
        return None
    members = parse_dictionary(value)
    if members is None:
        return None
    order = members.get("key-order", False)
    params = members.get("params", False)
    excepted = members.get("except", [])
    if not isinstance(order, bool) or (excepted and params is not True):
        return None
    names = _strings(excepted if params is True else [] if params is False else params)
    if names is None:
        return None
    if params is False and not order:
        return None
    return SearchVariance(order, params is True, names)


def _strings(members: object) -> frozenset[str] | None:
    if not isinstance(members, list) or not all(type(member) is str for member in members):
        return None
    return frozenset(unquote_plus(member) for member in members)
