"""Links as verified by nginx's `secure_link`, with `secure_link_md5 "$secure_link_expires$uri$remote_addr secret"`.

    md5       base64url of MD5 over: expires, the path decoded, the client's address if bound to it, a space, the secret
    expires   epoch seconds

Pure.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

from edgecache.semantics.signing.signed_request import SignatureRefused, Signed, SignedRequest, expiry
from edgecache.semantics.uri import without_dots

USED: Final = frozenset((b"md5", b"expires"))
SLASHES: Final = re.compile(rb"//+")
MISLEADING: Final = re.compile(rb"(?i)%2f|%5c|%00|\\")  # other servers read them in another way


class SecureLink:
    """Verifies nginx secure links."""

    def __init__(self, secrets: Iterable[bytes], *, needs_address: bool) -> None:
        self._secrets = tuple(secrets)
        self._needs_address = needs_address

    def verify(self, request: SignedRequest, now: float) -> Signed:
        """What is signed."""
        given, expires = request.parameter(b"md5"), request.parameter(b"expires")
        if given is None:
            raise SignatureRefused("signature-missing")
        until = expiry(expires, 0)
        if MISLEADING.search(request.path) or (self._needs_address and not request.address):
            raise SignatureRefused("signature-wrong")
        address = request.address.encode() if self._needs_address else b""
        start = (expires or b"") + nginx_uri(request.path) + address + b" "
        good = [hmac.compare_digest(digest(start + secret), given) for secret in self._secrets]  # all are compared
        if not any(good):
            raise SignatureRefused("signature-wrong")
        if now >= until:
            raise SignatureRefused("signature-expired")
        return Signed(until, USED, for_address=self._needs_address)


def digest(text: bytes) -> bytes:
    """MD5 in base64url, without padding."""
    return urlsafe_b64encode(hashlib.md5(text, usedforsecurity=False).digest()).rstrip(b"=")


def nginx_uri(path: bytes) -> bytes:
    """nginx's `$uri`: decoded, slashes merged, dot segments removed."""
    return without_dots(SLASHES.sub(b"/", unquote_to_bytes(path)))
