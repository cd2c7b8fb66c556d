"""The objects of the origin: what each looks like in each of its versions, so that anybody can verify a copy. Pure.

A target is `/o/TAG/NAME?size=…&ttl=…`. Its query tells the origin how to answer and is a part of the object's name:

    size    bytes of the body; it is never shorter than its first line
    ttl     seconds of freshness
    delay   milliseconds that the origin takes, after it has looked at the version
    swr     seconds of stale-while-revalidate
    vary    1: the object has a variant per language, and varies by Accept-Language

A body begins with a line that names the target, the version and the variant; the rest follows from that line.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

LANGUAGES: Final = ("en", "de", "fr")
ANY: Final = "any"  # the one variant of an object that does not vary
LARGEST: Final = 64 << 20
SLOWEST: Final = 10_000
LONGEST_TTL: Final = 31_536_000
_FIRST_LINE: Final = re.compile(rb"edgecache-object (\S+) version=([0-9]{1,18}) variant=([a-z]{1,8})\n")
_NAME: Final = re.compile(r"/o/([^/?]+)/[^?]+")


class Orders(NamedTuple):
    """What a target tells the origin."""

    tag: str
    size: int = 1000
    ttl: int = 60
    delay: int = 0
    varies: bool = False
    swr: int = 0


class Named(NamedTuple):
    """What the first line of a body says that it is."""

    target: str
    version: int
    variant: str


def target(tag: str, name: str, **orders: int) -> str:
    """The target of an object, with its orders."""
    query = "&".join(f"{order}={value}" for order, value in orders.items())
    return f"/o/{tag}/{name}?{query}" if query else f"/o/{tag}/{name}"


def orders_of(target: str) -> Orders:
    """Read a target; ValueError if it is none of an object, or asks for too much."""
    found = _NAME.match(target)
    if found is None:
        raise ValueError("not /o/TAG/NAME")
    query = {name: int(value) for name, value in parse_qsl(target.partition("?")[2], strict_parsing=False)}
    orders = Orders(
        found[1],
        query.get("size", 1000),
        query.get("ttl", 60),
        query.get("delay", 0),
        bool(query.get("vary", 0)),
        query.get("swr", 0),
    )
    for value, most in ((orders.size, LARGEST), (orders.delay, SLOWEST), (orders.ttl, LONGEST_TTL)):
        if not 0 <= value <= most:
            raise ValueError(f"{value} is not from 0 to {most}")
    return orders


def variant(orders: Orders, accept_language: str) -> str:
    """The variant that answers a request with this Accept-Language."""
    if not orders.varies:
        return ANY
    return accept_language if accept_language in LANGUAGES else LANGUAGES[0]


def body(target: str, version: int, variant: str, size: int) -> bytes:
    """The one body of `target` in this version and variant."""
    first = f"edgecache-object {target} version={version} variant={variant}\n".encode()
    rest = max(0, size - len(first))
    filler = hashlib.sha256(first).hexdigest().encode() + b"\n"
    return first + (filler * (rest // len(filler) + 1))[:rest]


@lru_cache(maxsize=16384)
def digest(target: str, version: int, variant: str, size: int) -> bytes:
    """The SHA-256 of that body."""
    return hashlib.sha256(body(target, version, variant, size)).digest()


def named(content: bytes) -> Named | None:
    """What a body says of itself; None if it does not begin as one."""
    found = _FIRST_LINE.match(content)
    return Named(found[1].decode("latin-1"), int(found[2]), found[3].decode()) if found is not None else None
