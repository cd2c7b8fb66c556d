"""The checks that one table of a rule demands, with the parts that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgecache.proxy.access.admission import Check
from edgecache.proxy.access.demands import Unusable, of_addresses
from edgecache.proxy.hooks import Context
from edgecache.telemetry.metrics import Counter

if TYPE_CHECKING:
    from edgecache.config.sites.model import Access, Jwt

Make = Callable[[], Check]
LARGEST: Final = 1024 * 1024  # bytes of a file of keys


def checks_of(context: Context, table: Access, place: str) -> Iterator[Make]:
    """What makes the checks of `table`, one after the other; libraries are imported with those that need them."""
    for check in of_addresses(table):
        yield partial(lambda one: one, check)
    if table.jwt is not None:
        yield partial(_token_check, context, table.jwt, place)
    for written in (table.basic, table.signed, table.forward_auth, table.bots):
        if written is not None:
            yield Unusable


def content_of(context: Context, path: str) -> bytes:
    """What the file at `path` had when the text of sites was checked, or what it has now."""
    known: bytes | None = getattr(context.settings.sites, "contents", {}).get(path)
    if known is not None:
        return known
    with Path(path).open("rb") as file:
        return file.read(LARGEST)


def _count(counter: Counter) -> None:
    counter.value += 1


def _token_check(context: Context, written: Jwt, place: str) -> Check:
    from edgecache.config.sites.compiler import glob
    from edgecache.proxy.access.json_web_tokens import Claims, TokenCheck
    from edgecache.proxy.access.key_sets import FileKeys, RemoteKeys, keys_of

    keys: FileKeys | RemoteKeys
    if written.jwks is not None:
        words = "Fetches of key sets that failed, by rule."
        counter = context.registry.counter("edgecache_access_key_set_failures", words, rule=place)
        keys = RemoteKeys(written.jwks, context.clock.now, partial(_count, counter))
    else:
        keys = FileKeys(keys_of(content_of(context, written.keys or "")))
    return TokenCheck(written, keys, Claims(written, glob))
