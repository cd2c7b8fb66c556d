"""The secrets of `[credentials]`, which lie in files."""

from __future__ import annotations

import re
from typing import Final

ONE_LINE: Final = re.compile(r"[^\x00-\x1f\x7f]{1,8192}")


def secret_in(content: bytes) -> str:
    """The secret in the content of its file, without space around it; ValueError in words that end a sentence."""
    try:
        secret = content.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("names a file that is not UTF-8") from None
    if not ONE_LINE.fullmatch(secret):
        raise ValueError("names a file that does not hold one line of text")
    return secret
