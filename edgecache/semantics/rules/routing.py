"""The route of a request, by the policy of its site: pool, target and Host of the upstream request."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from edgecache.semantics import uri
from edgecache.semantics.message import Request
from edgecache.semantics.rules.actions import NO_EDITS, FieldEdits, Route
from edgecache.semantics.rules.policy import RequestPolicy

GROUP: Final = re.compile(rb"\$([0-9])")


class UpstreamRoute(NamedTuple):
    """The route of an upstream request: its pool, its target, its Host; empty: as the pool configures."""

    pool: str
    target: bytes
    host: bytes = b""
    edits: FieldEdits = NO_EDITS  # of its fields, but Host
    credentials: str = ""  # the name of those that it goes with; empty: the client's own


def route_of(request: Request) -> UpstreamRoute | None:
    """The route of `request`; None where no site has one."""
    policy: RequestPolicy | None = request.policy
    if policy is None:
        return None
    route = policy.actions.route
    pool, host = route.pool or policy.site.pool, (route.host or "").encode()
    target, edits = rewritten(route, request.target), policy.actions.request_fields
    return UpstreamRoute(pool, target, host, edits, route.credentials or "")


def rewritten(route: Route, target: bytes) -> bytes:
    """`target` as the origin gets it, in origin-form (RFC 9112 §3.2.1).

    What is rewritten is the path that rules match, with its dot segments removed: none leads out of a prefix. The query
    stays as it is, behind what the rewriting adds to it. A target that no action of the route concerns stays the same.
    """
    if route.strip_prefix is None and route.rewrite is None and route.add_prefix is None:
        return target
    if not target.startswith(b"/"):  # `*` of OPTIONS
        return target
    path, _, query = target.partition(b"?")
    path = before = uri.path_of(path)
    if route.strip_prefix is not None:
        path = without_prefix(path, route.strip_prefix)
    if route.rewrite is not None and (match := route.rewrite.expression.search(path)) is not None:
        path = path[: match.start()] + expanded(route.rewrite.to, match.groups()) + path[match.end() :]
    path, _, added = path.partition(b"?")
    if path != before:  # two slashes at its start would be read as an authority (RFC 3986 §4.2)
        path = b"/" + path.lstrip(b"/")
    if route.add_prefix is not None:
        path = route.add_prefix.rstrip(b"/") + path
    query = b"&".join([part for part in (added, query) if part])
    return path + b"?" + query if query else path


def without_prefix(path: bytes, prefix: bytes) -> bytes:
    """`path` less `prefix`, if that is its first segments: `/a` is no prefix of `/ab`."""
    prefix = prefix.rstrip(b"/")
    if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/"):
        return path[len(prefix) :]
    return path


def expanded(template: bytes, groups: tuple[bytes | None, ...]) -> bytes:
    """`template` with $1 … $9 replaced by groups of a match; one that took no part is empty."""

    def group(match: re.Match[bytes]) -> bytes:
        number = int(match[1])
        return (groups[number - 1] or b"") if 0 < number <= len(groups) else b""

    return GROUP.sub(group, template)
