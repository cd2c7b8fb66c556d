"""The proof that a request is another POP's: it holds for exactly what was signed, for a short time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.semantics.message import FieldLine, Fields, Framing, Request
from edgecache.semantics.query_content import with_content
from edgecache.upstream.peer_auth import WINDOW, Distrust, signature_line, verified_pop

SECRET, NOW = b"a secret of this fleet", 1_700_000_000.0
INTERNAL = ((b"Edgecache-Require", b"eu=5-0"), (b"Edgecache-Hop", b"1"))
PLAIN = Request(b"GET", b"/a?b", b"site", Fields([(b"Host", b"site"), (b"Accept", b"*/*")]))


def signed(request: Request = PLAIN, internal: tuple[FieldLine, ...] = INTERNAL, now: float = NOW) -> Request:
    """`request` as a POP named `edge-1` sends it."""
    line = signature_line(SECRET, b"edge-1", now, request, internal)
    return request._replace(fields=request.fields.plus(*internal, line))


def test_what_a_pop_signed_is_its_own() -> None:
    """In any order and spelling of the internal fields, whatever else proxies do to others."""
    request = signed()
    assert verified_pop([SECRET], NOW, request) == b"edge-1"
    lines = [(name.swapcase(), value) for name, value in reversed(request.fields.lines)]
    assert verified_pop([SECRET], NOW, request._replace(fields=Fields(lines).plus((b"Via", b"x")))) == b"edge-1"
    assert verified_pop([b"new", SECRET], NOW, request) == b"edge-1"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"target": b"/a?c"}, Distrust.FORGED),
        ({"host": b"other"}, Distrust.FORGED),
        ({"scheme": b"https"}, Distrust.FORGED),
        ({"method": b"HEAD"}, Distrust.FORGED),
        ({"method": b"POST"}, Distrust.METHOD),
        ({"framing": Framing(5)}, Distrust.METHOD),
        ({"framing": Framing(None, chunked=True)}, Distrust.METHOD),
        ({"fields": signed().fields.plus((b"Edgecache-More", b"x"))}, Distrust.FORGED),
        ({"fields": signed().fields.without((b"edgecache-hop",))}, Distrust.FORGED),
        ({"fields": signed().fields.plus((b"Edgecache-Hop", b"1"))}, Distrust.FORGED),
        ({"fields": signed().fields.plus((b"Edgecache-Pop", b"v1;x;1;y"))}, Distrust.MALFORMED),
        ({"fields": PLAIN.fields.plus(*INTERNAL)}, Distrust.UNSIGNED),
        ({"fields": PLAIN.fields.plus((b"Edgecache-Pop", b""))}, Distrust.MALFORMED),
    ],
)
def test_anything_else_is_not(change: dict[str, object], why: Distrust) -> None:
    """Nothing that the receiver acts on can be changed, added or left out."""
    assert verified_pop([SECRET], NOW, signed()._replace(**change)) is why  # type: ignore[arg-type]


def test_the_content_of_a_query_is_signed() -> None:
    """Another content, or none, is not what was signed; nor is one that is not here."""
    request = signed(with_content(PLAIN._replace(method=b"QUERY"), b"[1]"))
    for content, verdict in ((b"[1]", b"edge-1"), (b"[2]", Distrust.FORGED), (b"", Distrust.FORGED)):
        assert verified_pop([SECRET], NOW, with_content(request, content)) == verdict
    for framing in (Framing(3), Framing(0)):
        assert verified_pop([SECRET], NOW, request._replace(content=None, framing=framing)) is Distrust.METHOD


@pytest.mark.parametrize("secrets", [[], [b""], [b"another"]])
def test_without_the_secret_nobody_is_believed(secrets: list[bytes]) -> None:
    """An empty secret is none."""
    line = signature_line(b"", b"edge-1", NOW, PLAIN, ())
    assert verified_pop(secrets, NOW, PLAIN._replace(fields=PLAIN.fields.plus(line))) is Distrust.FORGED
    assert verified_pop(secrets, NOW, signed()) is Distrust.FORGED


@pytest.mark.parametrize("late", [-WINDOW - 1, -WINDOW, 0, WINDOW, WINDOW + 1, 86400])
def test_it_holds_for_a_short_time_only(late: float) -> None:
    """Either way, as clocks differ."""
    assert verified_pop([SECRET], NOW + late, signed()) == (b"edge-1" if abs(late) <= WINDOW else Distrust.EXPIRED)


@given(st.binary(max_size=80))
def test_no_value_is_believed_by_chance(value: bytes) -> None:
    """Nor does any raise."""
    request = PLAIN._replace(fields=PLAIN.fields.plus((b"Edgecache-Pop", value)))
    assert isinstance(verified_pop([SECRET], NOW, request), Distrust)


@given(st.integers(0, 500), st.integers(1, 255))
def test_no_bit_of_the_value_can_be_turned(at: int, turn: int) -> None:
    """Name, time and signature hold together."""
    name, value = signature_line(SECRET, b"edge-1", NOW, PLAIN, ())
    at %= len(value)
    other = value[:at] + bytes([value[at] ^ turn]) + value[at + 1 :]
    request = PLAIN._replace(fields=PLAIN.fields.plus((name, other)))
    assert isinstance(verified_pop([SECRET], NOW, request), Distrust)


@given(st.binary(max_size=5), st.binary(max_size=5), st.binary(max_size=5), st.binary(max_size=5))
def test_parts_do_not_run_into_each_other(host: bytes, target: bytes, host2: bytes, target2: bytes) -> None:
    """Moving a byte over the border between site and target is another request."""
    one = signature_line(SECRET, b"p", NOW, PLAIN._replace(host=host, target=target), ())
    two = signature_line(SECRET, b"p", NOW, PLAIN._replace(host=host2, target=target2), ())
    assert (one == two) == ((host, target) == (host2, target2))
