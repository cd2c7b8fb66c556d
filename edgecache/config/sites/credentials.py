"""The secrets of `[credentials]`, which lie in files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from edgecache.config.sites import model

ONE_LINE: Final = re.compile(r"[^\x00-\x1f\x7f]{1,8192}")


def secret_of(credentials: model.Credentials) -> str:
    """The secret in its file, without space around it; raises ValueError in words that end a sentence."""
    try:
        secret = Path(credentials.secret).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"names a file that cannot be read: {words}") from None  # it may be the secret itself
    if not ONE_LINE.fullmatch(secret):
        raise ValueError("names a file that does not hold one line of text")
    return secret
