"""Memoization of pure functions of field values, bounded in number and in length.

Senders choose the values: a thousand long ones, and their results, would weigh many times the
memory that is meant for content. Long values are computed each time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Final, TypeVar, TypeVarTuple

LONGEST: Final = 512  # bytes of a value that is remembered
SIZED: Final = frozenset((bytes, str))

Values = TypeVarTuple("Values")
R = TypeVar("R")


def memoize(most: int, longest: int = LONGEST) -> Callable[[Callable[[*Values], R]], Callable[[*Values], R]]:
    """Remember the last `most` results of a function of its positional arguments, but for those of long strings."""

    def decorate(function: Callable[[*Values], R]) -> Callable[[*Values], R]:
        known = lru_cache(maxsize=most)(function)

        @wraps(function)
        def result(*values: *Values) -> R:
            for value in values:
                if type(value) in SIZED and len(value) > longest:  # type: ignore[arg-type]
                    return function(*values)
            return known(*values)

        result.info = known.cache_info  # type: ignore[attr-defined]
        result.forget = known.cache_clear  # type: ignore[attr-defined]
        return result

    return decorate
