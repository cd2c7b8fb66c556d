"""The rules of purges by themselves: patterns compared with Python's regular expressions, and who sees what."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config.settings import PurgeToken, load
from edgecache.invalidation import scopes
from edgecache.invalidation.ledger import visible_to
from edgecache.invalidation.purge_auth import Credentials, PurgeRefused, caller_of
from edgecache.invalidation.purge_dialects import purge_of_request
from edgecache.invalidation.purge_patterns import (
    EVERY_TARGET,
    PurgeTarget,
    Unsupported,
    alternatives_of_pattern,
    target_of_pattern,
)
from edgecache.semantics.cache_tags import BETWEEN_POPS, tags_of, with_tags
from edgecache.semantics.errors import ConfigError
from edgecache.semantics.message import NO_BODY, Fields, Request

PIECES = ["/", "a", "b", ".", "\\.", ".*", "(/.*)?", "(.*)", "^", "$", "\\?", "x=1", "[ab]", "|", "(a|b)", "+", "?"]
PATTERNS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
ENDS = st.lists(st.sampled_from(["/", "a", "b", ".", "?x=1", "c"]), max_size=6).map("".join)
TAGS = ["a", "b", "ab", "a_1"]
EDGES = [("(^|,)", "(,|$)"), ("", ""), ("^", "$"), ("(^|\\s)", "(\\s|$)")]


def covers(place: PurgeTarget, target: bytes) -> bool:
    """Whether a purge of `place` reaches `target`."""
    if not place.below:
        return target == place.target
    path, below = target.partition(b"?")[0], place.target.rstrip(b"/")
    return path == below or path.startswith(below + b"/")


@given(PATTERNS, ENDS)
def test_whatever_a_pattern_matches_is_purged(pattern: str, end: str) -> None:
    """A pattern that is understood purges all that it matches from the beginning of a target; others are refused."""
    try:
        place = target_of_pattern(pattern.encode())
    except Unsupported:
        return
    try:
        matches = re.match(pattern, f"/{end}") is not None
    except re.error:
        matches = False
    assert covers(place, f"/{end}".encode()) or not matches


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        (".*", EVERY_TARGET),
        ("^/.*$", EVERY_TARGET),
        ("(.*)", EVERY_TARGET),
        ("/blog/.*", PurgeTarget(b"/blog/", below=True)),
        ("^/blog/", PurgeTarget(b"/blog/", below=True)),
        ("^/blog(/.*)?$", PurgeTarget(b"/blog", below=True)),
        ("^/blog$", PurgeTarget(b"/blog", below=False)),
        ("/shop/a.*", PurgeTarget(b"/shop/", below=True)),
        ("/a\\?x=1.*", PurgeTarget(b"/a", below=True)),
        ("/", EVERY_TARGET),
    ],
)
def test_patterns_of_paths(pattern: str, place: PurgeTarget) -> None:
    """No more is purged than whole segments require."""
    assert target_of_pattern(pattern.encode()) == place


@pytest.mark.parametrize(
    "pattern", ["", "blog", "/(a|b)", "/.*\\.png", "/[a-z]/.*", "/a+", "/a{2}", "\\d", "/a(b", "*"]
)
def test_other_patterns_of_paths(pattern: str) -> None:
    """What is no prefix is refused."""
    with pytest.raises(Unsupported):
        target_of_pattern(pattern.encode())


@given(st.lists(st.sampled_from(TAGS), min_size=1, max_size=4), st.sampled_from(EDGES), st.booleans(), st.booleans())
def test_alternatives_of_tags(tags: list[str], edges: tuple[str, str], each: bool, grouped: bool) -> None:
    """Every way in which alternatives are written names exactly the tags."""
    before, after = edges
    one = "|".join(f"({before}{tag}{after})" if grouped else before + tag + after for tag in tags)
    pattern = one if each else f"{before}({'|'.join(tags)}){after}"
    assert alternatives_of_pattern(pattern.encode()) == [tag.encode() for tag in tags]


@pytest.mark.parametrize("pattern", ["a.*", "a(b|c)d", "[ab]", "(a", "a)", "a)(b", "a?", "(a|b)+", "\\w", "(?i)a"])
def test_other_patterns_of_tags(pattern: str) -> None:
    """What is no list of alternatives is refused."""
    with pytest.raises(Unsupported):
        alternatives_of_pattern(pattern.encode())


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_any_pattern_is_understood_or_refused(text: str) -> None:
    """Whatever is sent, nothing else is raised."""
    for read in (target_of_pattern, alternatives_of_pattern):
        try:
            read(text.encode("latin-1"))
        except Unsupported:
            continue


@given(st.binary(max_size=60), st.one_of(st.none(), st.binary(max_size=40)))
def test_any_credentials_are_right_or_refused(authorization: bytes, key: bytes | None) -> None:
    """Whatever is sent as a secret, nothing but the secret is taken for it."""
    with pytest.raises(PurgeRefused):
        caller_of([PurgeToken("cms", "a" * 64)], Credentials(authorization, key))


def test_a_ledger_shows_a_site_its_own_alone() -> None:
    """URLs, paths, hosts and tags of its hosts, by whatever port; nothing that names other sites too."""
    shop = PurgeToken("shop", "x" * 16, ("shop.test", "www.shop.test"))
    own = (
        scopes.url(b"https://shop.test/a"),
        scopes.url(b"http://shop.test:8443/a"),
        scopes.prefix(b"www.shop.test", b"/a"),
        scopes.site(b"shop.test"),
        scopes.site(b"shop.test:8080"),
        scopes.site_tag(b"shop.test", b"a"),
    )
    others = (
        scopes.url(b"https://other.test/shop.test/"),
        scopes.prefix(b"notshop.test", b"/a"),
        scopes.site(b"shop.test.evil"),
        scopes.site_tag(b"other.test", b"shop.test"),
        scopes.tag(b"shop.test"),
        scopes.EVERYTHING,
    )
    assert visible_to(shop, own + others) == own
    assert visible_to(PurgeToken("admin", "x" * 16), own + others) == own + others


def test_tags_of_further_fields_join_the_others() -> None:
    """By commas and blanks, beside Surrogate-Key and what a parent tells."""
    fields = Fields([(b"X-Tags", b"a,b c"), (b"Surrogate-Key", b"d"), (BETWEEN_POPS, b"e")])
    assert tags_of(with_tags(fields, frozenset((b"x-tags", b"x-more")))) == (b"d", b"e", b"a", b"b", b"c")
    assert with_tags(fields, frozenset((b"x-more",))) is fields


@pytest.mark.parametrize(
    "name", ["Set-Cookie", "cache-control", "a b", "Content-Type", "edgecache-tags", "Vary", "x:y"]
)
def test_fields_that_mean_something_else_bear_no_tags(name: str) -> None:
    """They would be hidden from clients."""
    with pytest.raises(ConfigError, match="EDGECACHE_TAG_FIELD_NAMES"):
        load({"EDGECACHE_ORIGIN": "http://origin.test", "EDGECACHE_TAG_FIELD_NAMES": name})


NAMES = [
    "X-Purge-Method",
    "Surrogate-Key",
    "xkey-softpurge",
    "Cache-Tag",
    "X-Magento-Tags-Pattern",
    "X-Tags",
    "X-Host",
    "X-Url",
]
VALUES = [
    "regex",
    "exact",
    "a",
    "a b",
    "(^|,)a(,|$)",
    ".*",
    "",
    "/a/.*",
    "^(a\\.test)$",
    "[::1]:80",
    "a.test",
    "*",
    "\\",
    "é",
]
ENDINGS = ["", "/", "a", "*", ".*", "?", "%2F", "(", "//", "..", "purgeall", "\\"]


@given(
    st.sampled_from(["PURGE", "BAN", "PURGEKEYS"]),
    st.lists(st.sampled_from(ENDINGS), max_size=4).map("".join),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=4, unique_by=lambda field: field[0]),
    st.sampled_from([(), ("a.test",), ("b.test",)]),
)
def test_any_purge_is_done_or_refused(
    method: str, end: str, fields: list[tuple[str, str]], hosts: tuple[str, ...]
) -> None:
    """Whatever is sent names scopes, of the caller's sites alone, or is refused with a status and one line."""
    lines = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    request = Request(method.encode(), f"/{end}".encode(), b"a.test", Fields(lines), NO_BODY, scheme=b"http")
    caller = PurgeToken("cms", "x" * 16, hosts)
    try:
        named, _ = purge_of_request(request, caller, frozenset((b"x-tags",)))
    except PurgeRefused as refused:
        outcome: tuple[int, str] | None = (refused.status, str(refused))
    else:
        outcome = None
        assert named
        assert all(scopes.is_scope(scope) for scope in named)
        assert visible_to(caller, named) == named
    assert outcome is None or (outcome[0] in (400, 403) and "\n" not in outcome[1])
