"""Client address behind trusted proxies (RFC 7239, X-Forwarded-For)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from edgecache.semantics.message import Fields

MOST_HOPS: Final = 32  # members of a list that are read, from the right
MOST_EMPTY: Final = 32  # empty ones among them (RFC 9110 §5.6.1.2); what is left then is one member, and no address
UNKNOWN: Final = ""  # the address of a client that no trusted proxy names
NODE: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+)(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)", re.ASCII)
FOR: Final = re.compile(rb'(?i:for)=(?:"([^"\\]*)"|([^"\\]*))')
CLIENT_ADDRESS_FIELDS: Final = frozenset((b"forwarded", b"x-forwarded-for"))

Network = IPv4Network | IPv6Network
Trust = Callable[[str], bool]  # whether the peer with this address is a trusted proxy


def parsed_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in `text` without its zone; IPv4-mapped addresses become IPv4. None if malformed."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def plain_address(peer: str) -> str:
    """A socket's address in canonical form: IPv4-mapped IPv6 addresses become IPv4."""
    return str(parsed_address(peer) or peer) if ":" in peer else peer


def trust_of(networks: Iterable[Network]) -> Trust:
    """Trust in the peers of these networks, by their addresses in any spelling."""
    listed = tuple(networks)

    @lru_cache(maxsize=4096)
    def is_trusted(peer: str) -> bool:
        address = parsed_address(peer)
        return address is not None and any(address in network for network in listed)

    return is_trusted if listed else lambda peer: False


def client_address(peer: str, fields: Fields, is_trusted: Trust) -> str:
    """The address of the first that is not a trusted proxy, going from `peer` back towards the client.

    `peer` itself if it is not trusted, or if nothing is said. UNKNOWN where the trail ends in what is no address, or
    where `Forwarded` and `X-Forwarded-For` name different clients: then one of the two was not written by the proxy.
    """
    if not is_trusted(peer):
        return peer
    chains = (_forwarded_nodes(fields.get(b"forwarded")), _plain_nodes(fields.get(b"x-forwarded-for")))
    found = {address for chain in chains if (address := _first_untrusted(chain, is_trusted)) is not None}
    if len(found) > 1:
        return UNKNOWN
    return found.pop() if found else peer


def _first_untrusted(chain: Iterator[str], is_trusted: Trust) -> str | None:
    """The first address that is not trusted, UNKNOWN if what is no address comes first, None if there is neither."""
    for hop, node in enumerate(chain):
        match = NODE.fullmatch(node)
        address = parsed_address(match[1] or match[2] or match[3]) if match is not None else None
        if address is None or hop >= MOST_HOPS:
            return UNKNOWN
        if not is_trusted(str(address)):
            return str(address)
    return None


def _plain_nodes(value: bytes | None) -> Iterator[str]:
    """The members of an X-Forwarded-For, from the right."""
    for member in _from_right(value):
        yield member.decode("latin-1")


def _forwarded_nodes(value: bytes | None) -> Iterator[str]:
    """The `for` of each member of a Forwarded, from the right: what stands left of an odd quote cannot reach it."""
    for member in _from_right(value):
        matches = [FOR.fullmatch(pair.strip(b" \t")) for pair in member.split(b";")]
        nodes = [match[1] or match[2] or b"" for match in matches if match is not None]
        yield nodes[0].decode("latin-1") if len(nodes) == 1 else ""


def _from_right(value: bytes | None) -> Iterator[bytes]:
    """The members that are not empty, from the right; no more than count, and the one that is too much."""
    members = value.rsplit(b",", MOST_EMPTY + MOST_HOPS) if value is not None else []
    for member in reversed(members):
        if member.strip(b" \t"):
            yield member.strip(b" \t")
