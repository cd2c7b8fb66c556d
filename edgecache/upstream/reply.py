"""A response from upstream, as the request path takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edgecache.invalidation.purge_log import Stamp
from edgecache.semantics.message import Response
from edgecache.semantics.outcomes import Tier
from edgecache.semantics.stored_response import Times
from edgecache.wire.body import Body


class Reply(NamedTuple):
    """A response from upstream: head, body (perhaps still arriving), times, and what was known of the log then."""

    response: Response
    body: Body
    times: Times
    seen: Stamp
    tier: bytes = b""  # the Cache-Status member of the tier that it came from; empty: upstream
    by: Tier | None = None  # the tier that answered, if not the origin
    rest: Callable[[int], Body] | None = None  # the body from a byte on, once more, where the tier has it
    tags: tuple[bytes, ...] | None = None  # of what the tier has, whose fields do not bear them; None: see the response
