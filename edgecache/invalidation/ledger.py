"""Entries of the ledger of purges and writes, and their visibility to callers. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from edgecache.invalidation.purge_auth import Caller
from edgecache.semantics import uri
from edgecache.semantics.secret_parameters import Redact

KINDS: Final = {b"u": "url ", b"t": "tag ", b"g": "tag of ", b"p": "prefix ", b"s": "host ", b"*": "everything"}


def display_name(scope: bytes, redact: Redact | None = None) -> str:
    """A scope in readable form; `redact` hides secrets in URLs."""
    if redact is not None and scope[:1] == b"u":
        scope = redact(scope)
    return KINDS.get(scope[:1], "?") + scope[1:].replace(b"\0", b": ").decode("utf-8", "replace")


def visible_to(caller: Caller, named: Iterable[bytes]) -> tuple[bytes, ...]:
    """Those of an entry's scopes that are of the caller's own sites alone; all, if it has no limits."""
    if not caller.is_limited:
        return tuple(named)
    return tuple(scope for scope in named if caller.owns(_host_in(scope).decode("latin-1")))


def names_only_other_sites(sites: Collection[str], named: Iterable[bytes]) -> bool:
    """Whether all that is named is of hosts, and none of these is one of `sites`; never if there are no `sites`."""
    hosts = {_host_in(scope).decode("latin-1") for scope in named}
    return bool(sites) and "" not in hosts and not any(host[:1] == "*" for host in hosts) and hosts.isdisjoint(sites)


def _host_in(scope: bytes) -> bytes:
    """The host that a scope is limited to; empty if it names things of several."""
    kind, value = scope[:1], scope[1:]
    match kind:
        case b"u":
            return uri.site_of(value)
        case b"p" | b"s" | b"g":
            return uri.host_of(value.partition(b"\0")[0].partition(b"/")[0])
    return b""
