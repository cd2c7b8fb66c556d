"""Authentication of purges: by a token in `Authorization` or `Fastly-Key`, or by the client's address. Pure."""

from __future__ import annotations

import hmac
from base64 import b64decode
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from edgecache.semantics.client_address import UNKNOWN, Trust, client_address
from edgecache.semantics.errors import EdgecacheError
from edgecache.semantics.message import Fields

FORWARDED: Final = (b"forwarded", b"x-forwarded-for")  # what names the client
RELAYED: Final = (b"via", b"x-real-ip", b"x-forwarded-host", b"x-forwarded-proto", b"cdn-loop")  # what proxies add


class PurgeRefused(EdgecacheError):
    """A refused purge: HTTP status, metric label, and one sentence."""

    def __init__(self, status: int, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason


class Caller(Protocol):
    """An authenticated caller; `hosts` empty: may purge everything."""

    @property
    def name(self) -> str:
        """For the log; the user name of HTTP Basic."""

    @property
    def secret(self) -> str:
        """The password."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The sites that the caller is limited to."""


class Neighbour(NamedTuple):
    """A caller known by its address alone."""

    name: str = "address"
    secret: str = ""  # never compared
    hosts: tuple[str, ...] = ()


class Credentials(NamedTuple):
    """Credentials of a request: the values of `Authorization` and `Fastly-Key`, and whether its address may purge."""

    authorization: bytes | None = None
    key: bytes | None = None
    is_near: bool = False

    @property
    def claimed(self) -> bool:
        """Whether it has a secret, right or wrong."""
        return bool(self.authorization or self.key)


def caller_of(callers: Sequence[Caller], credentials: Credentials) -> Caller:
    """The authenticated caller; raises `PurgeRefused` (401). A wrong secret is refused from any address."""
    proofs = [*_secrets(credentials)]
    found = [caller for caller in callers for proof in proofs if _proves(caller, proof)]  # all are compared
    if found:
        return found[0]
    if credentials.is_near and not credentials.claimed:
        return Neighbour()
    sentence = "a purge needs a secret that may purge (Bearer, Basic or Fastly-Key), or an address that may"
    raise PurgeRefused(401, "purge-unauthorized", sentence)


def _secrets(credentials: Credentials) -> Iterator[tuple[bytes | None, bytes]]:
    """User name, if one is given, and secret of each credential (RFC 6750 §2.1, RFC 7617 §2)."""
    scheme, _, given = (credentials.authorization or b"").partition(b" ")
    match scheme.lower():
        case b"bearer":
            yield None, given.strip()
        case b"basic":
            try:
                name, colon, secret = b64decode(given.strip(), validate=True).partition(b":")
            except ValueError:
                name, colon, secret = b"", b"", b""
            if colon:
                yield name, secret
    if credentials.key:
        yield None, credentials.key


def _proves(caller: Caller, proof: tuple[bytes | None, bytes]) -> bool:
    """Compare in constant time."""
    name, secret = proof
    if name is None:
        return hmac.compare_digest(caller.secret.encode(), secret)
    return hmac.compare_digest(f"{caller.name}:{caller.secret}".encode(), name + b":" + secret)


def is_near(peer: str, fields: Fields, is_trusted: Trust, may_purge: Trust) -> bool:
    """Whether the client address may purge: the peer's own, or the one that a trusted proxy names.

    Requests through untrusted proxies, or without a client address, may not.
    """
    named = any(name in fields for name in FORWARDED)
    relayed = named or any(name in fields for name in RELAYED)
    if relayed and not (named and is_trusted(peer)):
        return False
    address = client_address(peer, fields, is_trusted)
    return address != UNKNOWN and may_purge(address)
