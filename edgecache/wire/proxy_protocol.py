"""The PROXY protocol, versions 1 and 2 (HAProxy's specification): what a load balancer says before the first request.

Read strictly, and only from trusted peers: whoever may say this names the client at will.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from edgecache.semantics.client_address import Trust, parsed_address, plain_address
from edgecache.wire.errors import BadRequest
from edgecache.wire.h1 import serializer as render
from edgecache.wire.h1.server import ClientConnection
from edgecache.wire.refusal import Refusal, head_size

if TYPE_CHECKING:
    from edgecache.wire.handler import Site

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
FIXED: Final = 16  # bytes of a version 2 header before its addresses
LONGEST_V1: Final = 107  # bytes, with CR LF
LONGEST_V2: Final = 4096  # bytes of addresses and TLVs; the length field could say 65535
MOST_WAITING: Final = 1024  # connections of one worker whose header is not complete
V1: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: [ -~]*)?|TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]+) ([0-9]+))\r\n"
)
ADDRESS_BYTES: Final = {0: 0, 1: 12, 2: 36, 3: 216}  # by family: unspecified, IPv4, IPv6, Unix


class Preface(NamedTuple):
    """A whole header: the address of the client, empty if the peer speaks for itself; and the header's bytes."""

    client: str
    size: int


def read_preface(data: bytes) -> Preface | None:
    """The PROXY header that `data` begins with, None while it is not complete; raises `BadRequest`."""
    if data.startswith(SIGNATURE[: len(data)]):
        return _read_v2(data) if len(data) >= FIXED else None
    if data.startswith(b"PROXY "[: len(data)]):
        return _read_v1(data)
    raise BadRequest(400, "proxy-header", "the PROXY header is missing")


def _read_v1(data: bytes) -> Preface | None:
    end = data.find(b"\r\n", 0, LONGEST_V1) + 2
    if end < 2:
        if len(data) >= LONGEST_V1 or b"\n" in data:
            raise _malformed()
        return None
    match = V1.fullmatch(data, 0, end)
    if match is None:
        raise _malformed()
    if match[1] is None:
        return Preface("", end)
    source, target = (_address_of(text, IPv4Address if match[1] == b"4" else IPv6Address) for text in match.group(2, 3))
    if not (_is_port(match[4]) and _is_port(match[5])):
        raise _malformed()
    return Preface(source if target else "", end)


def _address_of(text: bytes, kind: type[IPv4Address] | type[IPv6Address]) -> str:
    try:
        return str(parsed_address(str(kind(text.decode()))))
    except ValueError:
        raise _malformed() from None


def _is_port(digits: bytes) -> bool:
    return len(digits) <= 5 and int(digits) <= 65535 and (digits == b"0" or digits[:1] != b"0")


def _read_v2(data: bytes) -> Preface | None:
    version, command = data[12] >> 4, data[12] & 15
    family, transport = data[13] >> 4, data[13] & 15
    length = int.from_bytes(data[14:FIXED], "big")
    if version != 2 or command > 1 or family > 3 or transport > 2 or length > LONGEST_V2:
        raise _malformed()
    if command == 1 and (transport == 2 or (family == 0) != (transport == 0)):  # datagrams never come this way
        raise _malformed()
    if len(data) < FIXED + length:
        return None
    if command == 0:  # LOCAL: the balancer asks for itself, and whatever follows says nothing
        return Preface("", FIXED + length)
    body = data[FIXED : FIXED + length]
    if length < ADDRESS_BYTES[family]:
        raise _malformed()
    _check_tlvs(body[ADDRESS_BYTES[family] :])
    if family not in (1, 2):
        return Preface("", FIXED + length)
    source = IPv4Address(body[:4]) if family == 1 else IPv6Address(body[:16])
    return Preface(str(parsed_address(str(source))), FIXED + length)


def _check_tlvs(block: bytes) -> None:
    """Each has a type, a length of two bytes and as many bytes; none is needed here."""
    at = 0
    while at < len(block):
        if at + 3 > len(block):
            raise _malformed()
        at += 3 + int.from_bytes(block[at + 1 : at + 3], "big")
    if at != len(block):
        raise _malformed()


def _malformed() -> BadRequest:
    return BadRequest(400, "proxy-header", "the PROXY header is malformed")


class PrefacedConnection(asyncio.Protocol):
    """A connection that begins with a PROXY header if its peer is trusted; from then on, a `ClientConnection`."""

    transport: asyncio.Transport

    def __init__(self, site: Site, is_trusted: Trust, waiting: set[PrefacedConnection]) -> None:
        self._site = site
        self._is_trusted: Callable[[str], bool] = is_trusted
        self._waiting = waiting  # those that have not said all yet
        self._data = b""
        self._since = 0.0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # it has said all, or will not

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A balancer, or a client, has connected."""
        self.transport = cast(asyncio.Transport, transport)
        self._since = self._site.clock()
        peer = transport.get_extra_info("peername")
        if not peer or not self._is_trusted(peer[0]):
            self._hand_over("", b"")
        elif len(self._waiting) >= MOST_WAITING:
            self._refuse(BadRequest(503, "too-many-connections", "too many connections are open here"))
        else:
            self._waiting.add(self)

    def data_received(self, data: bytes) -> None:
        """More of the header, perhaps with what follows it."""
        self._data += data
        try:
            preface = read_preface(self._data)
        except BadRequest as error:
            self._refuse(error)
            return
        if preface is not None:
            self._hand_over(preface.client, self._data[preface.size :])

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer has left before it said all."""
        self._end()

    def _end(self) -> None:
        self._waiting.discard(self)
        if not self.over.done():
            self.over.set_result(None)

    def _hand_over(self, client: str, rest: bytes) -> None:
        self._end()
        connection = ClientConnection(self._site, client=client)
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        if rest:
            connection.data_received(rest)

    def _refuse(self, error: BadRequest) -> None:
        self._site.refused(error)
        self._end()
        answer = render.refusal(error.status, error.reason, str(error))
        peer = self.transport.get_extra_info("peername")
        refused = Refusal(self._site, error, plain_address(peer[0]) if peer else "", b"http")
        refused.bytes_out = len(answer) - head_size(answer)
        self._site.answered(refused, refused.began - self._since)
        self.transport.write(answer)
        self.transport.close()

    def sweep(self, now: float) -> None:
        """End what is overdue; `now` in monotonic seconds."""
        if now - self._since > self._site.head_timeout:
            self._refuse(BadRequest(408, "head-timeout", "the PROXY header took too long"))

    def cut(self) -> None:
        """End at once."""
        self.transport.abort()
