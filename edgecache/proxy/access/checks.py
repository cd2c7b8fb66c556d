"""The checks that one table of a rule demands, with the parts that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from edgecache.proxy.access.admission import Check
from edgecache.proxy.access.demands import Unusable, of_addresses
from edgecache.proxy.hooks import Context

if TYPE_CHECKING:
    from edgecache.config.sites.model import Access

Make = Callable[[], Check]


def checks_of(context: Context, table: Access, place: str) -> Iterator[Make]:
    """What makes the checks of `table`, one after the other; libraries are imported with those that need them."""
    for check in of_addresses(table):
        yield partial(lambda one: one, check)
    for written in (table.basic, table.jwt, table.signed, table.forward_auth, table.bots):
        if written is not None:
            yield Unusable
