"""Memoization of pure functions of field values, bounded in number and in length.

Senders choose the values: a thousand long ones, and their results, would weigh many times the
memory that is meant for content. Long values are computed each time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Final, TypeVar, TypeVarTuple, cast

LONGEST: Final = 512  # bytes of a value that is remembered
SIZED: Final = frozenset((bytes, str))

Values = TypeVarTuple("Values")
R = TypeVar("R")


def memoize(most: int, longest: int = LONGEST) -> Callable[[Callable[[*Values], R]], Callable[[*Values], R]]:
    """Remember the last `most` results of a function of its positional arguments, but for those of long strings."""

    def decorate(function: Callable[[*Values], R]) -> Callable[[*Values], R]:
        known = lru_cache(maxsize=most)(function)

        def of_several(*values: *Values) -> R:
            for value in values:
                if type(value) in SIZED and len(value) > longest:  # type: ignore[arg-type]
                    return function(*values)
            return known(*values)

        def of_one(value: Any) -> R:
            unbounded: Any = function
            return unbounded(value) if type(value) in SIZED and len(value) > longest else known(value)

        result: Any = wraps(function)(of_one if function.__code__.co_argcount == 1 else of_several)
        result.info = known.cache_info
        result.forget = known.cache_clear
        return cast(Callable[[*Values], R], result)

    return decorate
