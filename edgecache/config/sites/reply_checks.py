"""Mistakes in what rules answer and in the fields that they change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Final

from edgecache.config.sites.model import Compress, Cors, FieldEdits, Redirect, Respond, Rule
from edgecache.config.sites.positions import Path, Problem
from edgecache.semantics.rules.redirects import mistake_in

OF_CONNECTIONS: Final = frozenset(  # RFC 9110 §7.6.1, RFC 9112 §6: what frames a message is not a rule's to change
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"]
)
OF_CONTENT: Final = frozenset(("content-encoding", "content-range"))  # they would not be true of the content
OF_REQUESTS: Final = frozenset(  # made by the cache, which reads the response accordingly
    ["expect", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range"]
)
LIBRARIES: Final = {"gzip": ("isal",), "zstd": ("compression.zstd", "backports.zstd"), "br": ("brotli",)}
WITHOUT_CONTENT: Final = (204, 205, 304)


def in_answers(rule: Rule, path: Path) -> Iterator[Problem]:
    """All mistakes in a rule's redirect, response, fields and CORS."""
    if rule.redirect is not None:
        yield from _of_redirect(rule.redirect, rule, (*path, "redirect"))
    if rule.respond is not None:
        yield from _of_response(rule.respond, (*path, "respond"))
    if rule.request_headers is not None:
        yield from _of_edits(rule.request_headers, OF_REQUESTS, (*path, "request_headers"))
    if rule.response_headers is not None:
        yield from _of_edits(rule.response_headers, OF_CONTENT, (*path, "response_headers"))
    if isinstance(rule.compress, Compress):
        yield from _of_compression(rule.compress, (*path, "compress"))
    if rule.cors is not None:
        yield from _of_cors(rule.cors, (*path, "cors"))


def _of_redirect(redirect: Redirect, rule: Rule, path: Path) -> Iterator[Problem]:
    captures = rule.when.path_regex
    words = mistake_in(redirect.to, None if captures is None else captures.compiled.groups)
    if words is not None:
        yield Problem((*path, "to"), words)


def _of_response(respond: Respond, path: Path) -> Iterator[Problem]:
    if respond.body and respond.status in WITHOUT_CONTENT:
        yield Problem((*path, "body"), f"a response with status {respond.status} has no content")
    yield from _forbidden(respond.headers, OF_CONNECTIONS | OF_CONTENT, (*path, "headers"))


def _of_edits(edits: FieldEdits, more: frozenset[str], path: Path) -> Iterator[Problem]:
    for key in ("remove", "set", "add"):
        forbidden = OF_CONNECTIONS | more | (frozenset(("host",)) if "request_headers" in path else frozenset())
        yield from _forbidden(getattr(edits, key), forbidden, (*path, key))


def _forbidden(names: Iterable[str], forbidden: frozenset[str], path: Path) -> Iterator[Problem]:
    for number, name in enumerate(names):
        place = (*path, number if isinstance(names, tuple) else name)
        lower = name.lower()
        if lower == "host" and lower in forbidden:
            yield Problem(place, "is set by route.host")
        elif lower in forbidden or lower.startswith("edgecache-"):
            yield Problem(place, f"{name} is set by the server, and rules cannot change it")


def _of_cors(cors: Cors, path: Path) -> Iterator[Problem]:
    if not cors.credentials:
        return
    for key in ("origins", "methods", "headers", "expose"):  # Fetch §3.2.5: with credentials, * is no wildcard
        if "*" in getattr(cors, key):
            yield Problem((*path, key), '"*" cannot be combined with credentials: list the origins')


def _of_compression(compress: Compress, path: Path) -> Iterator[Problem]:
    for coding in compress.codings:
        if not any(is_installed(name) for name in LIBRARIES[coding]):
            words = f"{coding} needs a library that is not installed: pip install edgecache[compression]"
            yield Problem((*path, "codings"), words)
    if len(set(compress.codings)) < len(compress.codings):
        yield Problem((*path, "codings"), "names a coding twice")


def is_installed(name: str) -> bool:
    """Whether there is a module of that name."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False
