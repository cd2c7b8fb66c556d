"""Results remembered by short arguments: `lru_cache`, but bounded in bytes too.

What peers send decides what is asked: a thousand remembered values of 32 KiB would be more than the memory that the
operator has allowed. Long ones are rare, and are worked out each time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Final, ParamSpec, TypeVar, cast

LONGEST: Final = 256  # bytes, or characters, of an argument that is remembered

SIZED: Final = frozenset((bytes, str))
P = ParamSpec("P")
R = TypeVar("R")


def memo(most: int, longest: int = LONGEST) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Remember up to `most` results of a pure function of positional arguments, unless one of them is longer."""

    def remembering(work: Callable[P, R]) -> Callable[P, R]:
        known = lru_cache(maxsize=most)(work)

        @wraps(work)
        def worked_out(*args: Any) -> R:
            for value in args:
                if type(value) in SIZED and len(value) > longest:
                    return cast(Callable[..., R], work)(*args)
            return known(*args)

        worked_out.cache_clear = known.cache_clear  # type: ignore[attr-defined]
        return cast(Callable[P, R], worked_out)

    return remembering
