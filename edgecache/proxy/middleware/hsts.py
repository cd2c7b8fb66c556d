"""HTTP Strict Transport Security (RFC 6797)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from edgecache.proxy.hooks import NOTHING, Context, Middleware, Says
from edgecache.semantics.message import FieldLine

NAME: Final = b"strict-transport-security"


class Hsts(Middleware):
    """Adds Strict-Transport-Security to responses over https, unless the origin has (§7.1: one at most)."""

    order = 550
    reads = NOTHING
    for_peers = False

    def __init__(self, value: bytes) -> None:
        self._lines = ((b"Strict-Transport-Security", value),)

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where `EDGECACHE_HSTS` has a value."""
        return cls(context.settings.hsts.encode()) if context.settings.hsts else None

    def on_deliver(self, scheme: bytes, says: Says) -> Sequence[FieldLine]:
        """The field, over https only (§7.2)."""
        return () if scheme != b"https" or says(NAME) else self._lines
