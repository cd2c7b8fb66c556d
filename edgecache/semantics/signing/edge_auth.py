"""Akamai's EdgeAuth tokens, version 2: `hdnts=exp=…~acl=…~hmac=…`, as parameter or cookie.

    ip, st, exp, acl, id, data, hmac     in this order, each once, all but exp and hmac optional, separated by ~

`hmac` is HMAC-SHA256, in hexadecimal, over all before it; without `acl` it covers `url=` and the path as well. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import quote_plus, unquote_to_bytes

from edgecache.semantics.client_address import parsed_address
from edgecache.semantics.signing.signed_request import (
    SignatureRefused,
    Signed,
    SignedRequest,
    expiry,
    wildcard,
)

PARAMETER: Final = "hdnts"
TOKEN: Final = re.compile(
    rb"(?P<signed>(?:ip=(?P<ip>[^~]*)~)?(?:st=(?P<st>[^~]*)~)?exp=(?P<exp>[^~]*)(?:~acl=(?P<acl>[^~]*))?"
    rb"(?:~id=[^~]*)?(?:~data=[^~]*)?)~hmac=(?P<hmac>[0-9a-fA-F]{64})"
)
ESCAPE: Final = re.compile(r"%..")


class EdgeAuth:
    """Verifies Akamai tokens."""

    def __init__(
        self, keys: Iterable[bytes], *, parameter: str | None, cookie: str | None, needs_address: bool
    ) -> None:
        self._keys = tuple(keys)
        self._parameter = (parameter or PARAMETER).encode()
        self._cookie = cookie
        self._needs_address = needs_address

    def verify(self, request: SignedRequest, now: float) -> Signed:
        """What is signed."""
        token = request.parameter(self._parameter)
        if token is None and self._cookie:
            token = request.cookie(self._cookie)
        if token is None:
            raise SignatureRefused("signature-missing")
        match = TOKEN.fullmatch(unquote_to_bytes(token)) or TOKEN.fullmatch(token)
        if match is None:
            raise SignatureRefused("signature-malformed")
        self._check_hmac(request, match["signed"], match["acl"] is not None, match["hmac"].lower())
        until = expiry(match["exp"], now)
        self._check_rest(request, match.groupdict(), now)
        cookies = frozenset((self._cookie,)) if self._cookie else frozenset[str]()
        return Signed(until, frozenset((self._parameter,)), cookies, for_address=match["ip"] is not None)

    def _check_hmac(self, request: SignedRequest, signed: bytes, has_acl: bool, given: bytes) -> None:
        texts = [signed] if has_acl else [signed + b"~url=" + path for path in _spellings(request.path)]
        good = [
            hmac.compare_digest(hmac.digest(key, text, hashlib.sha256).hex().encode(), given)
            for key in self._keys
            for text in texts
        ]
        if not any(good):
            raise SignatureRefused("signature-wrong")

    def _check_rest(self, request: SignedRequest, fields: Mapping[str, bytes | None], now: float) -> None:
        ip, start, acl = fields["ip"], fields["st"], fields["acl"]
        if ip is None and self._needs_address:
            raise SignatureRefused("signature-address")
        if ip is not None and (not request.address or str(parsed_address(ip.decode("latin-1"))) != request.address):
            raise SignatureRefused("signature-address")
        if start is not None and now < expiry(start, 0):
            raise SignatureRefused("signature-not-yet-valid")
        if acl is not None:
            accepts = [wildcard(one) for one in acl.decode("latin-1").split("!") if one]
            if not all(any(matches(path.decode("latin-1")) for matches in accepts) for path in request.paths):
                raise SignatureRefused("signature-path")


def _spellings(path: bytes) -> Iterator[bytes]:
    """A path as it is signed: as it is, or escaped as Akamai's libraries do."""
    yield path
    yield ESCAPE.sub(lambda match: match[0].lower(), quote_plus(path)).encode()
