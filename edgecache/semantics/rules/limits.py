"""Request limits as configured by rules: what is counted, by which key, and the text of a refusal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address
from math import ceil
from typing import Final

from edgecache.semantics.client_address import parsed_address
from edgecache.semantics.message import FieldLine
from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.semantics.rules.gcra import Rate

Part = bytes | int | str
HOST_BITS: Final = 64  # of an IPv6 address: they are one client's


@dataclass(frozen=True, eq=False)
class RequestLimit:
    """One limit of one rule."""

    site: str
    rule: str
    number: int  # in its rule
    by: tuple[str, ...]  # client, token, path, site
    rate: Rate | None = None
    concurrency: int | None = None
    body: int | None = None  # bytes
    header: bytes = b"authorization"  # lower case: where the token is
    cookie: str | None = None  # instead of the header

    @cached_property
    def reads(self) -> frozenset[bytes]:
        """Request fields that the key depends on, beside those of the client's address."""
        if "token" not in self.by:
            return frozenset()
        return frozenset((self.header if self.cookie is None else b"cookie",))

    @cached_property
    def name(self) -> str:
        """It identifies the limit, in all workers of a region."""
        return f"{self.site}/{self.rule}/{self.number}"

    def key(self, facts: RequestFacts) -> tuple[Part, ...]:
        """What is counted together with a request; a client without a token is counted by its address."""
        parts: list[Part] = [self.name]
        token = self._token(facts) if "token" in self.by else None
        if token is not None:
            parts.append(blake2b(token, digest_size=16).digest())
        if "client" in self.by or ("token" in self.by and token is None):
            parts.append(client_network(facts.client))
        if "path" in self.by:
            parts.append(facts.path)
        return tuple(parts)

    def key_of_client(self, address: str) -> tuple[Part, ...]:
        """The key where the client's address is all that decides it."""
        return self.name, client_network(address)

    def depends_on_client(self, facts: RequestFacts) -> bool:
        """Whether another client's request, equal but for its address, is counted by another key."""
        return "client" in self.by or ("token" in self.by and self._token(facts) is None)

    def is_by_address_only(self, facts: RequestFacts) -> bool:
        """Whether the client's address is all that decides the key of requests like this one."""
        return "path" not in self.by and ("token" not in self.by or self._token(facts) is None)

    def _token(self, facts: RequestFacts) -> bytes | None:
        if self.cookie is not None:
            values = facts.cookies.get(self.cookie, [])
        else:
            values = facts.request.fields.all(self.header) if self.header in facts.request.fields else []
        return b"\n".join(values) if values else None

    def refusal_fields(self, wait: float) -> tuple[FieldLine, ...]:
        """The fields of a 429: Retry-After (RFC 9110 §10.2.3), RateLimit-Policy and RateLimit (an Internet-Draft)."""
        seconds = max(1, ceil(wait))
        retry = (b"Retry-After", b"%d" % seconds)
        name = self.rule.encode()
        if self.rate is None:
            policy = b'"%b";q=%d;qu="concurrent-requests"' % (name, self.concurrency or 0)
        else:
            policy = b'"%b";q=%d;w=%d' % (name, self.rate.count, self.rate.seconds)
        return retry, (b"RateLimit-Policy", policy), (b"RateLimit", b'"%b";r=0;t=%d' % (name, seconds))


@lru_cache(maxsize=4096)
def client_network(address: str) -> Part:
    """What is one client: an IPv4 address, an IPv6 /64; text that is no address is itself."""
    parsed = parsed_address(address)
    if parsed is None:
        return address
    return int(parsed) >> HOST_BITS if isinstance(parsed, IPv6Address) else str(parsed)


def largest_body(limits: Iterable[RequestLimit], otherwise: int) -> int:
    """Bytes that a request's body may have; 0: any. `otherwise` is what holds for all requests."""
    bounds = [limit.body for limit in limits if limit.body is not None]
    return min((bound for bound in (*bounds, otherwise) if bound), default=0)
