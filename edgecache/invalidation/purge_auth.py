"""Authentication of purges: by a token in `Authorization` or `Fastly-Key`, or by the client's address. No clock."""

from __future__ import annotations

import hmac
from base64 import b64decode
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from edgecache.config.settings import PurgeToken, Settings
from edgecache.invalidation.site_tokens import tokens_of
from edgecache.semantics.client_address import UNKNOWN, Trust, client_address
from edgecache.semantics.errors import EdgecacheError
from edgecache.semantics.message import Fields
from edgecache.wire.connection_limits import address_of

FORWARDED: Final = (b"forwarded", b"x-forwarded-for")  # what names the client
RELAYED: Final = (b"via", b"x-real-ip", b"x-forwarded-host", b"x-forwarded-proto", b"cdn-loop")  # what proxies add
UNAUTHORIZED: Final = "a purge needs a secret that may purge (Bearer, Basic or Fastly-Key), or an address that may"
MOST_FAILURES: Final = 10  # wrong secrets from one address, within
FAILURES_WITHIN: Final = 60.0  # seconds
MOST_ADDRESSES: Final = 4096


class PurgeRefused(EdgecacheError):
    """A refused purge: HTTP status, metric label, and one sentence."""

    def __init__(self, status: int, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason


class Caller(Protocol):
    """An authenticated caller."""

    @property
    def name(self) -> str:
        """For the log; the user name of HTTP Basic."""

    @property
    def secret(self) -> str:
        """The password."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that the caller is limited to, as far as they have names."""

    @property
    def is_limited(self) -> bool:
        """Whether there is anything that the caller may not purge."""

    @property
    def wildcards(self) -> tuple[str, ...]:
        """Wildcards of hosts, as *.example.org, whose hosts the caller may purge as far as they are of its site."""

    def owns(self, host: str) -> bool:
        """Whether the caller may purge `host`, which has no port."""


class TrustedAddress(NamedTuple):
    """A caller known by its address alone."""

    name: str = "address"
    secret: str = ""  # never compared
    hosts: tuple[str, ...] = ()
    is_limited: bool = False
    wildcards: tuple[str, ...] = ()

    def owns(self, host: str) -> bool:
        """Any host."""
        return True


def callers_of(settings: Settings) -> list[Caller]:
    """The callers that these settings give a secret."""
    admin = [PurgeToken("admin", settings.admin_token)] if settings.admin_token else []
    return [*settings.purge_tokens, *admin, *tokens_of(settings)]


def accepts_purges(settings: Settings) -> bool:
    """Whether any caller may purge by PURGE, BAN or PURGEKEYS."""
    return bool(callers_of(settings) or settings.purge_from)


class Credentials(NamedTuple):
    """Credentials of a request: the values of `Authorization` and `Fastly-Key`."""

    authorization: bytes | None = None
    key: bytes | None = None

    @property
    def has_secret(self) -> bool:
        """Whether it has a secret, right or wrong."""
        return bool(self.authorization or self.key)


def caller_of(callers: Sequence[Caller], credentials: Credentials) -> Caller:
    """The caller that these credentials authenticate; raises `PurgeRefused` (401)."""
    proofs = [*_secrets(credentials)]
    found = [caller for caller in callers for proof in proofs if _proves(caller, proof)]  # all are compared
    if not found:
        raise PurgeRefused(401, "purge-unauthorized", UNAUTHORIZED)
    return found[0]


def _secrets(credentials: Credentials) -> Iterator[tuple[bytes | None, bytes]]:
    """User name, if one is given, and secret of each credential (RFC 6750 §2.1, RFC 7617 §2)."""
    scheme, _, given = (credentials.authorization or b"").partition(b" ")
    if scheme.lower() == b"bearer":
        yield None, given.strip()
    elif scheme.lower() == b"basic" and (pair := _user_and_password(given)):
        yield pair
    if credentials.key:
        yield None, credentials.key


def _user_and_password(encoded: bytes) -> tuple[bytes, bytes] | None:
    """The two in a value of HTTP Basic; None if it is malformed."""
    try:
        name, colon, secret = b64decode(encoded.strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return (name, secret) if colon else None


def _proves(caller: Caller, proof: tuple[bytes | None, bytes]) -> bool:
    """Compare in constant time."""
    name, secret = proof
    if name is None:
        return hmac.compare_digest(caller.secret.encode(), secret)
    return hmac.compare_digest(f"{caller.name}:{caller.secret}".encode(), name + b":" + secret)


def address_may_purge(peer: str, fields: Fields, is_trusted: Trust, may_purge: Trust) -> bool:
    """Whether the client address may purge: the peer's own, or the one that a trusted proxy names.

    Requests through untrusted proxies, or without a client address, may not.
    """
    named = any(name in fields for name in FORWARDED)
    relayed = named or any(name in fields for name in RELAYED)
    if relayed and not (named and is_trusted(peer)):
        return False
    address = client_address(peer, fields, is_trusted)
    return address != UNKNOWN and may_purge(address)


class FailedAttempts:
    """Limits guesses. Mutable state: times of wrong secrets, by address (an IPv4 address, or a /64 of IPv6)."""

    def __init__(self) -> None:
        self._failed: dict[bytes, list[float]] = {}

    def authenticate(self, callers: Sequence[Caller], credentials: Credentials, address: str, now: float) -> Caller:
        """The caller at `address`, at `now` in monotonic seconds; raises `PurgeRefused` (401, or 429 after many).

        The right secret is never kept waiting: guesses from the same address must not lock it out.
        """
        try:
            return caller_of(callers, credentials)
        except PurgeRefused:
            if credentials.has_secret:  # no secret is no guess
                self.record(address, now)
            raise

    def record(self, address: str, now: float) -> None:
        """Record a wrong secret from `address`; raises `PurgeRefused` (429) after many within a minute."""
        network = address_of(address)
        recent = [when for when in self._failed.get(network, ()) if now - when < FAILURES_WITHIN][-MOST_FAILURES:]
        if len(self._failed) >= MOST_ADDRESSES:
            self._failed.clear()
        self._failed[network] = [*recent, now]
        if len(recent) >= MOST_FAILURES:
            raise PurgeRefused(429, "purge-attempts", "too many wrong secrets from this address: wait a minute")
