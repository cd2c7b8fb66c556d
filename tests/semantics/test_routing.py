"""The target of a request upstream: prefixes and rewriting, of every spelling of a path."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config.sites.compiler import compiled
from edgecache.config.sites.parser import parsed
from edgecache.semantics.rules.actions import Route
from edgecache.semantics.rules.routing import rewritten
from edgecache.semantics.stored_response import Policy

ORIGIN_FORM = re.compile(rb"/[!-\"$->@-~]*(\?[!-\"$-~]*)?")  # RFC 9112 §3.2.1, without what would end a request line


def route(text: str) -> Route:
    """The route that a rule with this table has."""
    site = f'[[sites]]\nname = "a"\nhosts = ["a"]\norigin = "http://x"\n[[sites.rules]]\nname = "r"\nroute = {text}\n'
    (made,) = compiled(parsed(site), Policy()).all
    return made.rules[0].actions.route


STRIP = '{ strip_prefix = "/api" }'
ADD = '{ add_prefix = "/bucket/" }'
BOTH = '{ strip_prefix = "/api", add_prefix = "v2" }'
PHP = "{ rewrite = '^/p/([0-9]+)$', to = '/index.php?p=$1' }"


@pytest.mark.parametrize(
    ("table", "target", "wanted"),
    [
        (STRIP, "/api/x", "/x"),
        (STRIP, "/api/x?a=b%2f", "/x?a=b%2f"),
        (STRIP, "/api", "/"),
        (STRIP, "/api/", "/"),
        (STRIP, "/api?x", "/?x"),
        (STRIP, "/apiary", "/apiary"),
        (STRIP, "/api//x", "/x"),  # not //x, which is an authority to some
        (STRIP, "//api/x", "//api/x"),
        (STRIP, "/%61pi/x", "/x"),
        (STRIP, "/api/../api/x", "/x"),
        (STRIP, "/api/%2e%2e/y", "/y"),
        (STRIP, "/api/a%2Fb%20c", "/a%2Fb%20c"),
        (STRIP, "*", "*"),
        ('{ strip_prefix = "/api/" }', "/api/x", "/x"),
        ('{ strip_prefix = "/" }', "/x", "/x"),
        ('{ strip_prefix = "/ä b" }', "/%C3%A4%20b/x", "/x"),
        (ADD, "/x", "/bucket/x"),
        (ADD, "/", "/bucket/"),
        (ADD, "//x", "/bucket//x"),
        (ADD, "/../x", "/bucket/x"),
        (ADD, "/%2e%2E/x", "/bucket/x"),
        (ADD, "/a/..?q=/../y", "/bucket/?q=/../y"),
        ('{ add_prefix = "/a b?#%" }', "/x", "/a%20b%3F%23%25/x"),
        (BOTH, "/api/x", "/v2/x"),
        (BOTH, "/other", "/v2/other"),
        (PHP, "/p/12", "/index.php?p=12"),
        (PHP, "/p/12?x=1", "/index.php?p=12&x=1"),
        (PHP, "/p/12?", "/index.php?p=12"),
        (PHP, "/p/x?y", "/p/x?y"),
        ("{ rewrite = '^/.*$', to = '' }", "/a/b?c", "/?c"),
        ("{ rewrite = '^/a', to = '//evil.test' }", "/a/b", "/evil.test/b"),
        ("{ rewrite = '^/(a)?(.*)$', to = '/$1$2 #ü%' }", "/b", "/b%20%23%C3%BC%25"),
        ("{ pool = 'x' }", "/%61/../b//?", "/%61/../b//?"),
    ],
)
def test_targets(table: str, target: str, wanted: str) -> None:
    """Prefixes end at a segment; nothing leads out of one; the query stays."""
    made = Route(pool="x") if "pool" in table else route(table)
    assert rewritten(made, target.encode()) == wanted.encode()


ROUTES = [route(text) for text in (STRIP, ADD, BOTH, PHP, "{ rewrite = '(/)+', to = '??$1&' }")]
PATHS = st.lists(st.sampled_from(["/", "api", "..", ".", "%2e", "%2F", "a", "%", "?", "&", "é", "p", "12", "//"]))


@given(st.sampled_from(ROUTES), PATHS)
def test_every_target_is_in_origin_form(made: Route, parts: list[str]) -> None:
    """Whatever a client may send, of which the bytes beyond ASCII and lone percent signs are the oddest."""
    target = rewritten(made, b"/" + "".join(parts).encode())
    path = target.partition(b"?")[0]
    assert path.startswith(b"/")
    assert b".." not in path.split(b"/")
    assert ORIGIN_FORM.fullmatch(target.replace("é".encode(), b"e")), target
    if made is ROUTES[1]:
        assert target.startswith(b"/bucket/")
