"""What an invalidation names: URLs, tags, path prefixes, sites."""

from __future__ import annotations

import pytest
from harness.often import examples
from hypothesis import given
from hypothesis import strategies as st

from edgecache.invalidation import scopes
from edgecache.invalidation.scopes import Subject
from edgecache.semantics import uri


def named_by(scope: bytes, key: bytes, *tags: bytes) -> bool:
    """Whether `scope` names the object."""
    scope = scopes.canonical(scope)
    return scope in scopes.naming(
        Subject(key, tags), uri.site_of(key), scopes.depth(scope) if scope.startswith(b"p") else 0
    )


@pytest.mark.parametrize(
    ("path", "yes", "no"),
    [
        (
            b"/img",
            [b"/img", b"/img/", b"/img/a", b"/img/a/b?x", b"/img?q", b"/img?a/b"],
            [b"/images", b"/im", b"/", b"/a/img"],
        ),
        (b"/img/", [b"/img", b"/img/a"], [b"/imga"]),
        (b"/a/b", [b"/a/b", b"/a/b/", b"/a/b/c/d"], [b"/a", b"/a/", b"/a/bc", b"/a?/b"]),
        (b"//x", [b"//x", b"//x/y"], [b"/x", b"/x/y"]),
        (b"/", [b"/", b"/a", b"/a/b?c"], []),
    ],
)
def test_a_prefix_names_whole_segments(path: bytes, yes: list[bytes], no: list[bytes]) -> None:
    """A path and what lies below it, and no path that only begins with the same letters."""
    scope = scopes.prefix(b"a", path)

    assert [target for target in yes if not named_by(scope, b"http://a" + target)] == []
    assert [target for target in no if named_by(scope, b"http://a" + target)] == []
    assert not named_by(scope, b"http://b" + yes[0])
    assert named_by(scope, b"https://a" + yes[0])


PATHS = st.text("ab/?", max_size=12).map(lambda text: b"/" + text.encode())


@examples(400)
@given(PATHS, PATHS)
def test_a_prefix_is_what_a_comparison_of_segments_says(prefix: bytes, target: bytes) -> None:
    """The look-up finds what walking the segments would."""
    prefix = prefix.partition(b"?")[0]
    wanted = prefix.rstrip(b"/")
    path = target.partition(b"?")[0]
    below = path == wanted or path.startswith(wanted + b"/")

    assert named_by(scopes.prefix(b"a", prefix), b"http://a" + target) == below


def test_the_cost_of_prefixes_is_bounded_by_the_deepest_one_and_by_the_path() -> None:
    """A path of thousands of segments is not looked up deeper than any prefix goes."""
    deep = Subject(b"http://a" + b"/x" * 4000)

    assert len(scopes.naming(deep, b"a", 0)) == 3
    assert len(scopes.naming(deep, b"a", 2)) == 5
    assert len(scopes.naming(Subject(b"http://a/x"), b"a", 4000)) == 4


@pytest.mark.parametrize("path", [b"", b"a", b"/a?b"])
def test_what_is_no_path_is_no_prefix(path: bytes) -> None:
    """A prefix begins with a slash and has no query."""
    with pytest.raises(ValueError, match="path prefix"):
        scopes.prefix(b"a", path)


def test_tags_name_everywhere_or_on_one_site() -> None:
    """A tag names what bears it on all sites; a group of RFC 9875 only what is of its own."""
    key = b"http://a:8/x"

    assert named_by(scopes.tag(b"t"), key, b"s", b"t")
    assert named_by(scopes.site_tag(b"a:8", b"t"), key, b"t")
    assert named_by(scopes.site_tag(b"a", b"t"), key, b"t")
    assert not named_by(scopes.site_tag(b"b", b"t"), key, b"t")
    assert not named_by(scopes.tag(b"t"), key)
    assert not named_by(scopes.tag(b"t"), key, b"T")


def test_urls_sites_and_everything_name() -> None:
    """A URL is named by its key, its site, and by everything."""
    key = b"https://a/x?y"

    assert all(named_by(scope, key) for scope in (scopes.url(key), scopes.site(b"a"), scopes.EVERYTHING))
    assert not any(named_by(scope, key) for scope in (scopes.url(b"https://a/x"), scopes.site(b"b")))


@pytest.mark.parametrize("scope", [b"", b"u", b"x1", b"**", b"gab", b"u" * 70000])
def test_what_is_no_scope_is_known(scope: bytes) -> None:
    """Unknown kinds, empty values and values without bound are not scopes."""
    assert not scopes.is_scope(scope)


def test_every_scope_that_is_made_is_one() -> None:
    """What the constructors make is recognised."""
    made = [
        scopes.url(b"k"),
        scopes.tag(b"t"),
        scopes.site_tag(b"a", b"t"),
        scopes.prefix(b"a", b"/x"),
        scopes.site(b"a"),
    ]

    assert all(scopes.is_scope(scope) for scope in (*made, scopes.EVERYTHING))
