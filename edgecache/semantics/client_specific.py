"""Whether a response that is not stored depends on the client, or on the URL alone.

A refusal, a rate limit, a cookie or a personal page says nothing about the response stored for others, which stays
valid until it is stale (RFC 9111 §4.2). Only a response that is independent of the client may replace or remove it.
"""

from __future__ import annotations

from typing import Final

from edgecache.semantics.message import Request
from edgecache.semantics.outcomes import Refused

OF_THE_URL: Final = frozenset((404, 410))  # client errors that say that nothing is there (RFC 9110 §15.5.5, §15.5.11)
OF_ONE: Final = frozenset((Refused.SET_COOKIE, Refused.AUTHORIZATION))
ORDINARY: Final = frozenset(  # what any browser, crawler or proxy sends: none of it makes an answer one client's
    b"accept accept-charset accept-encoding accept-language cache-control cdn-loop connection content-length dnt "
    b"downlink ect expect host if-modified-since if-none-match if-range keep-alive max-forwards pragma priority "
    b"purpose range referer rtt save-data te traceparent tracestate upgrade-insecure-requests user-agent via "
    b"sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user "
    b"sec-gpc sec-purpose x-request-id".split()
)


def is_client_specific(request: Request, status: int, reason: Refused) -> bool:
    """Whether a response that was not stored for `reason` depends on the client rather than on the URL."""
    if 400 <= status < 500 and status not in OF_THE_URL:
        return True
    return reason in OF_ONE or has_client_specific_field(request)


def has_client_specific_field(request: Request) -> bool:
    """Whether `request` carries a field that may make its response client-specific."""
    places = {name.lower() for name, _ in request.place}  # shared by all clients of a place
    return any(
        name not in ORDINARY and name not in places and not name.startswith(b"edgecache-")
        for name in request.fields.index
    )
