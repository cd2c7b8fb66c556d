"""HTTP Basic (RFC 7617), with argon2 or bcrypt hashes.

A hash takes tens of milliseconds and megabytes by design: it is computed in a thread, few at a time, and both results
are cached for a while under a keyed hash of the credentials. A client that guesses is refused without a hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

from edgecache.proxy.access.admission import AccessRefused, Asked, Grant, challenge
from edgecache.semantics.bounded_cache import BoundedCache
from edgecache.tasks import spawn
from edgecache.wire.connection_limits import address_of

if TYPE_CHECKING:
    from edgecache.config.sites.model import Basic

LONGEST: Final = 1024  # bytes of a credential
MOST_REMEMBERED: Final = 8192
REMEMBERED_FOR: Final = 300.0  # seconds
AT_ONCE: Final = 2  # hashes computed
MOST_WAITING: Final = 64  # requests for one
MOST_FAILURES: Final = 10  # from one address, within
FAILURES_WITHIN: Final = 60.0  # seconds
MOST_ADDRESSES: Final = 4096

Verify = Callable[[str, bytes], bool]  # a hash and a password


class Guesses:
    """Wrong passwords, by address (an IPv4 address, or a /64 of IPv6). Mutable state: the times of failures."""

    def __init__(self) -> None:
        self._failed: BoundedCache[bytes, tuple[float, ...]] = BoundedCache(MOST_ADDRESSES)

    def too_many(self, client: str, now: float) -> bool:
        """Whether a client has to wait before another password of its is looked at."""
        failed = self._failed.get(address_of(client), ())
        return len([when for when in failed if 0 <= now - when < FAILURES_WITHIN]) >= MOST_FAILURES

    def failed(self, client: str, now: float) -> None:
        """A password was wrong."""
        network = address_of(client)
        self._failed.remember(network, (*self._failed.get(network, ()), now)[-MOST_FAILURES:])


class PasswordCheck:
    """Admits requests with the name and the password of a user. Mutable state: cached results, and guesses."""

    order = 30
    reads = frozenset((b"authorization",))

    def __init__(self, written: Basic, verify: Verify) -> None:
        self._users: Mapping[bytes, str] = {name.encode(): str(hashed) for name, hashed in written.users.items()}
        self._dummy = next(iter(self._users.values()))  # for names of no user, so that they take as long
        self._challenge = challenge("Basic", written.realm, ', charset="UTF-8"')
        self._keeps = written.pass_credentials
        self._verify = verify
        self._key = os.urandom(32)
        self._known: BoundedCache[bytes, tuple[bool, float]] = BoundedCache(MOST_REMEMBERED)
        self._under_way: dict[bytes, asyncio.Future[bool]] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._guesses = Guesses()

    def admit(self, asked: Asked) -> Grant | Awaitable[Grant]:
        """Admit a request by its credentials."""
        given = self._credentials(asked)
        mark = hmac.digest(self._key, given, hashlib.sha256)
        known = self._known.get(mark)
        if known is not None and asked.steady < known[1]:
            return self._verdict(known[0], known[1])
        if self._guesses.too_many(asked.facts.client, asked.steady):
            words = "too many wrong passwords from this address: wait a minute"
            raise AccessRefused(429, "password-attempts", words, (b"Retry-After", b"60"))
        if len(self._under_way) >= MOST_WAITING and mark not in self._under_way:
            raise AccessRefused(503, "passwords-busy", "too many passwords at once", (b"Retry-After", b"1"))
        return self._later(asked, given, mark)

    def _credentials(self, asked: Asked) -> bytes:
        """Name and password; raises `AccessRefused`."""
        values = asked.request.fields.all(b"authorization") if b"authorization" in asked.request.fields else []
        if not values:
            raise self._refusal("credentials-missing", "this needs a password")
        scheme, _, encoded = values[0].partition(b" ")
        if len(values) > 1 or scheme.lower() != b"basic" or len(encoded) > 2 * LONGEST:
            raise self._refusal("credentials-malformed", "this needs a password")
        try:
            given = b64decode(encoded.strip(), validate=True)
        except ValueError:
            raise self._refusal("credentials-malformed", "this needs a password") from None
        if b":" not in given or len(given) > LONGEST or b"\0" in given:
            raise self._refusal("credentials-malformed", "this needs a password")
        return given

    async def _later(self, asked: Asked, given: bytes, mark: bytes) -> Grant:
        """Verify in a thread, once for all requests that bring the same credentials meanwhile."""
        waiting = self._under_way.get(mark)
        if waiting is None:
            waiting = self._under_way[mark] = spawn(self._verified(given), "verify a password")
            waiting.add_done_callback(lambda done: self._under_way.pop(mark, None))
        is_right = await asyncio.shield(waiting)
        until = asked.steady + REMEMBERED_FOR
        if mark not in self._known or asked.steady >= self._known[mark][1]:
            self._known.remember(mark, (is_right, until))
            if not is_right:
                self._guesses.failed(asked.facts.client, asked.steady)
        return self._verdict(is_right, until)

    async def _verified(self, given: bytes) -> bool:
        name, _, password = given.partition(b":")
        hashed = self._users.get(name)
        async with self._turn:
            is_right = await asyncio.to_thread(self._verify, hashed or self._dummy, password)
        return is_right and hashed is not None

    def _verdict(self, is_right: bool, until: float) -> Grant:
        if not is_right:
            raise self._refusal("credentials-wrong", "the password is refused")
        return Grant(lasts=until, fields=frozenset() if self._keeps else self.reads)

    def _refusal(self, reason: str, words: str) -> AccessRefused:
        return AccessRefused(401, reason, words, self._challenge)


def verify_password(hashed: str, password: bytes) -> bool:
    """Whether `password` has this hash. It takes its time."""
    if hashed.startswith("$argon2"):
        from argon2 import PasswordHasher
        from argon2.exceptions import Argon2Error, InvalidHashError

        try:
            return PasswordHasher().verify(hashed, password)
        except (Argon2Error, InvalidHashError):
            return False
    import bcrypt

    try:
        return bcrypt.checkpw(password, hashed.encode())
    except ValueError:  # longer than bcrypt can tell apart
        return False


def import_libraries(users: Mapping[str, str]) -> None:
    """Import what these hashes need; raises ImportError."""
    if any(hashed.startswith("$argon2") for hashed in users.values()):
        import argon2  # noqa: F401
    if not all(hashed.startswith("$argon2") for hashed in users.values()):
        import bcrypt  # noqa: F401
