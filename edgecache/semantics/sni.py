"""Agreement of SNI and Host (RFC 9110 §7.4, RFC 6066 §3), and the redirect to https."""

from __future__ import annotations

from typing import Final

from edgecache.semantics import uri

ACME: Final = b"/.well-known/acme-challenge/"  # RFC 8555 §8.3: always over http


def is_misdirected(server_name: bytes, host: bytes) -> bool:
    """Whether the validated `host` differs from the SNI of its connection; without one any is accepted."""
    return bool(server_name) and uri.host_of(host) != server_name


def secure_location(host: bytes, target: bytes, port: int) -> bytes:
    """The https URL of an http request."""
    return b"https://%b%b%b" % (uri.host_of(host), b"" if port == 443 else b":%d" % port, target)


def stays_plain(host: bytes, target: bytes) -> bool:
    """Whether an http request is exempt from the redirect to https."""
    return not host or not target.startswith(b"/") or uri.path_of(target).startswith(ACME)
