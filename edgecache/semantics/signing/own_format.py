"""The edgecache format: `edgecache-token=KEY~EXPIRES~SCOPE~ADDRESS~SIGNATURE`, as parameter or cookie.

SCOPE is `u` for one URL, query included, or `p` and a path prefix in base64url. ADDRESS is `a` where the signature
holds for the client's address alone, else `-`. SIGNATURE is HMAC-SHA256 in base64url over these lines: the name of the
format, KEY, EXPIRES, SCOPE, the host, the target without the token (or the prefix), and the address (or nothing). Pure.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from edgecache.semantics import uri
from edgecache.semantics.client_address import parsed_address
from edgecache.semantics.signing.signed_request import SignatureRefused, Signed, SignedRequest, expiry

FORMAT: Final = b"edgecache-signed-url-1"
PARAMETER: Final = "edgecache-token"


class OwnFormat:
    """Verifies signatures in the edgecache format."""

    def __init__(
        self, keys: Mapping[str, bytes], *, parameter: str | None, cookie: str | None, needs_address: bool
    ) -> None:
        self._keys = {name.encode(): key for name, key in keys.items()}
        self._parameter = (parameter or PARAMETER).encode()
        self._cookie = cookie
        self._needs_address = needs_address

    def verify(self, request: SignedRequest, now: float) -> Signed:
        """What is signed."""
        used = frozenset((self._parameter,))
        token = request.parameter(self._parameter)
        if token is None and self._cookie:
            token = request.cookie(self._cookie)
        if token is None:
            raise SignatureRefused("signature-missing")
        parts = token.split(b"~")
        if len(parts) != 5 or parts[3] not in (b"a", b"-"):
            raise SignatureRefused("signature-malformed")
        name, expires, scope, bound, given = parts
        key, covered = self._keys.get(name), _covered(request, scope, used)
        if key is None:
            raise SignatureRefused("signature-key")
        if self._needs_address and bound != b"a":
            raise SignatureRefused("signature-address")
        address = request.address if bound == b"a" else ""
        expected = signature(key, (name, expires, scope, uri.host_of(request.host), covered, address.encode()))
        if (bound == b"a" and not address) or not hmac.compare_digest(expected, given):
            raise SignatureRefused("signature-wrong")
        until = expiry(expires, now)
        cookies = frozenset((self._cookie,)) if self._cookie else frozenset[str]()
        return Signed(until, used, cookies, for_address=bound == b"a")


def _covered(request: SignedRequest, scope: bytes, used: frozenset[bytes]) -> bytes:
    """What the signature is of: the target, or the prefix that all readings of its path have."""
    if scope == b"u":
        return request.without(used)
    try:
        prefix = base64.urlsafe_b64decode(scope[1:] + b"=" * (-len(scope[1:]) % 4))
    except ValueError:
        raise SignatureRefused("signature-malformed") from None
    if scope[:1] != b"p" or not prefix.startswith(b"/"):
        raise SignatureRefused("signature-malformed")
    under = prefix if prefix.endswith(b"/") else prefix + b"/"
    if not all(path == prefix or path.startswith(under) for path in request.paths):
        raise SignatureRefused("signature-path")
    return prefix


def signature(key: bytes, lines: tuple[bytes, ...]) -> bytes:
    """The signature of these lines."""
    return encoded(hmac.digest(key, b"\n".join((FORMAT, *lines)), hashlib.sha256))


def encoded(content: bytes) -> bytes:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def token_for(
    key_name: str, key: bytes, expires: int, *, host: bytes, target: bytes, is_prefix: bool = False, address: str = ""
) -> bytes:
    """A token for `target` at `host`, or for all below it."""
    name, written = key_name.encode(), b"%d" % expires
    covered = uri.path_of(target) if is_prefix else target
    scope = b"p" + encoded(covered) if is_prefix else b"u"
    bound = str(parsed_address(address) or "").encode() if address else b""
    sign = signature(key, (name, written, scope, uri.host_of(host), covered, bound))
    return b"~".join((name, written, scope, b"a" if address else b"-", sign))
