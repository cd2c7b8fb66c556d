"""Which field lines of a request cannot influence the answer that a stored response gives to it.

What no rule reads on the way from a head to a hit is immaterial: who reads it is the origin, or the access log. The
one exception is `Vary`, by which an origin may make any field material to one of its responses: whoever leaves a field
out has to ask what the response varies by. Every name that is not listed here is material.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from edgecache.semantics.message import FieldLine

IMMATERIAL: Final = frozenset(
    b"accept accept-language cookie device-memory dnt downlink dpr ect origin priority purpose referer rtt save-data "
    b"user-agent upgrade-insecure-requests viewport-width x-requested-with "
    b"sec-ch-ua sec-ch-ua-arch sec-ch-ua-bitness sec-ch-ua-form-factors sec-ch-ua-full-version "
    b"sec-ch-ua-full-version-list sec-ch-ua-mobile sec-ch-ua-model sec-ch-ua-platform sec-ch-ua-platform-version "
    b"sec-ch-ua-wow64 sec-ch-prefers-color-scheme sec-ch-prefers-reduced-motion sec-ch-viewport-width sec-ch-width "
    b"sec-ch-dpr sec-ch-device-memory sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-storage-access "
    b"sec-fetch-user sec-gpc sec-purpose "
    b"x-amz-cf-id x-amzn-trace-id x-b3-traceid x-b3-spanid x-b3-parentspanid x-b3-sampled x-cloud-trace-context "
    b"x-correlation-id x-request-id x-request-start x-trace-id x-forwarded-for".split()
)
NEVER_TWICE: Final = frozenset(  # their values are one client's, or one request's
    b"cookie x-amz-cf-id x-amzn-trace-id x-b3-traceid x-b3-spanid x-b3-parentspanid x-cloud-trace-context "
    b"x-correlation-id x-request-id x-request-start x-trace-id x-forwarded-for".split()
)
OF_CLIENTS_ADDRESS: Final = frozenset((b"x-forwarded-for",))  # material where geography asks for the client's address
OF_CLIENTS_TOKEN: Final = frozenset((b"cookie",))  # material where it may hold a token of what the client has written
IN_A_VALUE: Final = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))  # RFC 9110 §5.5


def field_line(line: bytes) -> FieldLine:
    """A well-formed line as name and value."""
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")


def named_lines(lines: Iterable[bytes], names: Iterable[bytes]) -> list[FieldLine]:
    """Those of the well-formed `lines` whose lower-case name is among `names`, as names and values."""
    return [pair for pair in map(field_line, lines) if pair[0].lower() in names]
