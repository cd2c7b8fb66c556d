"""Sites and URLs: every spelling of one has one name, and what RFC 3986 leaves distinct has two."""

from __future__ import annotations

import random
from urllib.parse import unquote_to_bytes

import pytest
from harness.often import examples
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config.addresses import host_names
from edgecache.config.settings import PurgeToken
from edgecache.invalidation import scopes
from edgecache.invalidation.purge_log import EntryKind, LogEntry, PurgeLog, Verdict
from edgecache.invalidation.purge_request import purge_of_json
from edgecache.invalidation.scopes import Subject
from edgecache.semantics import uri
from edgecache.semantics.cache_key import primary_key, same_origin_key
from edgecache.semantics.forwarding import as_forwarded
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.sni import is_misdirected, stays_plain
from edgecache.wire.errors import BadRequest
from edgecache.wire.h1.head import RequestHeads, normal_host
from edgecache.wire.head_limits import HeadLimits

HEADS = RequestHeads(HeadLimits())
CMS = PurgeToken("cms", "secret")
UNRESERVED = "abzABZ019-._~"
RESERVED = "!$&'()*+,;=:@"
SEGMENTS = st.lists(st.text(UNRESERVED + RESERVED + "é% ", min_size=0, max_size=5), min_size=1, max_size=4)
HOSTS = ["site.test", "a-b.site.test", "127.0.0.1", "[::1]", "[2001:db8::1]", "xn--mnchen-3ya.test"]


def encoded(text: str) -> str:
    """Segments as a client has to send them."""
    kept = UNRESERVED + RESERVED
    return "".join(one if one in kept else "".join(f"%{octet:02X}" for octet in one.encode()) for one in text)


def respelt(url: str, dice: random.Random) -> str:
    """An equivalent spelling of an encoded URL (RFC 3986 §6.2.2)."""
    scheme, _, rest = url.partition("://")
    host, _, target = rest.partition("/")
    path, mark, query = target.partition("?")
    other = {"[::1]": "[0:0:0:0:0:0:0:1]", "[2001:db8::1]": "[2001:0DB8:0::0:1]"}.get(host, host)
    other = "".join(dice.choice((one.lower(), one.upper())) for one in other)
    other += dice.choice(("", "" if other.endswith("]") else "."))
    port = dice.choice(
        (
            "",
            "" if path.startswith("/") else ":",
            f":{443 if scheme == 'https' else 80}",
            ":080" if scheme == "http" else ":0443",
        )
    )
    spelt = _spelt(path, dice)
    if dice.random() < 0.3:
        spelt = dice.choice(("./", "x/../", "%2e/", "x/%2E./")) + spelt
    return f"{scheme}://{other}{port}/{spelt}{mark}{_spelt(query, dice)}"


def _spelt(text: str, dice: random.Random) -> str:
    found, at = "", 0
    while at < len(text):
        if text[at] == "%":
            octet = text[at : at + 3]
            found += octet.lower() if dice.random() < 0.5 else octet
            at += 3
        else:
            one = text[at]
            encode = one in UNRESERVED and dice.random() < 0.4
            found += f"%{ord(one):02{dice.choice('xX')}}" if encode else one
            at += 1
    return found


def key_of(url: str) -> bytes:
    """The cache key of a GET for `url`."""
    scheme, _, rest = url.partition("://")
    host, slash, target = rest.partition("/")
    head = f"GET {slash}{target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    return primary_key(HEADS.parse(head, scheme.encode())[0])


def purges(named: list[bytes] | tuple[bytes, ...], key: bytes) -> bool:
    """Whether a purge of these scopes makes unusable what was asked before by `key`."""
    log = PurgeLog()
    asked = log.position
    log.append(*named)
    return log.check(Subject(key, (b"t",)), asked) is Verdict.PURGED


URLS = st.builds(
    lambda scheme, host, segments, query: (
        f"{scheme}://{host}/" + "/".join(map(encoded, segments)) + ("" if query is None else "?" + encoded(query))
    ),
    st.sampled_from(["http", "https"]),
    st.sampled_from(HOSTS),
    SEGMENTS,
    st.none() | st.text(UNRESERVED + RESERVED + "é", max_size=5),
)


@examples(400)
@given(URLS, st.integers(0, 2**32))
def test_a_purge_reaches_every_spelling(url: str, seed: int) -> None:
    """By URL, prefix, host or tag: whichever spelling is purged, by whatever scheme, whichever is stored."""
    dice = random.Random(seed)
    stored, purged = key_of(respelt(url, dice)), respelt(url, dice)
    elsewhere = stored.replace(b"http://", b"https://") if stored.startswith(b"http:") else stored
    host, _, path = purged.partition("://")[2].partition("/")
    path = path.partition("?")[0]

    for key in (stored, elsewhere):
        assert purges(purge_of_json({"urls": [purged]}, CMS).scopes, key)
        assert purges(purge_of_json({"prefixes": [f"{host}/{path}"]}, CMS).scopes, key)
        assert purges(purge_of_json({"hosts": [host]}, CMS).scopes, key)
    limited = PurgeToken("shop", "secret", host_names(uri.host_of(uri.site(host.encode(), b"http")).decode()))
    for what in ({"urls": [purged]}, {"hosts": [host]}, {"tags": ["t"]}):
        assert purges(purge_of_json(what, limited).scopes, stored)


@examples(400)
@given(URLS, URLS)
def test_urls_that_are_not_equivalent_share_nothing(one: str, two: str) -> None:
    """Another path or query is another entry, and no purge of the one reaches the other."""
    first, second = key_of(one), key_of(two)

    def meaning(url: str) -> tuple[object, ...]:
        host, _, rest = url.partition("://")[2].partition("/")
        path, mark, query = rest.partition("?")
        clean = uri.without_dots(b"/" + path.encode())
        return host, [decoded(part) for part in clean.split(b"/")], mark, decoded(query.encode())

    def decoded(text: bytes) -> tuple[bytes, ...]:  # an encoded reserved character is not the character
        return tuple(unquote_to_bytes(b"%" + part) if at else part for at, part in enumerate(text.split(b"%")))

    assert (first == second) == (one == two)
    if meaning(one) != meaning(two):
        assert not purges(purge_of_json({"urls": [one]}, CMS).scopes, second)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("/a%2Fb", "/a/b"),
        ("/a%2fb", "/a/b"),
        ("//a", "/a"),
        ("/a/", "/a"),
        ("/a?", "/a"),
        ("/a%3Fb", "/a?b"),
        ("/a;b", "/a%3Bb"),
        ("/a?b=c", "/a?b%3Dc"),
        ("/a?b&c", "/a?b%26c"),
        ("/a?a+b", "/a?a%20b"),
        ("/a?a+b", "/a?a%2Bb"),
        ("/A", "/a"),
        ("/%2561", "/a"),
        ("/%2561", "/%61"),
        ("/a?x/../y", "/a?y"),
        ("/%252e%252e/a", "/a"),
    ],
)
def test_what_the_standard_leaves_distinct_is_distinct(one: str, two: str) -> None:
    """Reserved characters, empty segments, an empty query, what is encoded twice: two names (RFC 3986 §2.2, §6.2.2)."""
    assert uri.normalised(b"http://a" + one.encode()) != uri.normalised(b"http://a" + two.encode())


@examples(300)
@given(st.text("/.%2eE41aA?=x \xe9", max_size=12))
def test_a_name_is_its_own_name(target: str) -> None:
    """A scope that was normalised once, and is applied again, names the same."""
    name = uri.normalised(b"http://a/" + target.encode("latin-1"))

    assert uri.normalised(name) == name
    assert scopes.canonical(b"p" + name) == scopes.canonical(scopes.canonical(b"p" + name))


@pytest.mark.parametrize(
    ("purged", "key"),
    [
        ("https://münchen.test/straße?q=ü", b"http://xn--mnchen-3ya.test/stra%C3%9Fe?q=%C3%BC"),
        ("https://MÜNCHEN.test:8443/", b"https://xn--mnchen-3ya.test/"),
        ('http://site.test/{a}|"<b>^`', b"http://site.test/%7Ba%7D%7C%22%3Cb%3E%5E%60"),
        ("http://site.test", b"https://site.test:8443/"),
        ("http://site.test:80/x", b"https://site.test/x"),
    ],
)
def test_an_iri_names_its_uri(purged: str, key: bytes) -> None:
    """What people read in the address bar is purged by those words (RFC 3987 §3.1)."""
    assert purges(purge_of_json({"urls": [purged]}, CMS).scopes, key)


@pytest.mark.parametrize(
    ("scheme", "host", "said", "key"),
    [
        (b"http", b"site.test:443", b"https", b"https://site.test/a"),
        (b"https", b"site.test:80", b"http", b"http://site.test/a"),
        (b"http", b"site.test:8443", b"https", b"https://site.test:8443/a"),
        (b"http", b"[::0:1]:443", b"https", b"https://[::1]/a"),
        (b"http", b"[::443]", b"https", b"https://[::443]/a"),
    ],
)
def test_a_proxys_scheme_makes_the_key_of_that_scheme(scheme: bytes, host: bytes, said: bytes, key: bytes) -> None:
    """The port that is the scheme's own is no part of the key, whoever has named the scheme."""
    fields = Fields([(b"Host", host), (b"X-Forwarded-Proto", said)])
    asked = Request(b"GET", b"/a", normal_host(host, scheme), fields, scheme=scheme)

    assert primary_key(as_forwarded(asked)) == key


@pytest.mark.parametrize("value", [b"[::1", b"a b", b"a@b", b"[::1].", b"a:65536", b"a:0", b"a/b", b"[v1.x]", b"%61"])
def test_what_is_no_site_is_refused(value: bytes) -> None:
    """What is no host of a URL is no Host."""
    with pytest.raises(BadRequest):
        normal_host(value, b"http")


def test_settings_name_hosts_as_requests_do() -> None:
    """Upper case, a final dot, long IPv6, U-labels; a port is refused, for all are meant."""
    names = host_names("Site.TEST., [0:0:0:0:0:0:0:1], münchen.test")

    assert names == ("site.test", "[::1]", "xn--mnchen-3ya.test")
    with pytest.raises(ValueError, match="without a port"):
        host_names("site.test:8443")


def test_tls_names_and_plain_paths_are_compared_by_name() -> None:
    """A port makes no other site; what leads out of the ACME directory is redirected as all else."""
    assert not is_misdirected(b"site.test", b"site.test:8443")
    assert is_misdirected(b"site.test", b"other.test:8443")
    assert stays_plain(b"a", b"/.well-known/acme-challenge/x")
    assert not stays_plain(b"a", b"/.well-known/acme-challenge/%2e%2e/%2e%2e/secret")


@pytest.mark.parametrize(
    ("reference", "key"),
    [
        (b"/b", b"http://a/b"),
        (b"b", b"http://a/p/b"),
        (b"../b", b"http://a/b"),
        (b"?z", b"http://a/p/q?z"),
        (b"", b"http://a/p/q?x"),
        (b"#f", b"http://a/p/q?x"),
        (b"/b?", b"http://a/b?"),
        (b"/b#f", b"http://a/b"),
        (b"http://A.:80/b", b"http://a/b"),
        (b"HTTP://a", b"http://a/"),
        (b"//a/b", b"http://a/b"),
        (b"/stra\xc3\x9fe", b"http://a/stra%C3%9Fe"),
        (b"https://a/b", None),
        (b"http://a:81/b", None),
        (b"http://b/b", None),
        (b"http://u@a/b", None),
        (b"mailto:a", None),
        (b"http:b", None),
    ],
)
def test_references_are_resolved(reference: bytes, key: bytes | None) -> None:
    """Location and Content-Location, by RFC 3986 §5.2, name a key of the same origin or nothing."""
    assert same_origin_key(b"http://a/p/q?x", reference) == key


@examples(400)
@given(st.binary(max_size=30), st.binary(max_size=30))
def test_no_bytes_raise(key: bytes, reference: bytes) -> None:
    """Keys, scopes out of a log and references of origins may hold anything."""
    assert uri.normalised(key) == uri.normalised(uri.normalised(key))
    assert [scopes.canonical(kind + key) for kind in (b"u", b"p", b"s", b"g", b"t", b"?")]
    assert scopes.naming(Subject(b"http://a/" + key, (key,)), b"a", 5)
    uri.resolved(b"http://a/" + key, reference)
    uri.path_of(reference)


def test_a_write_doubts_every_spelling_until_it_ends() -> None:
    """While a write is under way, what is stored by another spelling, scheme or port of its target is not proven."""
    log, subject = PurgeLog(), Subject(b"https://a:8443/%e6?%7E")
    log.apply("eu", LogEntry(1 << 32, 0, EntryKind.BEGIN, (b"uhttp://a/%E6?~",), within=9.0), 0.0)
    asked = log.position
    assert log.check(subject, asked) is Verdict.UNPROVEN
    assert log.check(Subject(b"https://a/%e6?~&x"), asked) is Verdict.USABLE
    log.apply("eu", LogEntry(2 << 32, 1 << 32, EntryKind.END, (b"uhttp://a/x/../%E6?~",), begun=1 << 32), 0.0)
    assert log.check(subject, asked) is Verdict.PURGED
