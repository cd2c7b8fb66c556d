"""HTTP dates (RFC 9110 §5.6.7) as epoch seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache
from typing import Final

LONGEST: Final = 40  # bytes; none of the forms has more, and what is none need not be remembered
MONTHS: Final = {m: n for n, m in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
TIME: Final = rb"([0-9]{2}):([0-9]{2}):([0-9]{2})"
IMF: Final = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) ([a-z]{3}) ([0-9]{4}) " + TIME + rb" GMT", re.IGNORECASE
)
RFC850: Final = re.compile(
    rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, ([0-9]{2})-([a-z]{3})-([0-9]{2}) " + TIME + rb" GMT", re.IGNORECASE
)
ASCTIME: Final = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([a-z]{3}) ([0-9]{2}| [0-9]) " + TIME + rb" ([0-9]{4})", re.IGNORECASE
)


def parse_date(value: bytes, now: int = 0) -> float | None:
    """Epoch seconds of an HTTP date in one of its three forms, in any case of letters, or None if it is not one.

    `now` (epoch seconds) places the two-digit year of the RFC 850 form: never more than 50 years ahead of it.
    """
    return _parsed(value, now) if len(value) <= LONGEST else None


@lru_cache(maxsize=2048)
def _parsed(value: bytes, now: int) -> float | None:
    if match := IMF.fullmatch(value):
        day, month, year, *clock = match.groups()
    elif match := RFC850.fullmatch(value):
        day, month, short_year, *clock = match.groups()
        year = b"%d" % _full_year(int(short_year), now)
    elif match := ASCTIME.fullmatch(value):
        month, day, *clock, year = match.groups()
    else:
        return None
    month = month.lower()
    if month not in MONTHS:
        return None
    hour, minute, second = (int(part) for part in clock)
    try:  # a leap second is the second before it
        moment = datetime(int(year), MONTHS[month], int(day), hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        return None
    return moment.timestamp()


def _full_year(short_year: int, now: int) -> int:
    this_year = datetime.fromtimestamp(now, UTC).year if now else 2000
    year = this_year - this_year % 100 + short_year
    return year - 100 if year > this_year + 50 else year


def format_date(moment: float) -> bytes:
    """The IMF-fixdate form of `moment`, in epoch seconds."""
    return formatdate(moment, usegmt=True).encode()
