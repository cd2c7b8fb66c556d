"""Whatever reaches the origin is read alike by h11, by llhttp and by our own reading of RFC 9112.

`hostile/readers.py` holds the three; the hand-written and the generated cases are judged by them too, in their files.
"""

from __future__ import annotations

import pytest
from harness.often import batches, each_case, examples
from hostile import rfc9112
from hostile.generated import generate
from hostile.readers import READERS, Seen, agreed, by_rfc, readings
from hostile.rig import Bench
from hostile.tables import Case, all_cases
from hypothesis import given
from hypothesis import strategies as st

TAKEN = [case for case in all_cases() if case.kind in ("N", "RN", "L")]


@pytest.mark.parametrize("some", batches(TAKEN, lambda case: case.id))
async def test_what_is_sent_on_is_read_alike(some: list[Case]) -> None:
    """Each case that is taken goes on as requests in which the three see the same method, target, host and body."""
    with each_case() as case:
        for one in some:
            with case(one.id):
                bench = Bench()
                outcome = bench.play(one.data)
                assert tuple(agreed(bench.forwarded())) == outcome.taken


@pytest.mark.slow
async def test_where_the_three_differ_on_the_clients_bytes_they_agree_on_ours() -> None:
    """What parsers read differently is refused, or rewritten so that they read it alike; both kinds exist."""
    bench = Bench()
    differ = {"refused": 0, "rewritten": 0}
    data = [case.data for case in all_cases() if case.kind in ("R", "N", "RN", "L")]
    for one in [*data, *(case.data for case in generate() if case.verdict != "W")]:
        first, *others = readings(one).values()
        if all((isinstance(other, str) and isinstance(first, str)) or other == first for other in others):
            continue
        taken = bench.play(one).taken
        assert tuple(agreed(bench.forwarded())) == taken
        differ["rewritten" if taken else "refused"] += 1

    assert differ["refused"] > 100
    assert differ["rewritten"] > 0


# Well-formed requests, put together at random

TOKEN = st.text("!#$%&'*+-.^`|~0123456789ABCXYZabcxyz", min_size=1, max_size=12).map(str.encode)
VALUE = st.lists(st.sampled_from([bytes([byte]) for byte in rfc9112.FIELD_BYTE]), max_size=20).map(b"".join)
TARGET = st.text("abc/?&=%;:@!$'()*+,-._~[]0", max_size=20).map(lambda text: b"/" + text.encode())
HOSTS = st.sampled_from([b"a", b"A.b", b"a.b.", b"a:80", b"a:8080", b"[::1]", b"127.0.0.1:1", b"a-b_c"])
NAMES_OF_OURS = {b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"}
LINES = st.lists(st.tuples(TOKEN.filter(lambda name: name.lower() not in NAMES_OF_OURS), VALUE), max_size=6)
OWS = st.text(" \t", max_size=2).map(str.encode)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, Seen]:
    """One well-formed request, and what it means."""
    method = draw(st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"QUERY"]))
    target, host, body = draw(TARGET), draw(HOSTS), draw(st.binary(max_size=40))
    lines = [*draw(LINES), (b"hOsT", host)]
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "none":
        framed = body = b""
    elif framing == "length":
        framed = body
        lines.append((b"Content-length", b"0" * draw(st.integers(0, 2)) + b"%d" % len(body)))
    else:
        framed = chunked(draw, body)
        lines.append((b"transfer-ENCODING", draw(st.sampled_from([b"chunked", b"Chunked"]))))
    head = b"".join(b"%b:%b%b\r\n" % (name, draw(OWS), value) for name, value in draw(st.permutations(lines)))
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, head, framed), Seen(method, target, host, body)


def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """`body` in chunks of any size, with extensions and trailers."""
    framed, at = b"", 0
    while at < len(body):
        size = draw(st.integers(1, len(body) - at))
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b; c"', b";a;b"]))
        framed += b"%x%b\r\n%b\r\n" % (size, extension, body[at : at + size])
        at += size
    return (
        framed
        + b"0\r\n"
        + draw(st.sampled_from([b"", b"X-A: b\r\n", b"Host: evil\r\nContent-Length: 9\r\n"]))
        + b"\r\n"
    )


BENCH = Bench()


@pytest.mark.slow
@examples(300)
@given(st.lists(requests(), min_size=1, max_size=4), st.integers(0, 2000))
def test_well_formed_requests_pass_as_they_are(pipelined: list[tuple[bytes, Seen]], cut: int) -> None:
    """Any well-formed requests, pipelined and cut anywhere, are taken, and go on as the same requests for all three."""
    stream = b"".join(data for data, _ in pipelined)
    meant = [seen._replace(host=site(seen.host)) for _, seen in pipelined]
    pieces = [stream[: cut % len(stream)], stream[cut % len(stream) :]]
    outcome = BENCH.play(*filter(None, pieces))

    assert outcome.status == 0
    assert list(outcome.taken) == meant
    assert agreed(BENCH.forwarded()) == meant


def site(host: bytes) -> bytes:
    """The site that a Host of these tests names."""
    return {b"A.b": b"a.b", b"a.b.": b"a.b", b"a:80": b"a"}.get(host, host)


# The reader of our own is strict

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("stream", "rule"),
    [
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "§3:"),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "§2.3"),
        (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", "§3.2"),
        (b"GET / HTTP/1.1\nHost: a\n\n", "bare LF"),
        (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", "bare CR"),
        (b"GET / HTTP/1.1\r\n\r\n", "no Host"),
        (GET + b"Host: a\r\n\r\n", "host is repeated"),
        (GET + b"X : b\r\n\r\n", "§5.1"),
        (GET + b"X: \x00\r\n\r\n", "§5.5"),
        (GET + b" X: b\r\n\r\n", "§5.1"),
        (GET + b"X\r\n\r\n", "without colon"),
        (GET + b"Content-Length: +1\r\n\r\na", "§8.6"),
        (GET + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", "repeated"),
        (GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "§6.3, 3"),
        (GET + b"Transfer-Encoding: gzip\r\n\r\n", "§6.3, 4"),
        (GET + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", "chunk-size|extension"),
        (GET + b"Transfer-Encoding: chunked\r\n\r\n1;\r\na\r\n0\r\n\r\n", "token is missing"),
        (GET + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "chunk-data CRLF"),
        (GET + b"Content-Length: 2\r\n\r\na", "Unfinished"),
        (GET, "Unfinished"),
    ],
)
def test_the_own_reader_names_the_rule(stream: bytes, rule: str) -> None:
    """What RFC 9112 does not allow, `rfc9112.py` refuses by the clause."""
    reading = by_rfc(stream)

    assert isinstance(reading, str)
    assert any(word in reading for word in rule.split("|"))


@pytest.mark.parametrize("name", READERS)
def test_each_reader_reads_a_pipeline(name: str) -> None:
    """Each of the three reads bodies of every framing and goes on with the next request."""
    stream = (
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 2\r\nHost: b\r\n\r\nxy"
        b'PUT /3 HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n2;a="b"\r\nxy\r\n0\r\nX: y\r\n\r\n'
        b"GET /4 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        b"GET /5 HTTP/1.0\r\nHost: e\r\n\r\n"
    )

    assert READERS[name](stream) == [
        Seen(b"GET", b"/1", b"a", b""),
        Seen(b"POST", b"/2", b"b", b"xy"),
        Seen(b"PUT", b"/3", b"c", b"xy"),
        Seen(b"GET", b"/4", b"d", b""),
        Seen(b"GET", b"/5", b"e", b""),
    ]
