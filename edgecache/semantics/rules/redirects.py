"""The Location of a redirect (RFC 9110 §10.2.2): a template with variables of the request. Pure.

    $scheme $host    of the request; the host without its port
    $path            as received, beginning with one slash
    $query           with its question mark; empty where there is none
    $1 … $9          the groups of the rule's `path_regex`

Nothing that a client sends becomes the host of a Location: before the path, only $scheme and $host may stand. A path
that begins with `//` or `/\\` would be read as a host (RFC 3986 §4.2; WHATWG URL §4.4): it gets one slash.
"""

from __future__ import annotations

import re
from typing import Final

from edgecache.semantics.rules.actions import Redirect
from edgecache.semantics.rules.conditions import RequestFacts

VARIABLE: Final = re.compile(r"\$([0-9]|[a-z]+|)")
NAMES: Final = ("scheme", "host", "path", "query")
START: Final = re.compile(r"(?:(?:https?|\$scheme)://(?:\$host|[0-9A-Za-z.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)?")
AFTER_HOST: Final = ("/", "?", "#", "$path", "$query")
UNSAFE: Final = re.compile(rb"[^!#-;=?-\[\]_a-z~]")  # not a character of a URI (RFC 3986 §2)
SLASHES: Final = re.compile(rb"[/\\]+")


def mistake_in(to: str, groups: int | None) -> str | None:
    """What is wrong with a template; `groups` is the number that `path_regex` has, None without one."""
    for name in VARIABLE.findall(to):
        if name.isdigit():
            if groups is None:
                return f"${name} needs a path_regex in the rule's when"
            if not 0 < int(name) <= groups:
                return f"${name} is no group of path_regex, which has {groups}"
        elif name not in NAMES:
            return f"${name} is no variable: $scheme, $host, $path, $query and $1 … $9 are"
    if re.search(r"[^!-~]", to):
        return "may hold visible ASCII characters only"
    start = START.match(to)
    assert start is not None, "the expression matches the empty text too"
    rest = to[start.end() :]
    fine = (not rest or rest.startswith(AFTER_HOST)) if start[0] else rest.startswith(("/", "$path"))
    return None if fine else "must begin with a path, or with http(s):// and a host that holds no variable but $host"


def location_of(redirect: Redirect, facts: RequestFacts) -> bytes:
    """The Location of the response to a request."""
    target = facts.request.received_target
    path, mark, query = target.partition(b"?")
    values = {
        "scheme": facts.request.scheme,
        "host": facts.host,
        "path": _absolute(path),
        "query": mark + query,
    }
    match = None if redirect.captures is None else redirect.captures.search(facts.path)
    groups = () if match is None else match.groups()
    values |= {str(number): group or b"" for number, group in enumerate(groups[:9], 1)}
    found = [values.get(part, b"") if at % 2 else part.encode() for at, part in enumerate(VARIABLE.split(redirect.to))]
    location = UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], b"".join(found))
    return _absolute(location) if redirect.to.startswith(("/", "$path")) else location


def is_itself(location: bytes, facts: RequestFacts) -> bool:
    """Whether a Location is the URL of the request: to be sent there is a loop."""
    request = facts.request
    target = request.received_target
    return location in (target, b"%b://%b%b" % (request.scheme, request.host, target))


def _absolute(path: bytes) -> bytes:
    """`path` as one that begins with exactly one slash."""
    return b"/" + SLASHES.sub(b"", path, count=1) if SLASHES.match(path) else b"/" + path
