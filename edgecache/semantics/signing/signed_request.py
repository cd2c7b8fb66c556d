"""Common parts of the verifiers of signed URLs. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from edgecache.semantics import uri
from edgecache.semantics.client_address import parsed_address
from edgecache.semantics.path_readings import readings

LONGEST: Final = 4096  # bytes of a signature with all that belongs to it
EXPIRES: Final = re.compile(rb"[0-9]{1,11}")  # epoch seconds


class SignatureRefused(Exception):
    """A request whose signature is missing, or not accepted; the reason is a fixed word."""


class Signed(NamedTuple):
    """A signed request: its expiry, and the parts of it that belong to the signature."""

    until: float  # epoch seconds
    parameters: frozenset[bytes] = frozenset()
    cookies: frozenset[str] = frozenset()
    for_address: bool = False  # it holds for the client's address alone


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """The parts of a request that a signature can cover."""

    scheme: bytes
    host: bytes  # with its port if it has one
    target: bytes  # as received
    client: str  # its address, empty if unknown
    cookies: Mapping[str, list[bytes]]

    def parameter(self, name: bytes) -> bytes | None:
        """The value of a query parameter as it is spelt, or None; one that is repeated is refused."""
        return only([value for key, value in self._parameters if key == name])

    @property
    def _parameters(self) -> list[tuple[bytes, bytes]]:
        query = self.target.partition(b"?")[2]
        return [(part.partition(b"=")[0], part.partition(b"=")[2]) for part in query.split(b"&")]

    def cookie(self, name: str) -> bytes | None:
        """The value of a cookie, or None; one that is repeated is refused."""
        return only(self.cookies.get(name, []))

    @property
    def address(self) -> str:
        """The client's address in its shortest form; empty if unknown."""
        return str(parsed_address(self.client) or "")

    @property
    def path(self) -> bytes:
        """The path as received."""
        return self.target.partition(b"?")[0]

    @property
    def paths(self) -> list[bytes]:
        """All that an origin may take its path for."""
        return [uri.path_of(self.target), *readings(self.target)]

    def without(self, names: frozenset[bytes]) -> bytes:
        """The target less these parameters."""
        path, mark, query = self.target.partition(b"?")
        kept = [part for part in query.split(b"&") if part.partition(b"=")[0] not in names]
        return path + mark + b"&".join(kept) if mark and kept else path


class Verifier(Protocol):
    """Verifies signatures of one format."""

    def verify(self, request: SignedRequest, now: float) -> Signed:
        """What is signed, at `now` in epoch seconds; raises `SignatureRefused`."""


def only(values: list[bytes]) -> bytes | None:
    """The one value, or None if there is none."""
    if len(values) > 1:
        raise SignatureRefused("signature-repeated")
    if values and len(values[0]) > LONGEST:
        raise SignatureRefused("signature-malformed")
    return values[0] if values else None


def expiry(written: bytes | None, now: float) -> float:
    """The time of expiry that is written, which is later than `now`."""
    if written is None or not EXPIRES.fullmatch(written):
        raise SignatureRefused("signature-malformed")
    until = float(written)
    if now >= until:
        raise SignatureRefused("signature-expired")
    return until


def wildcard(pattern: str) -> Callable[[str], Any]:
    """A matcher of whole values, for patterns that are signed: `*` is any text, `?` any character."""
    special = {"*": ".*", "?": "."}
    return re.compile("(?s)" + "".join([special.get(one) or re.escape(one) for one in pattern])).fullmatch
