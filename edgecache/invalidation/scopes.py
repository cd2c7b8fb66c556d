"""What an invalidation names, and by which names an object can be named. Pure.

A scope is bytes: one letter for its kind, then its value. It is recorded as it was spelt, and compared in the one form
that `canonical` gives it (`uri.py`): a URL, path or site by each of its spellings, under any scheme and port.

    u  scheme://host/path?query      one URL, with all its variants; scheme and port mean nothing
    t  tag                           every object that bears the tag
    g  host NUL tag                  every object of one site that bears it (RFC 9875 §3: a group is of one origin)
    p  host/path                     every object at or below a path: `/a` names `/a`, `/a/`, `/a/b`, `/a?b`, not `/ab`
    s  host                          every object of one site

A host may be the wildcard of a site, as *.example.org: it names what was stored for a host that this wildcard covered.
    *                                everything
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from edgecache.semantics import uri
from edgecache.semantics.cache_tags import MARK
from edgecache.semantics.memoize import memoize

EVERYTHING: Final = b"*"
LONGEST_SCOPE: Final = 65536  # bytes
LONGEST_TARGET: Final = LONGEST_SCOPE - 512  # of what is stored, so that it can be named: bytes
TAGS: Final = (b"t", b"g")  # the kinds of scopes that a response bears many of


class Subject(NamedTuple):
    """A stored response as the rules see it: the key of its requested URL, and its tags."""

    key: bytes  # as `primary_key` makes it: scheme://host + target
    tags: tuple[bytes, ...] = ()
    alias: bytes = b""  # the key under which it lies where No-Vary-Search has merged several; empty: the same


def url(key: bytes) -> bytes:
    """The scope of one URL, by its cache key."""
    return b"u" + key


def tag(name: bytes) -> bytes:
    """The scope of a tag, on every site."""
    return b"t" + name


def site_tag(host: bytes, name: bytes) -> bytes:
    """The scope of a tag on one site."""
    return b"g" + host + b"\0" + name


def prefix(host: bytes, path: bytes) -> bytes:
    """The scope of a path of a site and all below it, of whole segments; ValueError unless it begins with "/"."""
    if not path.startswith(b"/") or b"?" in path:
        raise ValueError("a path prefix begins with / and has no query")
    path = path.rstrip(b"/")
    return b"p" + host + path if path else site(host)


def site(host: bytes) -> bytes:
    """The scope of all objects of one site, by whatever port."""
    return b"s" + host


@memoize(4096)
def canonical(scope: bytes) -> bytes:
    """Canonical form of `scope`."""
    canonical_form = CANONICAL_FORMS.get(scope[:1])
    return scope if canonical_form is None else canonical_form(scope[1:])


def _canonical_prefix(value: bytes) -> bytes:
    path = uri.normalised(value).partition(b"?")[0].rstrip(b"/")
    return (b"p" if b"/" in path else b"s") + path


def _canonical_site_tag(value: bytes) -> bytes:
    host, mark, name = value.partition(b"\0")
    return b"g" + uri.host_of(host) + mark + name


CANONICAL_FORMS: Final[Mapping[bytes, Callable[[bytes], bytes]]] = {  # by kind; all others are canonical as they are
    b"u": lambda key: b"u" + uri.normalised(key),
    b"p": _canonical_prefix,
    b"s": lambda host: b"s" + uri.host_of(host),
    b"g": _canonical_site_tag,
}


def is_scope(scope: bytes) -> bool:
    """Whether `scope` is one that this version knows."""
    if scope == EVERYTHING:
        return True
    return len(scope) > 1 and fits(scope) and scope[:1] in b"utgps" and (scope[:1] != b"g" or b"\0" in scope)


def fits(scope: bytes) -> bool:
    """Whether `scope` is short enough for the log; a longer one, in its canonical form, names nothing stored."""
    return len(scope) <= LONGEST_SCOPE


def shortened(scope: bytes) -> bytes:
    """A scope that is too long in its canonical form, which may fit."""
    return scope if fits(scope) else canonical(scope)


def depth(prefix: bytes) -> int:
    """How many segments a scope made by `prefix` has."""
    return prefix.count(b"/")


def host_of(scope: bytes) -> bytes:
    """The host that a canonical scope is limited to; empty if none."""
    kind, value = scope[:1], scope[1:]
    if kind not in (b"u", b"g", b"p", b"s"):
        return b""
    return value.partition(b"\0")[0].partition(b"?")[0].partition(b"/")[0]


def whole_site(scope: bytes) -> bytes:
    """The scope of all objects of the site that `scope` is of; everything, if it is of none."""
    host = host_of(canonical(scope))
    return site(host) if host else EVERYTHING


class ScopeKinds:
    """Which kinds of scopes there are, so that others need not be looked up. Mutable state: how many of each."""

    def __init__(self) -> None:
        self.deepest = 0  # segments of the deepest path prefix
        self.tagged = 0  # scopes of tags
        self._depths: Counter[int] = Counter()  # how many path prefixes there are of each depth

    def add(self, scope: bytes) -> None:
        """Count one more scope of its kind."""
        kind = scope[:1]
        if kind == b"p":
            self._depths[depth(scope)] += 1
            self.deepest = max(self._depths)
        elif kind in TAGS:
            self.tagged += 1

    def remove(self, scope: bytes) -> None:
        """Count one less."""
        kind = scope[:1]
        if kind == b"p":
            segments = depth(scope)
            self._depths[segments] -= 1
            if not self._depths[segments]:
                del self._depths[segments]
                self.deepest = max(self._depths, default=0)
        elif kind in TAGS:
            self.tagged -= 1


def naming_wildcards(subject: Subject, current: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Each wildcard that `subject` was stored under, and the `current` one, with the scopes that name it by that.

    The current one, if any, is that of its host by the sites of now, which may have changed since it was stored.
    """
    marks = [tag[1:] for tag in subject.tags if tag[:1] == MARK]
    for host in (*marks, current) if current and current not in marks else marks:
        yield host, [b"s" + host, *(b"g" + host + b"\0" + tag for tag in subject.tags if tag[:1] != MARK)]


def naming(subject: Subject, host: bytes, deepest: int) -> list[bytes]:
    """Every canonical scope that names `subject`, at `host`, but for path prefixes of more than `deepest` segments."""
    key, tags, alias = subject
    name = uri.normalised(key)
    names = [b"u" + name, b"s" + host, EVERYTHING]
    if alias and alias != key:
        names.append(b"u" + uri.normalised(alias))
    if tags:
        names += [b"t" + tag for tag in tags]
        names += [b"g" + host + b"\0" + tag for tag in tags]
    if deepest:
        names += _prefixes(name, len(host), deepest)
        if (dotted := uri.normalised_with_dots(key)) != name:  # the origin may or may not remove dot segments
            names += _prefixes(dotted, len(host), deepest)
    return names


def _prefixes(name: bytes, host_length: int, deepest: int) -> Iterator[bytes]:
    path = name.partition(b"?")[0]
    end = path.find(b"/", host_length + 1)
    while end != -1 and deepest:
        yield b"p" + path[:end]
        deepest -= 1
        end = path.find(b"/", end + 1)
    if deepest and not path.endswith(b"/"):
        yield b"p" + path
