"""Ignored query parameters: left out of the cache key and of the upstream request.

They are left out of both because a stored response must not depend on what its key omits. Uncacheable requests are
forwarded unchanged. Parameters match by their decoded names; the others keep their spelling and order. Pure.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from edgecache.semantics.cache_key import MOST_PARAMETERS, parameter_name
from edgecache.semantics.client_claims import is_never_cached
from edgecache.semantics.message import Request
from edgecache.semantics.rfc9111 import pass_reason

TRACKING: Final = tuple(  # campaign parameters of mails, advertisers and social networks
    name.decode()
    for name in b"utm_* mtm_* pk_* piwik_* matomo_* hsa_* fbclid gclid gclsrc dclid gbraid wbraid gad_source "
    b"gad_campaignid srsltid msclkid yclid ymclid twclid ttclid li_fat_id igshid igsh ScCid epik rdt_cid s_kwcid ef_id "
    b"mc_cid mc_eid mkt_tok _ga _gl _hsenc _hsmi __hssc __hstc __hsfp hsCtaTracking _openstat _kx vero_id vero_conv "
    b"oly_enc_id oly_anon_id wickedid rb_clickid".split()
)
PATTERN: Final = re.compile(r"[A-Za-z0-9_.~:$\[\]-]+\*?", re.ASCII)


class IgnoredParameters(NamedTuple):
    """Ignored query parameters, by name and by prefix."""

    names: frozenset[str]
    prefixes: tuple[str, ...] = ()

    def without(self, target: bytes) -> bytes:
        """`target`, or any key or URL, less these parameters, and less its question mark if no other is left."""
        path, mark, query = target.partition(b"?")
        parts = query.split(b"&", MOST_PARAMETERS)
        if not mark or len(parts) > MOST_PARAMETERS:
            return target
        kept = [part for part in parts if not self._is_ignored(parameter_name(part))]
        if len(kept) == len(parts):
            return target
        return path + b"?" + b"&".join(kept) if kept else path

    def _is_ignored(self, name: str) -> bool:
        return name in self.names or name.startswith(self.prefixes)

    def request(self, request: Request) -> Request:
        """`request` less these parameters, if its answer may be stored, or come from store."""
        if b"?" not in request.target or not is_never_cached(request) or pass_reason(request) is not None:
            return request
        target = self.without(request.target)
        return request if target == request.target else request._replace(target=target, written=request.target)


def ignored_of(patterns: tuple[str, ...]) -> IgnoredParameters | None:
    """What `EDGECACHE_IGNORED_PARAMETERS` names; None if that is nothing."""
    if not patterns:
        return None
    prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    return IgnoredParameters(frozenset(pattern for pattern in patterns if not pattern.endswith("*")), prefixes)


def ignored_parameters(text: str) -> tuple[str, ...]:
    """Names of parameters out of a comma list; `name*` is all that begin so, `tracking` the usual ones."""
    found: list[str] = []
    for member in (part.strip() for part in text.split(",") if part.strip()):
        if not PATTERN.fullmatch(member):
            raise ValueError(f"holds {member}, which is not a parameter's name or name*")
        found += TRACKING if member == "tracking" else (member,)
    return tuple(dict.fromkeys(found))
