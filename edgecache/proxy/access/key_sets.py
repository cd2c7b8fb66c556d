"""The keys that tokens are verified with: out of a file, or out of a key set that is fetched again as keys rotate."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry

from edgecache.tasks import spawn

log = logging.getLogger("edgecache")
LARGEST_SET: Final = 512 * 1024  # bytes
MOST_KEYS: Final = 100
FRESH_FOR: Final = 600.0  # seconds until a key set is fetched again
STALE_FOR: Final = 86400.0  # seconds that it is used if that fails
UNKNOWN_AGAIN: Final = 30.0  # seconds between two fetches for the sake of an unknown key
WITHIN: Final = 5.0  # seconds of one fetch
OF_RSA: Final = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
OF_CURVE: Final = {
    "P-256": frozenset(("ES256",)),
    "P-384": frozenset(("ES384",)),
    "P-521": frozenset(("ES512",)),
    "secp256k1": frozenset(("ES256K",)),
    "Ed25519": frozenset(("EdDSA", "Ed25519")),  # RFC 9864 names the second
    "Ed448": frozenset(("EdDSA", "Ed448")),
}
OF_SECRET: Final = frozenset(("HS256", "HS384", "HS512"))
ALGORITHMS: Final = OF_RSA.union(OF_SECRET, *OF_CURVE.values())


class Key(NamedTuple):
    """One key, and the algorithms that it is for: a public key is never taken for a secret."""

    kid: str | None
    key: Any
    algorithms: frozenset[str]


class KeysUnreachable(Exception):
    """There are no keys."""


def keys_of(content: bytes) -> list[Key]:
    """The keys in a JWK set, a JWK, a PEM public key or a certificate; ValueError if there are none."""
    if content.lstrip().startswith(b"-----BEGIN"):
        return [_of_pem(content)]
    written = orjson.loads(content)
    if not isinstance(written, dict):
        raise ValueError("is no key set")
    listed = written["keys"] if isinstance(written.get("keys"), list) else [written]
    found = [key for one in listed[:MOST_KEYS] if isinstance(one, dict) and (key := _of_jwk(one)) is not None]
    if not found:
        raise ValueError("has no usable key")
    return found


def _of_pem(content: bytes) -> Key:
    if b"-----BEGIN CERTIFICATE" in content:
        public: Any = x509.load_pem_x509_certificate(content).public_key()
    else:
        public = load_pem_public_key(content)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for kind in ("RSA", "EC", "OKP"):
        try:
            key = JWKRegistry.import_key(pem, kind)
        except (JoseError, ValueError, TypeError, AttributeError):
            continue
        suits = _suits(key.as_dict(private=False))
        if suits:
            return Key(None, key, suits)
    raise ValueError("is a key of a kind that no algorithm has")


def _of_jwk(written: dict[str, Any]) -> Key | None:
    """One key of a set; None if it is not for signatures, or not understood (RFC 7517 §5)."""
    operations, kid = written.get("key_ops"), written.get("kid")
    if written.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            key = JWKRegistry.import_key(written)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    suits = _suits(written)
    if isinstance(named := written.get("alg"), str):
        same = {"EdDSA", "Ed25519"} if named in ("EdDSA", "Ed25519") else {named}
        suits &= same
    return Key(kid if isinstance(kid, str) else None, key, suits) if suits else None


def _suits(written: Any) -> frozenset[str]:
    """The algorithms of a key by its type."""
    kind = written.get("kty")
    if kind == "RSA":
        return OF_RSA
    if kind == "oct":
        return OF_SECRET
    return OF_CURVE.get(str(written.get("crv")), frozenset())


def suitable(keys: Iterable[Key], kid: str | None, algorithm: str) -> list[Key]:
    """The keys that a token with this header may be signed with."""
    named = [key for key in keys if algorithm in key.algorithms]
    if kid is None:
        return named
    return [key for key in named if key.kid == kid] or [key for key in named if key.kid is None]


class FileKeys:
    """Keys that a reload alone changes."""

    generation = 0

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys

    def is_due(self, kid: str | None, algorithm: str, now: float) -> bool:
        """Never: there is nothing to fetch."""
        return False

    async def fetch(self) -> None:
        """There is nothing to fetch."""


class RemoteKeys:
    """A key set at a URL. Mutable state: the keys, when they came, and the fetch under way."""

    def __init__(
        self,
        url: str,
        clock: Callable[[], float],
        failed: Callable[[], None],
        parse: Callable[[bytes], list[Key]] = keys_of,
    ) -> None:
        self._url = url
        self._clock = clock  # resident time
        self._failed = failed  # counts
        self._parse = parse
        self.keys: Sequence[Key] = ()
        self.generation = 0  # of the keys: what older ones have verified is verified again
        self._content = b""
        self._came = self._tried = float("-inf")
        self._under_way: asyncio.Task[None] | None = None

    def is_due(self, kid: str | None, algorithm: str, now: float) -> bool:
        """Whether a token with this header has to wait for a fetch; one in the background begins as keys get old."""
        now = self._clock()
        if now - self._came > STALE_FOR:
            self.keys = ()
        may_try = now - self._tried >= UNKNOWN_AGAIN
        if suitable(self.keys, kid, algorithm):
            if now - self._came > FRESH_FOR and may_try:
                self._begin()
            return False
        if self._under_way is not None:
            return True
        return may_try

    async def fetch(self) -> None:
        """Fetch the key set, together with all that wait for it. Raises `KeysUnreachable` if there are no keys then."""
        await asyncio.shield(self._begin())
        if not self.keys:
            raise KeysUnreachable

    def _begin(self) -> asyncio.Task[None]:
        if self._under_way is None:
            self._tried = self._clock()
            self._under_way = spawn(self._fetch(), "fetch a key set")
        return self._under_way

    async def _fetch(self) -> None:
        from edgecache.proxy.access.fetching import FetchFailed, fetched  # a library that files of keys do not need

        try:
            got = await fetched(self._url, (), within=WITHIN, most=LARGEST_SET)
            if got.status != 200:
                raise FetchFailed(f"status {got.status}")
            keys = self.keys if got.content == self._content else self._parse(got.content)
        except (FetchFailed, ValueError, KeyError, TypeError) as error:
            self._failed()
            reason = str(error) if isinstance(error, FetchFailed) else "it is no key set"
            kept = "the keys that are known stay" if self.keys else "tokens are refused"
            log.warning("a key set of a rule of access could not be fetched (%s): %s", reason, kept)
        else:
            self._came = self._clock()
            if got.content != self._content:
                self.keys, self._content = keys, got.content
                self.generation += 1
        finally:
            self._under_way = None
