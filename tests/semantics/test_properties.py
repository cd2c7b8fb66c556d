"""Properties that hold for every input (Hypothesis): keys, header round trips, ranges, directives, dates, lists."""

from __future__ import annotations

import itertools
from urllib.parse import unquote_plus

import h11
import pytest
from harness.often import examples
from hostile import rfc9112
from hostile.rig import passed_on, question
from hypothesis import assume, example, given
from hypothesis import strategies as st

from edgecache.semantics import cache_control, cache_key, http_date, preconditions, ranges, vary
from edgecache.semantics.message import Fields, Request, Response
from edgecache.semantics.ranges import Segments, Span
from edgecache.semantics.stored_response import HOP_BY_HOP, Policy, Stored, Times, kept_response
from edgecache.wire.errors import BadRequest, OriginError
from edgecache.wire.h1.body_framing import BadBody, ChunkedBody
from edgecache.wire.h1.head import RequestHeads, parse_response_head
from edgecache.wire.head_limits import HeadLimits

HEADS = RequestHeads(HeadLimits())
OFTEN = examples(500)
ODD = st.binary(max_size=60) | st.text("abq01;=\",*/ \t-W'\\", max_size=60).map(str.encode)


def parsed(method: bytes, target: bytes, host: bytes, lines: list[tuple[bytes, bytes]] | None = None) -> Request:
    """The request whose head has these parts; assumes that it is taken."""
    block = b"".join(b"%b: %b\r\n" % line for line in lines or ())
    try:
        return HEADS.parse(b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, target, host, block))[0]
    except BadRequest:
        assume(False)
        raise


# --- Keys

TARGETS = st.text("/?@:.&=%;,[]*ab0A|", max_size=6).map(str.encode)
ORIGIN_FORM = TARGETS.map(lambda target: b"/" + target)
HOSTS = st.sampled_from([b"a", b"A", b"a.", b"a:80", b"a:080", b"a:8", b"ab", b"a.b", b"[::1]", b"[::1]:80"])
ABSOLUTE_FORM = st.builds(
    lambda host, path: b"http://" + host + path, HOSTS, ORIGIN_FORM | st.just(b"") | st.just(b"?")
)


@OFTEN
@given(*[ORIGIN_FORM | ABSOLUTE_FORM, HOSTS] * 2)
@example(b"http://a/b", b"c", b"/b", b"a")
@example(b"//a/b", b"c", b"/b", b"c//a")
def test_two_requests_share_a_key_only_if_they_are_sent_on_alike(
    one: bytes, host: bytes, two: bytes, other: bytes
) -> None:
    """A key stands for the bytes that the origin is asked by: the same key, the same question, and the reverse."""
    first, second = parsed(b"GET", one, host), parsed(b"GET", two, other)

    same_key = cache_key.primary_key(first) == cache_key.primary_key(second)
    assert same_key == (question(first) == question(second))


@OFTEN
@given(st.text("/?&=ab%:", max_size=8), st.text("/?&=ab%:", max_size=8), st.sampled_from(["a", "b:8", "a.b"]))
def test_a_key_is_injective_under_separators(one: str, two: str, host: str) -> None:
    """Moving a byte over the border between host, path and query makes another key."""
    first = parsed(b"GET", b"/" + one.encode(), host.encode())
    second = parsed(b"GET", b"/" + two.encode(), b"a")

    same = (first.host, first.target) == (second.host, second.target)
    assert (cache_key.primary_key(first) == cache_key.primary_key(second)) == same


NAMES = st.sampled_from(["a", "b", "id", "a b", "é", "", "%"])
RULES = st.builds(
    lambda order, kind, names: ", ".join(filter(None, [order, kind.format(" ".join(f'"{name}"' for name in names))])),
    st.sampled_from(["", "key-order"]),
    st.sampled_from(["", "params", "params=({})", "params, except=({})"]),
    st.lists(st.sampled_from(["a", "b", "id", "a+b", "%C3%A9", "%61"]), max_size=3),
)
PARTS = st.sampled_from(
    ["a", "b", "id", "%61", "i%64", "a+b", "a%20b", "%C3%A9", "a=1", "%61=1", "a=2", "id=1", "=", "", "b="]
)


def matters(query: str, rule: cache_key.SearchVariance) -> list[tuple[str, str]]:
    """What of a query the draft says an origin is asked by: a list of decoded pairs, sorted if order means nothing."""
    pairs = [part.partition("=") for part in query.split("&") if part]
    decoded = [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]
    kept = [pair for pair in decoded if (pair[0] in rule.names) == rule.allow_all]
    return sorted(kept, key=lambda pair: pair[0]) if rule.ignore_order else kept


@OFTEN
@given(RULES, st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=4))
@example('params, except=("id")', ["%69d=2"], [])
@example("key-order", ["%61=1", "a=2"], ["a=2", "%61=1"])
def test_no_vary_search_merges_only_what_it_may(value: str, one: list[str], two: list[str]) -> None:
    """Two queries share a key only if No-Vary-Search, with names decoded, declares them equivalent."""
    rule = cache_key.no_vary_search(value.encode())
    assume(rule is not None)
    assert rule is not None
    first, second = "&".join(one), "&".join(two)

    if rule.normal(b"http://a/?" + first.encode()) == rule.normal(b"http://a/?" + second.encode()):
        assert matters(first, rule) == matters(second, rule)


@OFTEN
@given(ODD, ODD)
def test_no_reference_leaves_its_origin(path: bytes, reference: bytes) -> None:
    """What Location and Content-Location name is a key of the same origin, or nothing; and never an error."""
    key = cache_key.same_origin_key(b"http://a/" + path.replace(b"\n", b""), reference)

    assert key is None or key.startswith(b"http://a/")


@OFTEN
@given(ODD)
def test_no_vary_search_never_raises(value: bytes) -> None:
    """Whatever No-Vary-Search says, it is a rule or nothing, and a rule makes a key of any query."""
    rule = cache_key.no_vary_search(value)

    assert rule is None or rule.normal(b"http://a/?" + value).startswith(b"http://a/")


# --- Header round trips

TCHARS = st.text("!#$%&'*+-.^`|~09AZaz", min_size=1, max_size=10).map(str.encode)
VALUES = (
    st.lists(st.sampled_from(sorted(rfc9112.FIELD_BYTE)), max_size=20).map(bytes).map(lambda value: value.strip(b" \t"))
)
LINES = st.lists(
    st.tuples(TCHARS | st.sampled_from([b"Accept", b"COOKIE", b"x-a", b"ETag", b"Via", b"TE"]), VALUES), max_size=12
)
NOT_PASSED = HOP_BY_HOP | {b"via", b"max-forwards", b"cdn-loop", b"accept-encoding", b"proxy"}


@pytest.mark.slow
@OFTEN
@given(LINES)
def test_fields_pass_in_order_and_spelling(lines: list[tuple[bytes, bytes]]) -> None:
    """Parsed, sent on and parsed again by h11, the end-to-end lines are the same, in their order and spelling."""
    request = parsed(b"GET", b"/", b"a", lines)
    sent = question(request)
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent)
    head = connection.next_event()

    assert isinstance(head, h11.Request)
    meant = [line for line in lines if line[0].lower() not in NOT_PASSED]
    ours = 1 + len([name for name, _ in lines if name.lower() == b"via"]) * 0
    received = list(head.headers.raw_items())
    assert received[0] == (b"Host", b"a")
    assert received[ours : ours + len(meant)] == meant
    assert rfc9112.read_requests(sent)[0].lines == received


@pytest.mark.slow
@OFTEN
@given(LINES, st.sampled_from([b"GET", b"HEAD"]), st.sampled_from([200, 204, 404]))
def test_a_response_passes_in_order_and_spelling(lines: list[tuple[bytes, bytes]], method: bytes, status: int) -> None:
    """A response's end-to-end lines are passed on as they came, with one framing that is ours."""
    block = b"".join(b"%b:%b\r\n" % line for line in lines)
    response = parse_response_head(b"HTTP/1.1 %d OK\r\n%bContent-Length: 0\r\n\r\n" % (status, block), method)
    again, _ = rfc9112.read_response(passed_on(response) + b"\r\n", 0, method)

    assert again.lines[: len(again.lines) - (status != 204)] == [
        line for line in lines if line[0].lower() not in HOP_BY_HOP
    ]


# --- Ranges


@OFTEN
@given(ODD | st.text("bytes=0123456789-, \t", max_size=30).map(str.encode), st.integers(0, 30))
@example(b"bytes=-0", 5)
@example(b"bytes=" + b"9" * 5000 + b"-", 5)
def test_a_range_never_leaves_the_object(value: bytes, length: int) -> None:
    """Whatever is asked, each span lies within the object and is not empty."""
    specs = ranges.parse_range(value)

    for span in ranges.satisfiable(specs or (), length):
        assert 0 <= span.first < span.end <= length


SPECS = st.lists(
    st.tuples(st.integers(0, 25), st.integers(0, 25)).map(sorted).map(tuple)
    | st.tuples(st.integers(0, 25), st.none())
    | st.tuples(st.none(), st.integers(0, 25)),
    min_size=1,
    max_size=4,
)


@OFTEN
@given(SPECS, st.integers(0, 20))
def test_a_range_is_what_python_would_slice(specs: list[tuple[int | None, int | None]], length: int) -> None:
    """The bytes of each span are those that a slice of the whole has, and unsatisfiable ones are left out."""
    text = ", ".join(f"{'' if first is None else first}-{'' if last is None else last}" for first, last in specs)
    whole = bytes(range(length))
    wanted = []
    for first, last in specs:
        if first is None:
            wanted.append(whole[-last:] if last else b"")
        else:
            wanted.append(whole[first:] if last is None else whole[first : last + 1])

    assert ranges.parse_range(f"bytes={text}".encode()) == specs
    spans = ranges.satisfiable(specs, length)
    assert [whole[span.first : span.end] for span in spans] == [piece for piece in wanted if piece]


@OFTEN
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.binary(min_size=1, max_size=15)), max_size=8))
def test_parts_join_as_they_would_in_a_buffer(whole: int, writes: list[tuple[int, bytes]]) -> None:
    """Joined segments hold what a plain buffer would after the same writes: disjoint, in order, not touching."""
    segments, buffer, known = Segments(whole, ()), bytearray(whole), set[int]()
    for first, content in writes:
        content = content[: max(0, whole - first)]
        if content:
            segments = segments.joined(first, content)
            buffer[first : first + len(content)] = content
            known |= set(range(first, first + len(content)))

    held = dict(segments.parts)
    assert {at + i for at, content in held.items() for i in range(len(content))} == known
    assert all(buffer[at : at + len(content)] == content for at, content in held.items())
    ends = [(at, at + len(content)) for at, content in segments.parts]
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ends))
    assert segments.complete == (len(known) == whole)
    assert segments.size == len(known)
    for first in range(0, whole, 3):
        piece = segments.slice(Span(first, min(whole, first + 4)))
        assert piece is None or piece == buffer[first : first + 4]


@OFTEN
@given(ODD | st.text("bytes 0123456789-/*", max_size=30).map(str.encode))
def test_a_content_range_is_sane_or_nothing(value: bytes) -> None:
    """A part lies within its whole."""
    part = ranges.content_range(value)

    assert part is None or (0 <= part.first < part.end and (part.whole is None or part.end <= part.whole))


# --- Cache-Control

MEMBERS = st.text("abcmx-age=0123,;\" \t\\'()/@", max_size=40)


def outside_a_string(text: str) -> bool:
    """Whether `text` ends outside a quoted string, read from its start (RFC 9110 §5.6.4)."""
    inside = escaped = False
    for letter in text:
        if escaped:
            escaped = False
        elif inside and letter == "\\":
            escaped = True
        elif letter == '"':
            inside = not inside
    return not inside


@OFTEN
@given(MEMBERS, MEMBERS, st.sampled_from(["private", "no-store", "PRIVATE", "No-Store", 'private="x"']))
@example('a="\\",', "", "private")
@example('a"b"c', "", "private")
def test_a_restriction_is_never_lost(before: str, after: str, word: str) -> None:
    """`private` or `no-store` as a member anywhere outside a quoted string restricts, whatever stands around it."""
    assume(outside_a_string(before))
    value = f"{before},{word},{after}".encode()
    directives = cache_control.parse_response_directives(value, None)

    assert directives.private or directives.no_store


@OFTEN
@given(MEMBERS, st.integers(0, 100), st.sampled_from([",", ";", " ", "\t,"]))
def test_a_lifetime_never_grows(rest: str, seconds: int, separator: str) -> None:
    """Whatever follows a max-age, nothing makes the response live longer than it says."""
    value = f"max-age={seconds}{separator}{rest}".encode()
    directives = cache_control.parse_response_directives(value, None)

    assert directives.max_age is not None
    assert directives.max_age <= seconds


@OFTEN
@given(ODD, ODD)
@example(b"max-age=" + b"9" * 5000, b"max-age=" + b"9" * 20)
@example(b"a;" + b'"' * 4000, b"\n")
@example(b"\n", b'a="\\\n"')
def test_directives_never_raise(one: bytes, two: bytes) -> None:
    """Arbitrary bytes are directives of requests and of responses, targeted ones too, and lifetimes are clamped."""
    asked = cache_control.parse_request_directives(one, two)
    said = cache_control.parse_response_directives(one, two)

    for seconds in (asked.max_age, asked.max_stale, asked.min_fresh, said.max_age, said.s_maxage, said.stale_if_error):
        assert seconds is None or 0 <= seconds <= cache_control.FOREVER


@OFTEN
@given(*[ODD] * 5, st.sampled_from([200, 206, 301, 404, 500, 299]))
def test_a_lifetime_and_an_age_are_never_negative(
    cache: bytes, expires: bytes, date: bytes, age: bytes, modified: bytes, status: int
) -> None:
    """Whatever an origin says of times, what is kept has an age and a lifetime between zero and 2^31."""
    lines = [
        (b"Cache-Control", cache),
        (b"Expires", expires),
        (b"Date", date),
        (b"Age", age),
        (b"Last-Modified", modified),
    ]
    response = Response(status, Fields(lines))
    kept = kept_response(Request(b"GET", b"/", b"a", Fields(())), response, Times(1e9, 1e9 + 1), Policy())

    assert 0 <= kept.lifetime <= cache_control.FOREVER
    assert 0 <= kept.initial_age <= cache_control.FOREVER
    assert kept.age(0.0) >= 0


# --- Dates, lists of tags, Vary


@OFTEN
@given(ODD | st.text("MonTueJanFeb 0123456789:,-GMT", max_size=40).map(str.encode), st.integers(0, 2**33))
def test_a_date_is_a_moment_or_nothing(value: bytes, now: int) -> None:
    """Arbitrary bytes make no error of a date."""
    moment = http_date.parse_date(value, now)

    assert moment is None or isinstance(moment, float)


@OFTEN
@given(st.integers(0, 253402300799))
def test_a_date_survives_being_written(moment: int) -> None:
    """Any second up to the year 9999 is read back as it was written."""
    assert http_date.parse_date(http_date.format_date(moment)) == moment


ETAGS = st.sampled_from([b'"a"', b'W/"a"', b'"b"', b'"a,b"', b'""', b'"\xff"'])


@OFTEN
@given(st.lists(ETAGS, min_size=1, max_size=5), ETAGS, st.sampled_from([b",", b", ", b" ,\t"]))
def test_a_list_of_tags_names_its_members(tags: list[bytes], etag: bytes, comma: bytes) -> None:
    """If-None-Match holds exactly for the tags in it, compared weakly."""
    request = Request(b"GET", b"/", b"a", Fields([(b"If-None-Match", comma.join(tags))]))
    named = {tag.removeprefix(b"W/") for tag in tags}

    assert preconditions.is_not_modified(request, stored(etag)) == (etag.removeprefix(b"W/") in named)


@OFTEN
@given(ODD, ODD, ODD)
def test_preconditions_never_raise(none_match: bytes, since: bytes, if_range: bytes) -> None:
    """Arbitrary conditions are answered, one way or the other."""
    lines = [
        (b"If-None-Match", none_match),
        (b"If-Modified-Since", since),
        (b"If-Range", if_range),
        (b"Range", b"bytes=0-1"),
    ]
    for kept in (lines, lines[1:]):
        request = Request(b"GET", b"/", b"a", Fields(kept))
        assert preconditions.is_not_modified(request, stored(b'"a"')) in (True, False)
        assert ranges.if_range_holds(request, stored(b'"a"')) in (True, False)


def stored(etag: bytes) -> Stored:
    """A stored response with this tag."""
    fields = Fields([(b"ETag", etag), (b"Date", b"Tue, 14 Nov 2023 22:13:20 GMT")])
    return Stored(200, b"", fields, cache_control.ResponseDirectives(), 1.7e9, 0.0, 60.0, etag=etag)


CODINGS = st.lists(
    st.tuples(
        st.sampled_from(["gzip", "br", "identity", "*", "x-gzip", "zstd"]),
        st.sampled_from(["", ";q=0", ";q=0.5", ";q=1"]),
    ),
    max_size=4,
)


def acceptable(value: bytes) -> set[bytes]:
    """The codings that an Accept-Encoding wants, with x-gzip for gzip (RFC 9110 §8.4.1.3), and what it forbids."""
    wanted, refused = set(), set()
    for member in filter(None, value.split(b",")):
        name, _, weight = member.partition(b";q=")
        (wanted if float(weight or 1) > 0 else refused).add(name.removeprefix(b"x-"))
    forbidden = refused - {b"*"} if b"*" in wanted else set()  # what is not named is not wanted anyway
    if b"identity" in refused or (b"*" in refused and b"identity" not in wanted):
        forbidden.add(b"identity")
    return wanted - {b"identity"} | {b"!" + name for name in forbidden}


@OFTEN
@given(CODINGS, CODINGS)
def test_equal_variants_accept_the_same(one: list[tuple[str, str]], two: list[tuple[str, str]]) -> None:
    """Two Accept-Encodings that select the same variant want the same codings."""
    values = [",".join(name + weight for name, weight in codings).encode() for codings in (one, two)]
    first, second = (
        vary.selecting_values((b"accept-encoding",), Fields([(b"Accept-Encoding", one)])) for one in values
    )

    if first == second:
        assert acceptable(values[0]) == acceptable(values[1])


@OFTEN
@given(st.sampled_from([b"accept-encoding", b"accept-language", b"cookie", b"x-a"]), ODD, ODD)
def test_selecting_never_raises_and_tells_values_apart(name: bytes, one: bytes, two: bytes) -> None:
    """Arbitrary values select; outside the two lists of preferences only white space around commas is ignored."""
    first, second = (vary.selecting_values((name,), Fields([(name, value)])) for value in (one, two))
    vary.preferred_language(one)
    vary.vary_names(Fields([(b"vary", one)]))

    if first == second and name in (b"cookie", b"x-a"):
        blanks = bytes.maketrans(b"", b"")
        assert one.translate(blanks, b" \t") == two.translate(blanks, b" \t")


# --- The readers of the wire


@OFTEN
@given(ODD | st.binary(max_size=200))
def test_heads_are_taken_or_refused(data: bytes) -> None:
    """Arbitrary bytes are a head or a named refusal, of a request and of a response; nothing else comes out."""
    reasons: list[str] = []
    for read in (lambda: HEADS.parse(data + b"\r\n\r\n"), lambda: parse_response_head(data + b"\r\n\r\n", b"GET")):
        try:
            read()
        except (BadRequest, OriginError) as refusal:
            reasons.append(refusal.reason)
    assert all(reasons)


def chunks_read(*pieces: bytes) -> tuple[bytes, bool, bytes] | str:
    """What a chunked body read in these pieces comes to."""
    reader, content = ChunkedBody(), bytearray()
    try:
        for piece in pieces:
            if reader.done:
                reader.rest += piece
            else:
                content += b"".join(reader.feed(piece))
    except BadBody:
        return "bad"
    return bytes(content), reader.done, reader.rest


CHUNKY = st.lists(
    st.sampled_from([b"5", b"a", b"0", b"\r\n", b"\r", b"\n", b"abcde", b";x", b"=y", b'"', b"X: y", b" "]), max_size=14
).map(b"".join)


@OFTEN
@given(CHUNKY | st.binary(max_size=30), st.integers(0, 60))
def test_chunks_are_read_alike_in_any_pieces(data: bytes, cut: int) -> None:
    """A chunked body cut anywhere is the same body, and the one that our reading of RFC 9112 has, or an error."""
    whole = chunks_read(data)
    assert chunks_read(data[:cut], data[cut:]) == whole
    assert chunks_read(*(data[at : at + 1] for at in range(len(data)))) == whole
    if whole != "bad" and whole[1]:
        content, end = rfc9112.chunked(data, 0)
        assert (content, data[end:]) == (whole[0], whole[2])
