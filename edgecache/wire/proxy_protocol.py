"""The PROXY protocol, versions 1 and 2 (HAProxy's specification): the client's address, sent by a load balancer.

Parsed strictly, and only from trusted peers: a peer that may send it names the client at will.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from edgecache.semantics.client_address import parsed_address
from edgecache.wire.errors import BadRequest

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
FIXED: Final = 16  # bytes of a version 2 header before its addresses
LONGEST_V1: Final = 107  # bytes, with CR LF
LONGEST_V2: Final = 4096  # bytes of addresses and TLVs; the length field could say 65535
V1: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: [ -~]*)?|TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]+) ([0-9]+))\r\n"
)
ADDRESS_BYTES: Final = {0: 0, 1: 12, 2: 36, 3: 216}  # by family: unspecified, IPv4, IPv6, Unix


class ProxyHeader(NamedTuple):
    """A complete header: the client's address, empty if the peer is the client; and the size of the header."""

    client: str
    size: int


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """The PROXY header that `data` begins with, None while it is not complete; raises `BadRequest`."""
    if data.startswith(SIGNATURE[: len(data)]):
        return _read_v2(data) if len(data) >= FIXED else None
    if data.startswith(b"PROXY "[: len(data)]):
        return _read_v1(data)
    raise BadRequest(400, "proxy-header", "the PROXY header is missing")


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, LONGEST_V1) + 2
    if end < 2:
        if len(data) >= LONGEST_V1 or b"\n" in data:
            raise _malformed()
        return None
    match = V1.fullmatch(data, 0, end)
    if match is None:
        raise _malformed()
    if match[1] is None:
        return ProxyHeader("", end)
    source, target = (_address_of(text, IPv4Address if match[1] == b"4" else IPv6Address) for text in match.group(2, 3))
    if not (_is_port(match[4]) and _is_port(match[5])):
        raise _malformed()
    return ProxyHeader(source if target else "", end)


def _address_of(text: bytes, kind: type[IPv4Address] | type[IPv6Address]) -> str:
    try:
        return str(parsed_address(str(kind(text.decode()))))
    except ValueError:
        raise _malformed() from None


def _is_port(digits: bytes) -> bool:
    return len(digits) <= 5 and int(digits) <= 65535 and (digits == b"0" or digits[:1] != b"0")


def _read_v2(data: bytes) -> ProxyHeader | None:
    version, command = data[12] >> 4, data[12] & 15
    family, transport = data[13] >> 4, data[13] & 15
    length = int.from_bytes(data[14:FIXED], "big")
    if version != 2 or command > 1 or family > 3 or transport > 2 or length > LONGEST_V2:
        raise _malformed()
    if command == 1 and (transport == 2 or (family == 0) != (transport == 0)):  # datagrams do not come over TCP
        raise _malformed()
    if len(data) < FIXED + length:
        return None
    if command == 0:  # LOCAL: the balancer is the client, and the rest is ignored
        return ProxyHeader("", FIXED + length)
    body = data[FIXED : FIXED + length]
    if length < ADDRESS_BYTES[family]:
        raise _malformed()
    _check_tlvs(body[ADDRESS_BYTES[family] :])
    if family not in (1, 2):
        return ProxyHeader("", FIXED + length)
    source = IPv4Address(body[:4]) if family == 1 else IPv6Address(body[:16])
    return ProxyHeader(str(parsed_address(str(source))), FIXED + length)


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
