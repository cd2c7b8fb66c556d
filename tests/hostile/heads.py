"""Generated request heads: most are plain GETs of what is stored, in lines that are mostly clients' own."""

from __future__ import annotations

import random

from harness.client import HOST

from edgecache.semantics import unkeyed_fields
from edgecache.semantics.message import Fields, Request
from hostile.twins import PEER, Twins

SITE = HOST.encode()
FRESH = (b"Cache-Control", b"max-age=60")
PROXY = "10.0.0.1"
OVER_TLS = b"\t%b\t\n" % SITE


def head(target: bytes = b"/a", *lines: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    """A head for our site."""
    block = b"".join(line + b"\r\n" for line in lines)
    return b"%b %b HTTP/%b\r\nHost: %b\r\n%b\r\n" % (method, target, version, SITE, block)


def request(target: bytes, *lines: tuple[bytes, bytes], scheme: bytes = b"http") -> Request:
    """A request whose answer is stored."""
    return Request(b"GET", target, SITE, Fields([(b"Host", SITE), *lines]), scheme=scheme)


def fill(twins: Twins) -> None:
    """What is stored: plain, varying by all kinds of fields, not plain, not fresh, large, in parts."""
    store = twins.store
    for scheme in (b"http", b"https"):
        store(request(b"/a", scheme=scheme), [FRESH, (b"ETag", b'"v1"'), (b"Cache-Tag", b"t")], b"a " + scheme)
    for coding in (b"gzip", b"br"):
        store(request(b"/b", (b"Accept-Encoding", coding)), [FRESH, (b"Vary", b"Accept-Encoding")], b"b " + coding)
    store(request(b"/c"), [FRESH, (b"Vary", b"Cookie")], b"c for all who send none")
    for agent in (b"one", b"two"):
        lines = ((b"User-Agent", agent), (b"Accept-Language", b"en, de;q=0.5"))
        store(request(b"/d", *lines), [FRESH, (b"Vary", b"User-Agent, Accept-Language")], b"d " + agent)
    for language in (b"en", b"de"):
        vary = [FRESH, (b"Vary", b"Accept-Language"), (b"Content-Language", language)]
        store(request(b"/e", (b"Accept-Language", language)), vary, b"e " + language)
    store(request(b"/f"), [(b"Cache-Control", b"max-age=2, stale-while-revalidate=5")], b"f")
    store(request(b"/g"), [(b"Cache-Control", b"max-age=60, no-cache"), (b"ETag", b'"v1"')], b"g")
    store(request(b"/h"), [FRESH, (b"Strict-Transport-Security", b"max-age=1")], b"h", 404)
    store(request(b"/i", scheme=b"https"), [FRESH, (b"Strict-Transport-Security", b"max-age=1")], b"i")
    store(request(b"/j"), [FRESH], bytes(20_000))
    store(request(b"/k"), [FRESH], bytes(300_000))
    store(request(b"/l"), [FRESH, (b"ETag", b'"v1"'), (b"Content-Range", b"bytes 0-3/10")], b"part", 206)
    store(request(b"/m"), [FRESH, (b"Vary", b"X-Request-Id, Accept-Encoding")], b"m")
    store(request(b"/n"), [FRESH, (b"Vary", b"Edgecache-Geo-Country, Cookie")], b"n")
    for country in (b"DE", b"FR"):
        placed = request(b"/n", (b"Edgecache-Geo-Country", country))
        store(placed, [FRESH, (b"Vary", b"Edgecache-Geo-Country, Cookie")], b"n " + country)
    for odd in (b"/a#x", b"/a\xe9", b"/a\x7f", b"/a\t"):  # nobody can have asked for these
        store(request(odd), [FRESH], b"odd")
    store(request(b"/o?x=1"), [(b"Cache-Control", b"max-age=3")], b"o")
    store(request(b"/.well-known/acme-challenge/t"), [FRESH], b"token")


TARGETS = [b"/" + bytes([letter]) for letter in b"abcdefghijklmn"] + [b"/o?x=1", b"/a", b"/a", b"/unknown"]
ODD_TARGETS = [
    *(b"http://%b/a" % SITE, b"https://%b/a" % SITE, b"*", b"/a#x", b"/a\xe9", b"a", b"/.well-known/acme-challenge/t"),
    *(b"", b"/a?x", b"/%61", b"//a", b'/"<>', b"/a\x7f", b"/a\t"),
]
CLIENTS = [name.title() for name in sorted(unkeyed_fields.HARMLESS)] + [
    b"cookie",
    b"USER-AGENT",
    b"Accept-Language",
] * 8
VALUES = [
    b"one",
    b"two",
    b"en",
    b"de",
    b"en, de;q=0.5",
    b"",
    b"\xe9\t x",
    b'"a", b',
    b"gzip",
    b"1.2.3.4",
    b"a" * 300,
    b"b" * 700,
    b"x=Cookie: y",
]
BROWSERS = [  # what each sends in every head, in its order
    (b"Cookie",),
    (b"User-Agent",),
    (b"Referer", b"User-Agent", b"X-Request-Id"),
    (b"User-Agent", b"Accept-Language", b"cookie"),
    (b"Cookie", b"X-Request-Id", b"Referer"),
    (b"user-agent", b"X-Cookie", b"Cookie", b"Cookie"),
    (b"Sec-Fetch-Mode", b"User-Agent", b"Accept", b"Referer", b"Accept-Language", b"Cookie"),
]
MATTERS = [
    *(b"Accept-Encoding: gzip", b"Accept-Encoding: br", b"accept-encoding: ;;", b"Accept-Encoding: gzip "),
    *(
        b"Connection: keep-alive",
        b"Connection: close",
        b"Connection: user-agent",
        b"Connection: cookie",
        b"connection: keep-alive, x-a",
        b"X-A: 1",
    ),
    *(b'If-None-Match: "v1"', b'If-None-Match: "v2"', b"If-Modified-Since: Wed, 15 Nov 2023 00:00:00 GMT"),
    *(b"Range: bytes=0-2", b"Range: bytes=2-20", b'If-Range: "v1"', b'If-Match: "v1"'),
    *(b"Cache-Control: no-cache", b"Cache-Control: max-age=1", b"cache-control: only-if-cached", b"Pragma: no-cache"),
    *(b"Authorization: Basic eDp5", b"Expect: 100-continue", b"Upgrade: websocket", b"Upgrade: h2c", b"TE: trailers"),
    *(b"User_Agent: one", b"Cookie_: a", b"Edgecache-Token: x", b"Edgecache-Require: eu=1-1", b"edgecache_client: 1"),
    *(b"Edgecache-Geo-Country: FR", b"X-Forwarded-Proto: https", b"Forwarded: for=1.2.3.4;proto=https"),
    *(b"CDN-Loop: test", b"CDN-Loop: other", b"Via: 1.1 a", b"Content-Length: 0", b"Transfer-Encoding: identity"),
    *(
        b"Host: " + SITE,
        b"Host: other.test",
        b"Max-Forwards: 0",
        b"Traceparent: 00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01",
    ),
]
BROKEN = [
    *(
        b"Cookie",
        b"Cookie : a",
        b" Cookie: a",
        b"Cookie: a\x00",
        b"Cookie: \x7f",
        b"Cookie: a\rb",
        b"Cookie: a\nb",
        b"",
    ),
    *(b"Cookie:\x0b", b"\tcookie: folded", b": a", b"Coo kie: a", b"Cookie\x00: a", b"Cook\xe9: a", b"Cookie\r: a"),
]


def own_line(dice: random.Random, name: bytes) -> bytes:
    """A line of the client's own; now and then its value is none that a field may have."""
    value = dice.choice(VALUES) if dice.random() < 0.7 else b"%x" % dice.getrandbits(64)
    if dice.random() < 0.01:
        value += dice.choice([b"\x00", b"\n", b"\r", b"\x7f", b"a\x0b", b"\r\n b", b"\n\nCookie: a", b"\r\nHost: a"])
    return name + dice.choice([b": ", b": ", b": ", b":", b":\t"]) + value + dice.choice([b"", b"", b"", b" \t"])


def a_line(dice: random.Random) -> bytes:
    """Most lines are clients' own."""
    kind = dice.random()
    if kind < 0.95:
        return own_line(dice, dice.choice(CLIENTS))
    return dice.choice(MATTERS) if kind < 0.996 else dice.choice(BROKEN)


def a_head(dice: random.Random) -> bytes:
    """Most heads are plain GETs of what is stored."""
    usual = dice.random() < 0.93
    method = b"GET" if usual else dice.choice([b"GET", b"GET", b"HEAD", b"POST", b"OPTIONS", b"get", b"PURGE"])
    version = b"1.1" if usual else dice.choice([b"1.1", b"1.0", b"1.2", b"2.0", b"1.1 ", b"1,1"])
    target = dice.choice(TARGETS) if usual else dice.choice(ODD_TARGETS)
    lines = [a_line(dice) for _ in range(dice.choice((0, 1, 2, 3, 4, 8)))]
    if dice.random() < 0.6:
        lines = [own_line(dice, name) for name in dice.choice(BROWSERS)] + lines[: dice.random() < 0.1]
    if dice.random() < 0.3:
        lines.insert(0, b"Accept-Encoding: gzip")
    site = dice.choice(
        [b"Host: " + SITE] * 20 + [b"host: WWW.Example.Test.", b"Host: other.test", b"Host: a b", b"X: y"]
    )
    lines.insert(0 if dice.random() < 0.9 else len(lines), site)
    start = b"" if dice.random() < 0.99 else dice.choice([b"\r\n", b"\n", OVER_TLS, b"\n" + OVER_TLS, b"DE EU eu\n"])
    return start + b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version, b"".join(line + b"\r\n" for line in lines))


def reads(dice: random.Random, one: bytes) -> tuple[bytes, ...]:
    """A head comes whole, in two, or with the next."""
    kind = dice.random()
    if kind < 0.96:
        return (one,)
    cut = dice.randrange(len(one))
    return (one[:cut], one[cut:]) if kind < 0.98 else (one + a_head(dice),)


def something_happens(dice: random.Random, twins: Twins) -> None:
    """Time passes, something is purged, stored anew, or cannot be proven; limits change."""
    kind = dice.randrange(12)
    if kind < 4:
        twins.clock.advance(dice.choice((0.3, 1.0, 1.7, 31.0)))
    if 1 < kind < 7:
        fill(twins)
    scope = dice.choice([b"uhttp://%b/a" % SITE, b"tt", b"p%b/d" % SITE, b"s" + SITE])
    for twin in twins.both:
        edge = twin.worker.edge
        edge.invalidation.set_cut_off(kind == 9)
        if kind == 7:
            edge.invalidation.append([scope], soft=True)
        elif kind == 8:
            edge.invalidation.append([scope])
        elif kind == 10:
            edge.tune(edge.limits)


SETTINGS: dict[str, dict[str, str]] = {
    "plain": {},
    "behind a proxy": {"trusted_proxies": f"{PROXY}/32"},
    "located": {"geo_overrides": f"{PEER}/32=DE,1.2.3.4=FR", "trusted_proxies": f"{PROXY}/32"},
    "redirected": {"https_redirect": "on", "hsts": "max-age=5", "trusted_proxies": f"{PROXY}/32"},
    "every field logged": {
        "access_log_fields": "all",
        "geo_overrides": f"{PEER}/32=DE,1.2.3.4=FR",
        "trusted_proxies": f"{PROXY}/32",
    },
    "some fields logged": {"access_log_fields": "client,host,tls,age,ttl,tags,request_bytes,head_bytes,user_agent"},
    "one site": {"hosts": HOST, "token_cookie": "on"},
    "tight": {"max_line": "600", "max_fields": "8", "max_head": "2KiB"},
}
