"""Mapping of the origin's own URLs in its responses to the public site. Pure.

An origin that gets `Host: backend:8080` uses that name in `Location`, `Content-Location`, `Refresh` and in the URLs
that a write invalidates. Clients cannot follow them, and no cache key has them: the requested site takes their place
(as by a reverse proxy's `ProxyPassReverse`), with the client's scheme unless the URL is a redirect from http to https.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from edgecache.semantics import uri
from edgecache.semantics.cache_key import url_key
from edgecache.semantics.message import Fields, Request, Response

OWN_PURGE: Final = b"edgecache-purge"
NAMING: Final = (b"location", b"content-location", b"refresh", OWN_PURGE)
REFRESH: Final = re.compile(rb"([^;,]*[;,][ \t]*(?:(?i:url)[ \t]*=[ \t]*)?)([\"']?)([^\"']*)(.*)", re.DOTALL)


class OwnUrls(NamedTuple):
    """The sites that are the origin's own."""

    sites: frozenset[bytes]
    by_tls: bool  # requests to the origin use https, so its https URLs are no redirect to https

    def as_public(self, request: Request, response: Response) -> Response:
        """`response` to `request` with the origin's own URLs made public."""
        index = response.fields.index
        if not any(name in index for name in NAMING) or request.host in self.sites:
            return response
        lines = [
            (name, self._value(request, name.lower(), value) if name.lower() in NAMING else value)
            for name, value in response.fields
        ]
        return response._replace(fields=Fields(lines))

    def _value(self, request: Request, name: bytes, value: bytes) -> bytes:
        if name == OWN_PURGE:
            return b",".join([self._purged(request, member.strip(b" \t")) for member in value.split(b",")])
        if name != b"refresh":
            return self._url(request, value)
        match = REFRESH.fullmatch(value)
        return value if match is None else match[1] + match[2] + self._url(request, match[3]) + match[4]

    def _purged(self, request: Request, member: bytes) -> bytes:
        kind, mark, url = member.partition(b"=")
        return kind + mark + self._url(request, url) if kind == b"url" else member

    def _url(self, request: Request, url: bytes) -> bytes:
        match = uri.REFERENCE.fullmatch(url)
        if match is None or match[2] is None:
            return url
        scheme = (match[1] or request.scheme).lower()
        try:
            if scheme not in uri.DEFAULT_PORTS or uri.site(match[2], scheme) not in self.sites:
                return url
        except ValueError:
            return url
        rest = url[match.end(2) :]
        public = request.scheme + b"://" + request.host
        if scheme != b"https" or request.scheme == b"https":
            return public + rest
        same = uri.resolved(url_key(request), public + rest)
        leads_back = same is not None and b"%b://%b%b" % same == url_key(request)
        return b"https://" + uri.host_of(request.host) + rest if leads_back or not self.by_tls else public + rest


def own_urls(origins: Iterable[tuple[bytes, bytes, int]], host: bytes) -> OwnUrls:
    """Of `origins`, as scheme, host (IPv6 in brackets) and port, which are asked with the Host `host`."""
    sites, schemes = _sites(host), set()
    for scheme, name, port in origins:
        schemes.add(scheme)
        sites |= _sites(b"%b:%d" % (name, port)) | _sites(b"%b:%d" % (uri.host_of(host), port))
    return OwnUrls(frozenset(sites), b"http" not in schemes)


def _sites(authority: bytes) -> set[bytes]:
    """What `authority` names by either scheme."""
    try:
        return {uri.site(authority, scheme) for scheme in uri.DEFAULT_PORTS}
    except ValueError:  # a name that no URL can hold
        return set()
