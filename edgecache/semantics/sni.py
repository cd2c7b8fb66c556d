"""The name that TLS was asked for and the site that the request is for (RFC 9110 §7.4, RFC 6066 §3)."""

from __future__ import annotations

from typing import Final

from edgecache.semantics import uri

ACME: Final = b"/.well-known/acme-challenge/"  # RFC 8555 §8.3: asked for over http, whatever redirects


def is_misdirected(server_name: bytes, host: bytes) -> bool:
    """Whether `host`, a validated one, is for another site than the TLS connection; who named none may ask for any."""
    return bool(server_name) and uri.host_of(host) != server_name


def secure_location(host: bytes, target: bytes, port: int) -> bytes:
    """The https URL of what was asked over http."""
    return b"https://%b%b%b" % (uri.host_of(host), b"" if port == 443 else b":%d" % port, target)


def stays_plain(host: bytes, target: bytes) -> bool:
    """Whether an http request is answered as it is, although http is redirected."""
    return not host or not target.startswith(b"/") or uri.path_of(target).startswith(ACME)
