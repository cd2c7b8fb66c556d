"""The parts of a cache key that rules add."""

from __future__ import annotations

import re
from typing import Final

from edgecache.semantics.cache_key import parameter_name
from edgecache.semantics.client_claims import is_never_cached
from edgecache.semantics.message import Request
from edgecache.semantics.query_content import content_digest
from edgecache.semantics.rfc9111 import pass_reason
from edgecache.semantics.rules.actions import QueryKey
from edgecache.semantics.rules.conditions import MOST_PARAMETERS, RequestFacts
from edgecache.semantics.rules.policy import RequestPolicy, Site
from edgecache.semantics.secret_parameters import without_parameters

MOBILE: Final = re.compile(rb"Mobi|iPhone|iPod|Windows Phone|Opera Mini|IEMobile")
TABLET: Final = re.compile(rb"iPad|Tablet|Kindle|Silk/|PlayBook")


def key_part(policy: RequestPolicy, facts: RequestFacts) -> bytes:
    """What of a request its policy adds to the cache key; empty where that is the URL alone. Injective."""
    key = policy.actions.key
    parts = [policy.group] if policy.group else []
    fields = facts.request.fields
    parts += [_written(b"h", name, fields.all(name) if name in fields else None) for name in key.headers]
    parts += [_written(b"c", name.encode("latin-1"), facts.cookies.get(name)) for name in key.cookies]
    if key.country:
        parts.append(_written(b"g", b"", [facts.country.encode()]))
    if key.device:
        parts.append(_written(b"d", b"", [device_of(fields.get(b"user-agent") or b"")]))
    if facts.request.content is not None:
        parts.append(_written(b"q", b"", [content_digest(facts.request)]))
    return b"\n".join(parts)


def reduced_request(request: Request) -> Request:
    """`request` without the query parameters that its rules drop, if its response may be stored, or come from store."""
    policy: RequestPolicy = request.policy
    query, target = policy.actions.key.query, request.target
    if query is None or b"?" not in target or policy.actions.caching.store is False:
        return request
    if not is_never_cached(request) or pass_reason(request) is not None:
        return request
    less = reduced_target(query, target)
    return request if less == target else request._replace(target=less, written=request.received_target)


def reduced_target(query: QueryKey, target: bytes) -> bytes:
    """`target`, or a URL, with the parameters that `query` keeps, by their decoded names."""
    path, mark, text = target.partition(b"?")
    parts = text.split(b"&", MOST_PARAMETERS)
    if not mark or len(parts) > MOST_PARAMETERS:
        return target
    named = [(parameter_name(part).encode(), part) for part in parts if part]
    kept = [(name, part) for name, part in named if _is_kept(query, name)]
    if query.sort:
        kept.sort(key=lambda pair: pair[0])  # those of one name keep their order: it may matter
    return path + b"?" + b"&".join([part for _, part in kept]) if kept else path


def _is_kept(query: QueryKey, name: bytes) -> bool:
    return bool((query.keep is None or query.keep(name)) and not (query.drop is not None and query.drop(name)))


def spellings(site: Site, url: bytes) -> list[bytes]:
    """`url` as each of the site's rules may reduce it, with and without parameters that its rules take for signatures.

    What is purged by one spelling is purged by all.
    """
    unsigned = without_parameters(url, site.signature_parameters)
    queries = [rule.actions.key.query for rule in site.rules if rule.actions.key.query is not None]
    return [unsigned, *(reduced_target(query, one) for query in queries for one in dict.fromkeys((url, unsigned)))]


def _written(kind: bytes, name: bytes, values: list[bytes] | None) -> bytes:
    """One member, with lengths, so that no two lists of members are written alike."""
    if values is None:
        return b"%b%d:%b-" % (kind, len(name), name)
    listed = b"".join([b"%d:%b" % (len(value), value) for value in values])
    return b"%b%d:%b=%d,%b" % (kind, len(name), name, len(values), listed)


def device_of(agent: bytes) -> bytes:
    """The class of a device by its User-Agent: mobile, tablet or desktop."""
    if TABLET.search(agent) or (b"Android" in agent and b"Mobile" not in agent):
        return b"tablet"
    return b"mobile" if MOBILE.search(agent) else b"desktop"
