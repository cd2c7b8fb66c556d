"""PURGE, BAN and PURGEKEYS requests in the dialects of other caches. Pure.

    PURGE /path                                 Varnish, nginx, Fastly: one URL
    PURGE /path/.*                              W3 Total Cache; Proxy Cache Purge adds `X-Purge-Method: regex`
    PURGE /path/*, PURGE /purgeall              nginx and nginx-helper
    PURGE, Surrogate-Key | xkey | Cache-Tag     Fastly, vmod xkey
    PURGE, X-Magento-Tags-Pattern               Magento
    BAN, X-Cache-Tags | Cache-Tags              FOSHttpCache, Drupal: the fields in which their answers bear tags
    BAN, X-Host, X-Url, X-Content-Type          FOSHttpCache
    PURGEKEYS, xkey-purge | xkey-softpurge      FOSHttpCache with vmod xkey

Anything else is refused with one sentence: 200 means that the whole purge was carried out.
"""

from __future__ import annotations

import re
from typing import Final

from edgecache.invalidation import scopes
from edgecache.invalidation.purge_auth import Caller, PurgeRefused
from edgecache.invalidation.purge_patterns import (
    EVERY_TARGET,
    PurgeTarget,
    Unsupported,
    alternatives_of_pattern,
    target_of_pattern,
)
from edgecache.invalidation.purge_request import (
    MOST_NAMED,
    Purge,
    all_sites_of,
    both_schemes,
    malformed,
    purge_of,
    site_for,
    tag_scopes,
    whole_hosts,
)
from edgecache.semantics.cache_key import url_key
from edgecache.semantics.message import Fields, Request

METHODS: Final = frozenset((b"PURGE", b"BAN", b"PURGEKEYS"))
KEY_FIELDS: Final = (b"surrogate-key", b"xkey-purge", b"xkey-softpurge", b"xkey", b"cache-tag")  # lists of tags
PATTERN_FIELDS: Final = {b"x-magento-tags-pattern": b"x-magento-tags"}  # and the response field whose tags they name
BAN_FIELDS: Final = (b"x-host", b"x-url", b"x-content-type")
UNDERSTOOD: Final = frozenset((*KEY_FIELDS, *PATTERN_FIELDS, b"fastly-soft-purge", b"x-purge-method"))
MEANINGLESS: Final = frozenset((b"surrogate-capability", b"x-datadog-tags"))  # they look as if they named something
TELLING: Final = re.compile(  # fields that name purges
    rb"(?:.+-)?(?:purge|purging|softpurge|bans?|invalidate|invalidation|flush|tags?|xkeys?|surrogate|pattern|regex)(?:-.+)?"
    rb"|x-url|x-host|x-content-type|x-pool|x-location-id|key"
)
EVERYTHING_OF_A_SITE: Final = b"/purgeall"  # of nginx-helper


def purge_of_request(request: Request, caller: Caller, tag_fields: frozenset[bytes] = frozenset()) -> Purge:
    """The purge of `request`; raises `PurgeRefused` (400, 403, 413).

    `tag_fields` are the names of further fields that bear tags, and name them in purges.
    """
    _refuse_unknown(request, tag_fields)
    site = site_for(request.host.decode("latin-1"), caller)
    try:
        named = _named(request, caller, site, tag_fields)
    except Unsupported as unsupported:
        raise PurgeRefused(400, "purge-unsupported", str(unsupported)) from None
    return purge_of(named, soft=_is_soft(request.fields))


def _is_soft(fields: Fields) -> bool:
    """Whether `Fastly-Soft-Purge: 1` makes it soft, or `xkey-softpurge` where nothing else is named."""
    if b"xkey-softpurge" in fields and not any(name in fields for name in KEY_FIELDS if name != b"xkey-softpurge"):
        return True
    return (fields.get(b"fastly-soft-purge") or b"").strip() == b"1"


def _refuse_unknown(request: Request, tag_fields: frozenset[bytes]) -> None:
    """Refuse content, and unknown fields that may name purges."""
    if request.framing.length != 0:
        raise malformed(f"a {request.method.decode()} has no content: POST lists to /purges")
    known = UNDERSTOOD | tag_fields | MEANINGLESS | (set(BAN_FIELDS) if request.method == b"BAN" else set())
    for name in request.fields.names():
        if name not in known and TELLING.fullmatch(name):
            sentence = f"{name.decode('latin-1')[:64]} is not understood in a {request.method.decode()} here"
            raise PurgeRefused(400, "purge-unsupported", sentence)


def _named(request: Request, caller: Caller, site: bytes, tag_fields: frozenset[bytes]) -> list[bytes]:
    """Scopes of the fields, else of the target. A ban by tags ignores host, path and type, and so purges more."""
    fields, method = request.fields, _purge_method(request.fields)
    if any(name in fields for name in (*KEY_FIELDS, *PATTERN_FIELDS, *tag_fields)):
        return _by_tags(fields, caller, tag_fields, method)
    if request.method == b"PURGEKEYS":
        raise malformed("PURGEKEYS names its keys in xkey-purge or xkey-softpurge")
    if any(name in fields for name in BAN_FIELDS):  # of a BAN: with other methods they are refused
        return _by_ban(fields, caller, site)
    return _at(_place(request.target, method), site, request)


def _purge_method(fields: Fields) -> bytes:
    """The value of X-Purge-Method: how the target is to be read."""
    method = (fields.get(b"x-purge-method") or b"").strip().lower()
    if method not in (b"", b"default", b"exact", b"regex"):
        raise Unsupported("X-Purge-Method is default, exact or regex")
    return method


def _by_tags(fields: Fields, caller: Caller, tag_fields: frozenset[bytes], method: bytes) -> list[bytes]:
    """Scopes of the tags that fields name."""
    if method == b"regex":
        raise Unsupported("a purge names tags or paths, not both")
    sources = {name: name for name in sorted(tag_fields)} | PATTERN_FIELDS
    patterns = {source: value for name, source in sources.items() if (value := fields.get(name)) is not None}
    found: list[bytes] = []
    for source, value in patterns.items():
        words = alternatives_of_pattern(value.strip())
        if words is None:
            return all_sites_of(caller)
        if source not in tag_fields:
            raise Unsupported(f"EDGECACHE_TAG_FIELD_NAMES lacks {source.decode()}: responses have no tags in it")
        found += words
    found += [tag for name in KEY_FIELDS for tag in _listed(name, fields.get(name) or b"")]
    if len(found) > MOST_NAMED:
        raise malformed(f"the purge names more than {MOST_NAMED} tags")
    return [scope for tag in found for scope in tag_scopes(tag, caller)]


def _listed(name: bytes, value: bytes) -> list[bytes]:
    """The tags of a list by blanks or commas; a tag in Cache-Tag may itself hold blanks."""
    words = value.replace(b",", b" ").split()
    if name != b"cache-tag":
        return words
    whole = [part.strip(b" \t") for part in value.split(b",")]
    return list(dict.fromkeys([*(part for part in whole if part), *words]))


def _place(target: bytes, method: bytes) -> PurgeTarget:
    """Scopes of the target; with a query it is one URL, unless declared a pattern."""
    plain = method == b"exact" or b"?" in target
    if method == b"regex" or (target.endswith(b".*") and not plain):
        return target_of_pattern(target)
    if plain:
        return PurgeTarget(target, below=False)
    if target.endswith(b"/*"):
        return PurgeTarget(target[:-1], below=True)
    return EVERY_TARGET if target == EVERYTHING_OF_A_SITE else PurgeTarget(target, below=False)


def _at(place: PurgeTarget, site: bytes, request: Request) -> list[bytes]:
    if not place.below:
        return both_schemes(url_key(request._replace(target=place.target)))
    return [scopes.prefix(site, place.target)]


def _by_ban(fields: Fields, caller: Caller, site: bytes) -> list[bytes]:
    """Scopes of the regular expressions in X-Host and X-Url, within the caller's hosts."""
    content_type = fields.get(b"x-content-type")
    if content_type is not None and alternatives_of_pattern(content_type.strip()) is not None:
        raise Unsupported("X-Content-Type is not supported in a purge")
    place = target_of_pattern((fields.get(b"x-url") or b".*").strip())
    hosts = alternatives_of_pattern((fields.get(b"x-host") or b".*").strip())
    if hosts is None and place == EVERY_TARGET:
        return all_sites_of(caller)
    if hosts is not None:
        named = [host.decode("latin-1") for host in hosts]
    else:
        named = [*whole_hosts(caller)] if caller.is_limited else []
    sites = [site_for(host, caller) for host in named]
    if not sites:
        raise Unsupported("X-Url needs X-Host with the names of the sites: it would purge the path on every site")
    if place.below:
        return [scopes.prefix(one, place.target) for one in sites]
    return [scope for one in sites for scope in both_schemes(b"http://" + one + place.target)]
