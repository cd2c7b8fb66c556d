"""The secrets of `[credentials]`, which lie in files, and the parameters of signed URLs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from edgecache.config.sites import model
from edgecache.semantics.signing.signing_dialects import parameters_of

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


def signature_parameters(sites: Iterable[model.Site]) -> frozenset[bytes]:
    """Query parameters that hold signatures, of these sites."""
    tables = (rule.access for site in sites for rule in site.rules if rule.access is not None)
    signed = (table.signed for table in tables if table.signed is not None)
    return frozenset(name.encode() for one in signed for name in parameters_of(one))
