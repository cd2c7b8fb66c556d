"""Effects of a write: the scopes that it invalidates, and the token by which its client reads its own write. Pure.

The token is the vector `region=mark` of the write's END: a request that carries it gets a response requested after that
write. It is no secret and proves nothing: it can only demand a newer response.
"""

from __future__ import annotations

from typing import Final

from edgecache.invalidation import scopes
from edgecache.invalidation.version_vector import Vector
from edgecache.semantics import uri
from edgecache.semantics.cache_key import same_origin_key
from edgecache.semantics.cache_tags import group_names
from edgecache.semantics.message import Fields, Request, Response
from edgecache.semantics.rfc9111 import invalidated_keys, is_safe, written_keys

TOKEN: Final = b"edgecache-token"
TOKEN_NAME: Final = b"Edgecache-Token"
OWN_PURGE: Final = b"edgecache-purge"  # an origin's: what its answer to a write invalidates beside the target
LONGEST_TOKEN: Final = 256  # bytes
MOST_NAMED: Final = 256  # scopes of one write


def is_write(request: Request) -> bool:
    """Whether `request` may change something at the origin (RFC 9110 §9.2.1)."""
    return not is_safe(request)


def target_scopes(request: Request) -> tuple[bytes, ...]:
    """Scopes that are in doubt during a write, and invalid if its end is unknown."""
    return _storable(tuple(map(scopes.url, written_keys(request))))


def invalidated_scopes(request: Request, response: Response) -> tuple[bytes, ...]:
    """Scopes that a completed write invalidates: none if it failed.

    The target, `Location` and `Content-Location` (RFC 9111 §4.4), the groups in `Cache-Group-Invalidation`
    (RFC 9875 §3), and what the origin names in `Edgecache-Purge`; all of them of the target's site only.
    """
    keys = invalidated_keys(request, response)
    if not keys:
        return ()
    named = [scopes.url(key) for key in keys]
    host = uri.site_of(keys[0])
    groups = group_names(response.fields.get(b"cache-group-invalidation"))
    named += [scopes.site_tag(host, group) for group in groups]
    named += _own_purge(response.fields.get(OWN_PURGE), keys[0], host)
    found = _storable(tuple(dict.fromkeys(named)))
    return found if len(found) <= MOST_NAMED else (scopes.site(host),)


def _storable(named: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Scopes that can match stored responses: overlong URLs are not stored, overlong tags mean the whole site."""
    short = map(scopes.shortened, named)
    return tuple([name if scopes.fits(name) else scopes.whole_site(name) for name in short if _may_match(name)])


def _may_match(name: bytes) -> bool:
    return scopes.fits(name) or name[:1] == b"g"


def _own_purge(value: bytes | None, target: bytes, host: bytes) -> list[bytes]:
    """The scopes in `Edgecache-Purge: tag=a, url=/b, prefix=/c, site`; what is malformed names the whole site."""
    found = []
    members = [member for part in (value or b"").split(b",") if (member := part.strip(b" \t"))]
    if len(members) > MOST_NAMED:
        return [scopes.site(host)]
    for member in members:
        kind, _, name = member.partition(b"=")
        if kind == b"tag" and name:
            found.append(scopes.site_tag(host, name))
        elif kind == b"url" and (key := same_origin_key(target, name)) is not None:
            found.append(scopes.url(key))
        elif kind == b"prefix" and name.startswith(b"/") and b"?" not in name:
            found.append(scopes.prefix(host, name))
        else:
            found.append(scopes.site(host))
    return found


def token_of(fields: Fields, *, cookies: bool) -> Vector | None:
    """The consistency token of a request, from its field or, with `cookies`, its cookie; None if absent."""
    value = fields.get(TOKEN)
    if value is None and cookies and (cookie := fields.get(b"cookie")) is not None and TOKEN in cookie:
        value = _cookie(cookie)
    if not value or len(value) > LONGEST_TOKEN:
        return None
    try:
        return Vector.decode(value)
    except ValueError:
        return None


def _cookie(value: bytes) -> bytes | None:
    for pair in value.split(b";"):
        name, _, content = pair.strip(b" \t").partition(b"=")
        if name == TOKEN:
            return content.strip(b'"')
    return None


def token_lines(region: str, mark: int, *, cookie: bool) -> bytes:
    """Field lines with the consistency token."""
    value = Vector({region: mark}).encode()
    lines = b"%b: %b\r\n" % (TOKEN_NAME, value)
    if cookie:
        lines += b"Set-Cookie: %b=%b; Path=/; Max-Age=60; HttpOnly; SameSite=Lax\r\n" % (TOKEN, value)
    return lines
