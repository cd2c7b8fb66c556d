"""JSON Web Tokens (RFC 7519), as bearer tokens (RFC 6750) or in a cookie."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from hashlib import sha256
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from joserfc import jws
from joserfc.errors import JoseError

from edgecache.proxy.access.admission import AccessRefused, Asked, Grant, challenge
from edgecache.proxy.access.key_sets import FileKeys, KeysUnreachable, RemoteKeys
from edgecache.semantics.bounded_cache import BoundedCache
from edgecache.semantics.message import Fields
from edgecache.semantics.signing.token_keys import Key, suitable

if TYPE_CHECKING:
    from edgecache.config.sites.model import Jwt

LONGEST: Final = 8192  # bytes of a token
MOST_VERIFIED: Final = 16384  # tokens that are remembered
BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)")
PART: Final = re.compile(rb"[A-Za-z0-9_-]*")
ALIASES: Final = {"Ed25519": "EdDSA", "Ed448": "EdDSA"}  # RFC 9864: the same under the name of its curve
REALM: Final = "edgecache"
Matches = Callable[[bytes], Any]


class Refused(Exception):
    """A token that is not accepted; the reason is a fixed word."""


class Token(NamedTuple):
    """A parsed token that is not verified yet."""

    algorithm: str
    kid: str | None
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def taken_apart(token: bytes) -> Token:
    """The parts of a token in compact form (RFC 7515 §7.1); raises `Refused`."""
    if len(token) > LONGEST:
        raise Refused("token-too-long")
    parts = token.split(b".")
    if len(parts) != 3 or not all(PART.fullmatch(part) for part in parts):
        raise Refused("token-malformed")
    try:
        head, payload, signature = [base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)) for part in parts]
        header, claims = orjson.loads(head), orjson.loads(payload)
    except ValueError:
        raise Refused("token-malformed") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise Refused("token-malformed")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
        raise Refused("token-malformed")
    if "crit" in header or header.get("b64", True) is not True:  # extensions that are not understood (RFC 7515 §4.1.11)
        raise Refused("token-malformed")
    return Token(algorithm, kid, claims, parts[0] + b"." + parts[1], signature)


class Claims:
    """The claims that a token must have."""

    def __init__(self, written: Jwt, matcher: Callable[[str | tuple[str, ...]], Matches]) -> None:
        self._issuer = written.issuer
        self._audience = written.audience
        self._leeway = float(written.leeway)
        self._others = {name: matcher(values) for name, values in written.claims.items()}

    def checked(self, claims: dict[str, Any], now: float) -> float:
        """Until when in epoch seconds the claims hold; raises `Refused`."""
        until = _time(claims, "exp", inf) + self._leeway
        if now >= until:
            raise Refused("token-expired")
        if now < _time(claims, "nbf", -inf) - self._leeway:
            raise Refused("token-not-yet-valid")
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise Refused("token-issuer")
        self._check_audience(claims.get("aud"))
        for name, matches in self._others.items():
            if not any(matches(text) for text in _texts(_claim(claims, name))):
                raise Refused("token-claims")
        return until

    def _check_audience(self, audience: Any) -> None:
        """RFC 7519 §4.1.3: a token for others is refused, also where no audience is demanded."""
        listed = audience if isinstance(audience, list) else [] if audience is None else [audience]
        if not all(isinstance(one, str) for one in listed):
            raise Refused("token-audience")
        if (self._audience is None and listed) or (self._audience is not None and self._audience not in listed):
            raise Refused("token-audience")


def _time(claims: dict[str, Any], name: str, default: float) -> float:
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused("token-malformed")
    try:
        return float(value) if value is default or isfinite(value) else default
    except OverflowError:
        raise Refused("token-malformed") from None


def _claim(claims: dict[str, Any], name: str) -> Any:
    """The claim of that name, or the one that its dots lead to."""
    value: Any = claims
    if name in claims:
        return claims[name]
    for step in name.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _texts(value: Any) -> list[bytes]:
    """The texts that a claim has: one, or those of a list; other values as JSON."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    return [one.encode("utf-8", "replace") if isinstance(one, str) else orjson.dumps(one) for one in listed]


class TokenCheck:
    """Admits requests with a token signed by a key of the set. Mutable state: the verified tokens."""

    order = 20

    def __init__(self, written: Jwt, keys: FileKeys | RemoteKeys, claims: Claims) -> None:
        self._keys = keys
        self._claims = claims
        self._algorithms = frozenset(written.algorithms)
        self._cookie = written.cookie
        cookie = frozenset((b"cookie",)) if written.cookie else frozenset()
        self.reads = frozenset((b"authorization",)) | cookie
        self._used_cookies = frozenset((written.cookie,)) if written.cookie else frozenset()
        self._keeps = written.pass_credentials
        self.kept_cookies = self._used_cookies if self._keeps else frozenset()  # that go upstream
        self._verified: BoundedCache[bytes, float] = BoundedCache(MOST_VERIFIED)
        self._generation = keys.generation

    def admit(self, asked: Asked) -> Grant | Awaitable[Grant]:
        """Admit a request by its token."""
        try:
            token, is_bearer = self._token(asked)
            digest = sha256(token).digest()
            if self._generation != self._keys.generation:
                self._generation = self._keys.generation
                self._verified.clear()
            until = self._verified.get(digest)
            if until is not None and asked.now < until:
                return self._granted(until, is_bearer=is_bearer)
            parts = taken_apart(token)
            if parts.algorithm not in self._algorithms:
                raise Refused("token-algorithm")
            if self._keys.is_due(parts.kid, parts.algorithm, asked.now):
                return self._after_fetch(parts, digest, asked.now, is_bearer=is_bearer)
            if not self._keys.keys:
                raise unreachable()
            return self._granted(self._verify(parts, digest, asked.now), is_bearer=is_bearer)
        except Refused as refused:
            raise refusal(str(refused)) from None

    async def _after_fetch(self, token: Token, digest: bytes, now: float, *, is_bearer: bool) -> Grant:
        try:
            await self._keys.fetch()
        except KeysUnreachable:
            raise unreachable() from None
        try:
            return self._granted(self._verify(token, digest, now), is_bearer=is_bearer)
        except Refused as refused:
            raise refusal(str(refused)) from None

    def _verify(self, token: Token, digest: bytes, now: float) -> float:
        """Until when `token` is valid; raises `Refused`."""
        keys = suitable(self._keys.keys, token.kid, token.algorithm)
        if not keys:
            raise Refused("token-key")
        if not any(is_signed(token, key) for key in keys):
            raise Refused("token-signature")
        until = self._claims.checked(token.claims, now)
        if self._generation == self._keys.generation:
            self._verified.remember(digest, until)
        return until

    def _granted(self, until: float, *, is_bearer: bool) -> Grant:
        keys, generation = self._keys, self._keys.generation
        still = None if isinstance(keys, FileKeys) else lambda: keys.generation == generation
        if self._keeps:
            return Grant(until, still=still)
        used = frozenset((b"authorization",)) if is_bearer else frozenset()
        return Grant(until, fields=used, cookies=self._used_cookies, still=still)

    def _token(self, asked: Asked) -> tuple[bytes, bool]:
        """The token of a request, and whether it is a bearer token; raises `Refused`."""
        fields = asked.request.fields
        if b"authorization" in fields and (token := bearer_of(fields)) is not None:
            return token, True
        found = asked.facts.cookies.get(self._cookie, []) if self._cookie else []
        if len(found) > 1:
            raise Refused("token-repeated")
        if not found or not found[0]:
            raise Refused("token-missing")
        return found[0], False


def bearer_of(fields: Fields) -> bytes | None:
    """The bearer token; None if the credentials are of another scheme. Raises `Refused`."""
    values = fields.all(b"authorization")
    if len(values) > 1:
        raise Refused("token-repeated")
    if values[0][:6].lower() != b"bearer":
        return None
    if len(values[0]) > LONGEST + 10:
        raise Refused("token-too-long")
    match = BEARER.fullmatch(values[0])
    if match is None:
        raise Refused("token-malformed")
    return match[1]


def is_signed(token: Token, key: Key) -> bool:
    """Whether `key` has signed `token`."""
    algorithm = jws.JWSRegistry.algorithms[ALIASES.get(token.algorithm, token.algorithm)]
    try:
        return algorithm.verify(token.signed, token.signature, key.key)
    except (JoseError, ValueError, TypeError):
        return False


def unreachable() -> AccessRefused:
    """The response while there are no keys: nothing is admitted."""
    words = "tokens cannot be verified at the moment"
    return AccessRefused(503, "keys-unreachable", words, (b"Retry-After", b"5"))


def refusal(reason: str) -> AccessRefused:
    """The response to a request whose token is missing, or refused (RFC 6750 §3)."""
    if reason == "token-missing":
        return AccessRefused(401, reason, "this needs a token", challenge("Bearer", REALM))
    if reason == "token-claims":
        more = challenge("Bearer", REALM, ', error="insufficient_scope"')
        return AccessRefused(403, reason, "the token does not entitle to this", more)
    return AccessRefused(401, reason, "the token is refused", challenge("Bearer", REALM, ', error="invalid_token"'))
