"""A bound on tracebacks: a bug that every request meets is logged in full a few times, and then counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

IN_FULL: Final = 3  # tracebacks from one place in each `WINDOW`
WINDOW: Final = 60.0  # seconds
MOST_PLACES: Final = 256  # that are remembered


class TracebackLimit(logging.Filter):
    """Lets records without a traceback pass, and a few with one from each place.

    Of the others the 10th, the 100th and so on pass, on one line that says how many there were. Mutable state: since
    when each place is counted, and how often it has failed since.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._places: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log `record`; it may lose its traceback."""
        if not record.exc_info or (place := place_of(record.exc_info[1])) is None:
            return True
        now = self._clock()
        since, count = self._places.get(place, (now, 0))
        if now - since > WINDOW:
            since, count = now, 0
        if len(self._places) >= MOST_PLACES and place not in self._places:
            self._places.clear()
        self._places[place] = since, count + 1
        if count < IN_FULL:
            return True
        if not is_power_of_ten(count + 1):
            return False
        record.msg = f"{record.getMessage()} ({type(record.exc_info[1]).__name__}, {count + 1} times in a minute)"
        record.args, record.exc_info, record.exc_text = None, None, None
        return True


def place_of(error: BaseException | None) -> tuple[object, ...] | None:
    """Identity of a bug: exception type and the line that raised it."""
    if error is None:
        return None
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return (type(error), *((last.tb_frame.f_code, last.tb_lineno) if last is not None else ()))


def is_power_of_ten(number: int) -> bool:
    """Whether `number` is 1, 10, 100, …"""
    while number % 10 == 0:
        number //= 10
    return number == 1
