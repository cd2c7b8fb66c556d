"""Purges by the JSON of the API, limited to the caller's hosts. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from edgecache.invalidation import scopes
from edgecache.invalidation.purge_auth import Caller, PurgeRefused
from edgecache.semantics import uri
from edgecache.semantics.cache_tags import LONGEST_TAG

MOST_NAMED: Final = 1000  # scopes of one purge
LONGEST_URL: Final = 8192
LISTS: Final = ("urls", "tags", "prefixes", "hosts")
SWITCHES: Final = ("everything", "soft")


class Purge(NamedTuple):
    """A validated purge."""

    scopes: tuple[bytes, ...]
    soft: bool = False


def purge_of_json(value: Any, caller: Caller) -> Purge:
    """The purge in the API's JSON; raises `PurgeRefused` (400, 403) with what is wrong with it."""
    if not isinstance(value, dict):
        raise malformed("the purge is not a JSON object")
    if unknown := [str(name) for name in value if name not in (*LISTS, *SWITCHES)]:
        raise malformed(f"{unknown[0][:64]!r} is none of {', '.join((*LISTS, *SWITCHES))}")
    lists = {name: _strings(value, name) for name in LISTS}
    switches = {name: _switch(value, name) for name in SWITCHES}
    named: list[bytes] = []
    for url in lists["urls"]:
        named += _url_scopes(url, caller)
    for tag in lists["tags"]:
        named += tag_scopes(tag.encode(), caller)
    for prefix in lists["prefixes"]:
        named.append(_prefix_scope(prefix, caller))
    for host in lists["hosts"]:
        named.append(scopes.site(site_for(host, caller)))
    if switches["everything"]:
        if caller.is_limited:
            raise PurgeRefused(403, "purge-foreign", f"{caller.name} may purge its own sites only, not everything")
        named.append(scopes.EVERYTHING)
    return purge_of(named, soft=switches["soft"])


def purge_of(named: Iterable[bytes], *, soft: bool) -> Purge:
    """The purge of these scopes, each once; raises `PurgeRefused` (400) if there are none, or too many, or too long."""
    found = tuple(dict.fromkeys(map(scopes.shortened, named)))
    if problem := _problem(found):
        raise malformed(problem)
    return Purge(found, soft)


def _problem(found: tuple[bytes, ...]) -> str:
    if not found:
        return "the purge names nothing"
    if len(found) > 2 * MOST_NAMED:  # a URL is two
        return f"the purge names more than {MOST_NAMED} names: use several purges, or a tag"
    return "" if all(map(scopes.fits, found)) else "the purge names a URL that is longer than any that is stored"


def refuse_repeated_names(written: bytes) -> None:
    """Raise `PurgeRefused` (400) if a name is written twice in this JSON: only one of the two would be read."""
    json.loads(written, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise malformed("a name is repeated in the purge")
    return found


def _strings(value: Mapping[str, Any], name: str) -> list[str]:
    found = value.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise malformed(f"{name} is not a list of strings")
    if len(found) > MOST_NAMED:
        raise malformed(f"{name} holds more than {MOST_NAMED}")
    return found


def _switch(value: Mapping[str, Any], name: str) -> bool:
    found = value.get(name, False)
    if not isinstance(found, bool):
        raise malformed(f"{name} is not true or false")
    return found


def _url_scopes(url: str, caller: Caller) -> list[bytes]:
    """A URL under both schemes: a purge means the page under either."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() not in ("http", "https") or not _is_plain(url) or "#" in url:
        raise malformed(f"{url[:128]!r} is not a URL such as https://www.example.org/page")
    authority, target = _split(rest)
    return both_schemes(b"http://" + site_for(authority, caller, scheme.lower()) + target)


def both_schemes(key: bytes) -> list[bytes]:
    """The scopes of the URL whose cache key is `key`, under http and https."""
    rest = key.partition(b"://")[2]
    return [scopes.url(b"http://" + rest), scopes.url(b"https://" + rest)]


def _split(rest: str) -> tuple[str, bytes]:
    at = min((at for mark in "/?" if (at := rest.find(mark)) != -1), default=len(rest))
    target = uri.ascii_target(rest[at:])
    return rest[:at], target if target[:1] == b"/" else b"/" + target


def _prefix_scope(prefix: str, caller: Caller) -> bytes:
    scheme, mark, rest = prefix.partition("://")
    if not mark or "/" in scheme:  # none, or in the path
        scheme, rest = "http", prefix
    authority, path = _split(rest)
    if (
        not authority
        or scheme.lower() not in ("http", "https")
        or not _is_plain(prefix)
        or "?" in prefix
        or "#" in prefix
    ):
        raise malformed(f"{prefix[:128]!r} is not a prefix such as www.example.org/shop")
    return scopes.prefix(site_for(authority, caller), path)


def tag_scopes(tag: bytes, caller: Caller) -> list[bytes]:
    """The scopes of a tag on the caller's sites; raises `PurgeRefused` (400)."""
    if not tag or tag == b"*" or len(tag) > LONGEST_TAG:
        raise malformed(f"a tag has 1 to {LONGEST_TAG} bytes and is not *: everything has a name of its own")
    if caller.is_limited:  # what others have tagged with the same word is not his
        return [scopes.site_tag(host.encode(), tag) for host in named_hosts(caller)]
    return [scopes.tag(tag)]


def site_for(authority: str, caller: Caller, scheme: str = "http") -> bytes:
    """The site that `authority` names; raises `PurgeRefused` (400, or 403 if it is not the caller's)."""
    try:
        host = uri.site(uri.ascii_authority(authority), scheme.encode())
    except ValueError:
        raise malformed(f"{authority[:64]!r} is not a host") from None
    if not caller.owns(uri.host_of(host).decode()):
        raise PurgeRefused(403, "purge-foreign", f"{caller.name} may not purge {host.decode()}")
    return host


def _is_plain(text: str) -> bool:
    """Whether `text` may be a URI or an IRI: printable throughout, and no longer than is taken."""
    return len(text) <= LONGEST_URL and text.isprintable() and not any(map(str.isspace, text))


def all_sites_of(caller: Caller) -> list[bytes]:
    """Scopes of all sites of the caller."""
    return [scopes.site(host.encode()) for host in named_hosts(caller)] if caller.is_limited else [scopes.EVERYTHING]


def named_hosts(caller: Caller) -> tuple[str, ...]:
    """The hosts of a limited caller, and its wildcards: a response bears the one that it was stored under."""
    return (*caller.hosts, *caller.wildcards)


def whole_hosts(caller: Caller) -> tuple[str, ...]:
    """The hosts of a limited caller; raises `PurgeRefused` (403) if a wildcard covers others."""
    if caller.wildcards:
        sentence = f"the site of {caller.name} has a wildcard: name the hosts of these paths"
        raise PurgeRefused(403, "purge-wildcard", sentence)
    return caller.hosts


def malformed(sentence: str) -> PurgeRefused:
    """Refusal of a malformed request."""
    return PurgeRefused(400, "purge-malformed", sentence)
