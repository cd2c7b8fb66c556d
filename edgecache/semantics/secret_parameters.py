"""Query parameters that hold secrets, as logs and pages show them, and URLs without them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

Redact = Callable[[bytes], bytes]
SEPARATORS: Final = re.compile(rb"([?&;]|#(?=[^&;#]))")  # a # alone is what stands for a value already
HIDDEN: Final = b"=#"  # no target that is received has a #


def redacting(names: Iterable[bytes]) -> Redact | None:
    """What hides the values of parameters of these names, in whatever spelling, in URLs; None if there are none.

    It is for what is refused too: a link with a name in capitals, or escaped, holds a secret that is good elsewhere.
    """
    hidden = frozenset(name.lower() for name in names)
    if not hidden:
        return None
    longest = max(map(len, hidden))

    def redact(url: bytes) -> bytes:
        if b"=" not in url:
            return url
        parts = SEPARATORS.split(url)
        return b"".join([_hidden(part, hidden, longest) for part in parts])

    return redact


def _hidden(part: bytes, hidden: frozenset[bytes], longest: int) -> bytes:
    name, mark, _ = part.partition(b"=")
    if not mark or len(name) > 9 * longest:  # each byte may be escaped twice, as %2541
        return part
    plain = name
    for _ in range(2 if b"%" in name else 0):
        plain = unquote_to_bytes(plain)
    return name + HIDDEN if plain.strip().lower() in hidden else part


def without_parameters(target: bytes, names: frozenset[bytes]) -> bytes:
    """`target`, or a URL, less these parameters as they are spelt, and less its question mark if no other is left."""
    path, mark, query = target.partition(b"?")
    if not mark or not names:
        return target
    kept = [part for part in query.split(b"&") if part.partition(b"=")[0] not in names]
    return path + b"?" + b"&".join(kept) if kept else path
