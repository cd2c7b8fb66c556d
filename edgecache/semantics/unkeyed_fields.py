"""Unkeyed fields: request fields that cannot influence a response made from a stored one.

    HARMLESS − what the rules of HTTP caching read − what the active middleware reads = the unkeyed fields

Every field that is not harmless keys a hit, and so does a harmless one that anything declares to read. The exception
is `Vary`, by which an origin may let any field select among its responses: that is looked up for each response.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from edgecache.semantics import accept_encoding, forwarding, preconditions, ranges, rfc9111
from edgecache.semantics.message import FieldLine

HARMLESS: Final = frozenset(
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
RULES: Final = rfc9111.READS | preconditions.READS | ranges.READS | accept_encoding.READS | forwarding.LIMIT_FIELDS
IN_A_VALUE: Final = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))  # RFC 9110 §5.5


def unkeyed(*reads: frozenset[bytes]) -> frozenset[bytes]:
    """The fields that key no hit, where all that is active declares to read these."""
    return HARMLESS.difference(RULES, *reads)


def field_line(line: bytes) -> FieldLine:
    """A well-formed line as name and value."""
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")


class KeyedCookies:
    """The cookies that key a hit where Cookie as a whole does not: those with these prefixes in their names."""

    def __init__(self, beginnings: frozenset[bytes]) -> None:
        self._beginnings = tuple(sorted(beginnings))
        self.occur = re.compile(b"|".join(map(re.escape, self._beginnings))).search  # else no cookie is one of them

    def of(self, value: bytes) -> bytes:
        """`value` of Cookie with no others, in their order (RFC 6265 §5.4)."""
        if self.occur(value) is None:
            return b""
        pairs = [pair.strip(b" \t") for pair in value.split(b";")]
        return b"; ".join([pair for pair in pairs if pair.startswith(self._beginnings)])


def named_lines(lines: Iterable[bytes], names: Iterable[bytes]) -> list[FieldLine]:
    """Those of the well-formed `lines` whose lower-case name is among `names`, as names and values."""
    return [pair for pair in map(field_line, lines) if pair[0].lower() in names]
