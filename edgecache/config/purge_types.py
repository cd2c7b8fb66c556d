"""Types of settings about purges: tokens, and names of tag fields."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecache.config.addresses import host_names
from edgecache.config.types import SHORTEST_SECRET, SettingType, token

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_FIELD_NAME = re.compile(  # none that means something else to clients or caches
    r"(?!(?:age|allow|connection|date|etag|expires|host|last-modified|link|location|pragma|set-cookie|trailer|vary|via)\Z"
    r"|(?:accept|access|cache-control|cdn-cache-control|cdn-loop|content|edgecache|proxy|retry|sec|strict|transfer|www)-?)[a-z0-9-]{1,64}",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class PurgeToken:
    """A purge token: its name in the log, and the hosts that it is limited to (none: unlimited)."""

    name: str
    secret: str
    hosts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<PurgeToken {self.name}>"

    @property
    def is_limited(self) -> bool:
        """Whether it is limited to hosts."""
        return bool(self.hosts)

    @property
    def wildcards(self) -> tuple[str, ...]:
        """None: its hosts are names."""
        return ()

    def owns(self, host: str) -> bool:
        """Whether it may purge `host`, which has no port."""
        return not self.hosts or host in self.hosts


def purge_tokens(text: str) -> tuple[PurgeToken, ...]:
    """Purge tokens, out of `cms=SECRET,shop@shop.example|www.shop.example=SECRET`. Errors quote no secret."""
    found: list[PurgeToken] = []
    for member in (part.strip() for part in text.split(",") if part.strip()):
        who, equals, secret = member.partition("=")
        name, _, hosts = who.partition("@")
        if not equals or not _NAME.fullmatch(name.strip()):
            raise ValueError("is not a list of name=secret or name@host|host=secret")
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(f"has for {name} a secret of less than {SHORTEST_SECRET} characters")
        found.append(PurgeToken(name.strip(), token(secret), host_names(hosts.replace("|", ","))))
    if len({one.name for one in found}) != len(found) or len({one.secret for one in found}) != len(found):
        raise ValueError("has two tokens of the same name or secret")
    return tuple(found)


def field_names(text: str) -> tuple[str, ...]:
    """Names of fields that may bear tags, in lower case."""
    found = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    for name in found:
        if not _FIELD_NAME.fullmatch(name):
            raise ValueError(f"holds {name}, which is not a field that can carry tags")
    return found


FIELD_NAMES = SettingType("list of names", field_names, "X-Magento-Tags,X-Cache-Tags")
PURGE_TOKENS = SettingType(
    "list of name=secret", purge_tokens, "cms=SECRET-OF-THE-CMS,shop@shop.example=SECRET-OF-THE-SHOP"
)
