"""Results that are remembered: never those of long values, of which a sender could make any number."""

from __future__ import annotations

from edgecache.semantics.cache_control import parse_request_directives, parse_response_directives
from edgecache.semantics.memoize import LONGEST, memoize


def test_short_values_are_worked_out_once_and_long_ones_each_time() -> None:
    """The sum of what is remembered is bounded by number and by length."""
    seen: list[bytes | None] = []

    @memoize(2)
    def doubled(value: bytes | None) -> bytes:
        seen.append(value)
        return (value or b"") * 2

    short, long = b"a" * LONGEST, b"a" * (LONGEST + 1)
    for value in (short, short, None, None, long, long):
        assert doubled(value) == (value or b"") * 2

    assert seen == [short, None, long, long]


def test_what_is_too_long_to_be_read_is_not_kept() -> None:
    """It might have said so at its end."""
    long = b"max-age=60," + b"a," * 3000
    assert parse_response_directives(long, None).no_store
    assert parse_response_directives(None, long).no_store
    assert parse_request_directives(long, None).no_store
    assert parse_request_directives(long, None).no_cache
