"""Sites and URLs in the one form by which they are compared (RFC 3986 §6.2, RFC 9110 §4.2.3, RFC 3987 §3.1).

    site         the authority of a request: lower case, IPv6 in its shortest form, no final dot, no default port
    host         a site without its port: what settings, tokens and TLS server names are compared with
    normalised   host, path and query of a URL in canonical form, by which purges and invalidations are compared

A cache key keeps the target as received: an origin may distinguish two spellings, so they are two entries, each
filled by its own request. Both have one normalised form, so that an invalidation by either spelling reaches both,
whatever their scheme and port. What RFC 3986 leaves distinct stays distinct: reserved characters and their
encodings (`%2F`), empty path segments (`//`), an empty query and none, the order of parameters. Pure.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final

import idna

from edgecache.semantics.memoize import memoize

DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}
AUTHORITY: Final = re.compile(  # RFC 9110 §7.2, RFC 3986 §3.2.2: a name, an IPv4 or a bracketed IPv6 address; a port
    rb"(\[[0-9A-Fa-f:.]{2,45}\](?!\.)|[0-9A-Za-z](?:[0-9A-Za-z._-]{0,253}[0-9A-Za-z_-])?)\.?(?::([0-9]{1,5})?)?"
)
PORT: Final = re.compile(rb":[0-9]*\Z")
KEY_START: Final = re.compile(  # scheme and groups of a cache key; the last may be that of a slice (`slices.py`)
    rb"\Ahttps?(?: [0-9a-f]{32})*(?: slices?=[0-9a-f,]{1,72})?://"
)
UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986 §2.3
# Encoded octets, and what has no place in a URI but encoded (RFC 3986 §2): all but reserved and unreserved characters.
SPELT: Final = re.compile(rb"%[0-9A-Fa-f]{2}|[^!#$&'()*+,/:;=?@\[\]0-9A-Za-z._~-]")
NOT_SENT: Final = re.compile(rb"[^!-~]")
REFERENCE: Final = re.compile(  # RFC 3986 Appendix B; the fragment is of no concern to a server
    rb"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(\?[^#]*)?(?:#.*)?", re.DOTALL
)


def site(authority: bytes, scheme: bytes) -> bytes:
    """The site that `authority` names for `scheme`; ValueError if it is none (RFC 9110 §7.2)."""
    match = AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("is malformed")
    host, port = match[1].lower(), (match[2] or b"").lstrip(b"0")
    if (port and int(port) > 65535) or (match[2] and not port):
        raise ValueError("has a port that is out of range")
    if host[:1] == b"[":
        host = b"[%b]" % IPv6Address(host[1:-1].decode()).compressed.encode()
    return host if not port or port == DEFAULT_PORTS[scheme] else host + b":" + port


def host_of(site: bytes) -> bytes:
    """The host of a site, without its port."""
    return PORT.sub(b"", site) if b":" in site and site[-1:] != b"]" else site


def under_scheme(site: bytes, scheme: bytes) -> bytes:
    """A site under another scheme, without that scheme's default port."""
    return site.removesuffix(b":" + DEFAULT_PORTS[scheme]) if site[-1:] != b"]" else site


def ascii_authority(text: str) -> bytes:
    """An authority out of an IRI: the host in A-labels (RFC 5891, UTS 46); ValueError if it can have none."""
    if text.isascii():
        return text.encode()
    host, colon, port = text.partition(":")
    return idna.encode(host, uts46=True, transitional=False) + (colon + port).encode("ascii")


def ascii_target(text: str) -> bytes:
    """Path and query out of an IRI: characters beyond ASCII as their encoded UTF-8 octets (RFC 3987 §3.1)."""
    return "".join([one if one < "\x80" else _encoded(one) for one in text]).encode()


def _encoded(character: str) -> str:
    return "".join([f"%{octet:02X}" for octet in character.encode()])


@memoize(4096)
def normalised(key: bytes) -> bytes:
    """The normalised URL of a cache key, or of a URL (RFC 3986 §6.2.2)."""
    host, path, query = split_key(key)
    return host + without_dots(_normal(path)) + _normal(query)


@memoize(4096)
def normalised_with_dots(key: bytes) -> bytes:
    """The same with dot segments kept, for origins that do not remove them."""
    host, path, query = split_key(key)
    return host + _normal(path) + _normal(query)


def split_key(key: bytes) -> tuple[bytes, bytes, bytes]:
    """Host, path and query, with its question mark, of a cache key."""
    rest = KEY_START.sub(b"", key, count=1)
    path, mark, query = rest.partition(b"?")
    authority, slash, path = path.partition(b"/")
    return host_of(authority), slash + path, mark + query


def site_of(key: bytes) -> bytes:
    """The host in a cache key, or in the name of a URL."""
    return host_of(KEY_START.sub(b"", key, count=1).partition(b"?")[0].partition(b"/")[0])


def path_of(target: bytes) -> bytes:
    """The path of a target as an origin that removes dot segments understands it."""
    return without_dots(_normal(target.partition(b"?")[0]))


def _normal(text: bytes) -> bytes:
    """Encoded octets in one spelling: unreserved ones decoded, others in upper case (RFC 3986 §6.2.2.1, §6.2.2.2)."""
    return SPELT.sub(_one_spelling, text)


def _one_spelling(match: re.Match[bytes]) -> bytes:
    spelt = match[0]
    if len(spelt) == 1:
        return b"%%%02X" % spelt[0]
    octet = int(spelt[1:], 16)
    return bytes((octet,)) if octet in UNRESERVED else spelt.upper()


def without_dots(path: bytes) -> bytes:
    """An absolute path without dot segments (RFC 3986 §5.2.4)."""
    if b"/." not in path:
        return path
    segments = path.split(b"/")[1:]
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def resolved(key: bytes, reference: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Scheme, site and target of the URI that `reference` means, relative to the one of `key` (RFC 3986 §5.2).

    None if that is no URI of http or https, or names a user.
    """
    match = REFERENCE.fullmatch(reference.strip(b" \t"))
    if match is None:
        return None
    scheme, authority, path, query = match[1], match[2], match[3], match[4]
    base_scheme, _, rest = key.partition(b"://")
    if scheme is not None or authority is not None:
        scheme = (scheme or base_scheme).lower()
        if scheme not in DEFAULT_PORTS or authority is None:
            return None
        try:
            named = site(authority, scheme)
        except ValueError:
            return None
        return scheme, named, _clean(without_dots(path or b"/") + (query or b""))
    named, slash, base = rest.partition(b"?")[0].partition(b"/")
    if not path:  # §5.2.2: the path of the base as it is, and its query unless there is another
        return base_scheme, named, _clean(slash + base + (query or _query(rest)))
    if path[:1] != b"/":  # §5.2.3
        path = b"/" + base[: base.rfind(b"/") + 1] + path
    return base_scheme, named, _clean(without_dots(path) + (query or b""))


def _query(rest: bytes) -> bytes:
    _, mark, query = rest.partition(b"?")
    return mark + query


def _clean(target: bytes) -> bytes:
    """`target` with what a client cannot send but encoded, encoded (RFC 3987 §3.1); all else as it is spelt."""
    return NOT_SENT.sub(lambda match: b"%%%02X" % match[0][0], target)
