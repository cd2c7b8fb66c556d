"""What a caller asks to purge, and whether he may: JSON of the API, or PURGE as CMS plug-ins send it. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from edgecache.errors import EdgecacheError
from edgecache.rules import scopes, uri
from edgecache.rules.cache_key import url_key
from edgecache.rules.message import Fields, Request
from edgecache.rules.tags import LONGEST_TAG

MOST_NAMED: Final = 1000  # scopes of one purge
LONGEST_URL: Final = 8192
LISTS: Final = ("urls", "tags", "prefixes", "hosts")
SWITCHES: Final = ("everything", "soft")
TAG_REQUEST_FIELDS: Final = (b"surrogate-key", b"xkey-purge", b"xkey-softpurge", b"xkey", b"cache-tag")


class PurgeRefused(EdgecacheError):
    """A purge that is not carried out: its HTTP status, a word for the metrics, and one sentence."""

    def __init__(self, status: int, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason


class Purge(NamedTuple):
    """What is to be purged."""

    scopes: tuple[bytes, ...]
    soft: bool = False


class Caller(Protocol):
    """Who may purge; `hosts` empty: everything."""

    @property
    def name(self) -> str:
        """For the log."""

    @property
    def secret(self) -> str:
        """What he proves himself by."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The sites that he is limited to."""


def caller_of(callers: Sequence[Caller], authorization: bytes | None, key: bytes | None = None) -> Caller:
    """Who calls, by `Authorization: Bearer …` or Fastly's `Fastly-Key`; raises `PurgeRefused` (401, 405)."""
    if not callers:
        raise PurgeRefused(405, "purge-off", "nobody may purge here: EDGECACHE_PURGE_TOKENS is not set")
    scheme, _, given = (authorization or b"").partition(b" ")
    secret = given.strip() if scheme.lower() == b"bearer" else key or b""
    found = [caller for caller in callers if hmac.compare_digest(caller.secret.encode(), secret)]  # all are compared
    if not found:
        raise PurgeRefused(401, "purge-unauthorized", "a purge needs Authorization: Bearer and a token that may purge")
    return found[0]


def purge_of_json(value: Any, caller: Caller) -> Purge:
    """The purge in the API's JSON; raises `PurgeRefused` (400, 403) with what is wrong with it."""
    if not isinstance(value, dict):
        raise _bad("the purge is not a JSON object")
    if unknown := [str(name) for name in value if name not in (*LISTS, *SWITCHES)]:
        raise _bad(f"{unknown[0][:64]!r} is none of {', '.join((*LISTS, *SWITCHES))}")
    lists = {name: _strings(value, name) for name in LISTS}
    switches = {name: _switch(value, name) for name in SWITCHES}
    named: list[bytes] = []
    for url in lists["urls"]:
        named += _url_scopes(url, caller)
    for tag in lists["tags"]:
        named += _tag_scopes(tag.encode(), caller)
    for prefix in lists["prefixes"]:
        named.append(_prefix_scope(prefix, caller))
    for host in lists["hosts"]:
        named.append(scopes.site(_host(host, caller)))
    if switches["everything"]:
        if caller.hosts:
            raise PurgeRefused(403, "purge-foreign", f"{caller.name} may purge its own sites only, not everything")
        named.append(scopes.EVERYTHING)
    return _purge(named, soft=switches["soft"])


def purge_of_request(request: Request, caller: Caller) -> Purge:
    """The purge that a PURGE request asks for: tags if it names some, else its target; `PurgeRefused` (400, 403).

    `Fastly-Soft-Purge: 1` and `xkey-softpurge` make it soft.
    """
    fields = request.fields
    tags = [tag for name in TAG_REQUEST_FIELDS for tag in _tags_in(fields, name)]
    if len(tags) > MOST_NAMED:
        raise _bad(f"the purge names more than {MOST_NAMED} tags")
    soft = (fields.get(b"fastly-soft-purge") or b"").strip() == b"1" or b"xkey-softpurge" in fields
    if any(name in fields for name in TAG_REQUEST_FIELDS):
        named = [scope for tag in tags for scope in _tag_scopes(tag, caller)]
    else:
        _host(request.host.decode("latin-1"), caller)
        named = _both_schemes(url_key(request))
    return _purge(named, soft=soft)


def _tags_in(fields: Fields, name: bytes) -> list[bytes]:
    value = fields.get(name) or b""
    return [tag for tag in value.replace(b",", b" ").split() if tag]


def _purge(named: Iterable[bytes], *, soft: bool) -> Purge:
    found = tuple(dict.fromkeys(named))
    if not found:
        raise _bad("the purge names nothing")
    if len(found) > 2 * MOST_NAMED:  # a URL is two
        raise _bad(f"the purge names more than {MOST_NAMED} things: several purges, or a tag, do")
    return Purge(found, soft)


def _strings(value: Mapping[str, Any], name: str) -> list[str]:
    found = value.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise _bad(f"{name} is not a list of strings")
    if len(found) > MOST_NAMED:
        raise _bad(f"{name} holds more than {MOST_NAMED}")
    return found


def _switch(value: Mapping[str, Any], name: str) -> bool:
    found = value.get(name, False)
    if not isinstance(found, bool):
        raise _bad(f"{name} is not true or false")
    return found


def _url_scopes(url: str, caller: Caller) -> list[bytes]:
    """A URL under both schemes: who purges it means the page, however it was asked for."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() not in ("http", "https") or not _is_plain(url) or "#" in url:
        raise _bad(f"{url[:128]!r} is not a URL such as https://www.example.org/page")
    authority, target = _split(rest)
    return _both_schemes(b"http://" + _host(authority, caller, scheme.lower()) + target)


def _both_schemes(key: bytes) -> list[bytes]:
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
        raise _bad(f"{prefix[:128]!r} is not a prefix such as www.example.org/shop")
    return scopes.prefix(_host(authority, caller), path)


def _tag_scopes(tag: bytes, caller: Caller) -> list[bytes]:
    if not tag or tag == b"*" or len(tag) > LONGEST_TAG:
        raise _bad(f"a tag has 1 to {LONGEST_TAG} bytes and is not *: everything has a name of its own")
    if caller.hosts:  # what others have tagged with the same word is not his
        return [scopes.site_tag(host.encode(), tag) for host in caller.hosts]
    return [scopes.tag(tag)]


def _host(authority: str, caller: Caller, scheme: str = "http") -> bytes:
    try:
        host = uri.site(uri.ascii_authority(authority), scheme.encode())
    except ValueError:
        raise _bad(f"{authority[:64]!r} is not a host") from None
    if caller.hosts and uri.host_of(host).decode() not in caller.hosts:
        raise PurgeRefused(403, "purge-foreign", f"{caller.name} may not purge {host.decode()}")
    return host


def _is_plain(text: str) -> bool:
    """Whether `text` may be a URI or an IRI: printable throughout, and no longer than is taken."""
    return len(text) <= LONGEST_URL and text.isprintable() and not any(map(str.isspace, text))


def _bad(sentence: str) -> PurgeRefused:
    return PurgeRefused(400, "purge-malformed", sentence)
