"""Whether an answer is the object that was asked for: its body by SHA-256, its version, its variant, its age. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

from loadtests.lab import objects

LONGEST_QUOTE: Final = 80


class Seen(NamedTuple):
    """What an answer holds, and what is wrong with it; `problem` is empty if nothing is."""

    version: int
    problem: str = ""


def check(target: str, language: str, status: int, fields: Mapping[str, str], content: bytes | None) -> Seen:
    """The version in an answer to a GET of `target`. The names in `fields` are in lower case."""
    if status != 200:
        return Seen(0, f"status {status}" if status else "no answer")
    content = content or b""
    length = fields.get("content-length")
    if length is not None and length != str(len(content)):
        return Seen(0, "cut short")
    named = objects.named(content)
    if named is None:
        return Seen(0, f"no object: {content[:LONGEST_QUOTE]!r}")
    if named.target != target:
        return Seen(named.version, f"another object: {named.target[:LONGEST_QUOTE]}")
    orders = objects.orders_of(target)
    if named.variant != (variant := objects.variant(orders, language)):
        return Seen(named.version, f"variant {named.variant} instead of {variant}")
    if hashlib.sha256(content).digest() != objects.digest(target, named.version, variant, orders.size):
        return Seen(named.version, "SHA-256 differs")
    if fields.get("etag") != f'"{named.version}-{variant}"':
        return Seen(named.version, "the head is of another version than the body")
    return Seen(named.version)


def is_expired(target: str, fields: Mapping[str, str]) -> bool:
    """Whether an answer is older than the origin allows; nothing here may be used stale."""
    age = fields.get("age", "0")
    return not age.isdigit() or int(age) > objects.orders_of(target).ttl
