"""Generated cases: one byte, each of 256, raw or percent-encoded, put into each position of a request.

What must come of a case is decided by the grammar, that is by `rfc9112.py` reading the bytes, and by the few choices
that the RFC leaves and the product has made, which are listed in `choices`. The product is not asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hostile import rfc9112
from hostile.readers import Seen

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
POSITIONS = {  # where the byte is put: at the `{}`
    "before-all": b"{}GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "method": b"GE{}T /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "method-end": b"GET{} /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-start": b"GET {}/a HTTP/1.1\r\nHost: a\r\n\r\n",
    "path": b"GET /a{}b HTTP/1.1\r\nHost: a\r\n\r\n",
    "query": b"GET /a?b{}c HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-end": b"GET /a{} HTTP/1.1\r\nHost: a\r\n\r\n",
    "version": b"GET /a HTTP/1.1{}\r\nHost: a\r\n\r\n",
    "line-start": GET + b"{}X-A: b\r\n\r\n",
    "line-alone": GET + b"{}\r\nX-A: b\r\n\r\n",
    "name": GET + b"X{}A: b\r\n\r\n",
    "before-colon": GET + b"X-A{}: b\r\n\r\n",
    "after-colon": GET + b"X-A:{}b\r\n\r\n",
    "value": GET + b"X-A: b{}c\r\n\r\n",
    "value-end": GET + b"X-A: b{}\r\n\r\n",
    "before-lf": GET + b"X-A: b{}\n\r\n",
    "before-lf-late": GET + b"X-A: b\r{}\n\r\n",
    "host": b"GET /a HTTP/1.1\r\nHost: a{}b\r\n\r\n",
    "host-end": b"GET /a HTTP/1.1\r\nHost: a.b{}\r\n\r\n",
    "host-start": b"GET /a HTTP/1.1\r\nHost: {}a\r\n\r\n",
    "length-start": b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}5\r\n\r\nabcde",
    "length-end": b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5{}\r\n\r\nabcde",
    "length-name": b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length{}: 0\r\n\r\n",
    "coding-start": b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {}chunked\r\n\r\n0\r\n\r\n",
    "coding-end": b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked{}\r\n\r\n0\r\n\r\n",
    "size-start": CHUNKED + b"{}5\r\nabcde\r\n0\r\n\r\n",
    "size-end": CHUNKED + b"5{}\r\nabcde\r\n0\r\n\r\n",
    "extension": CHUNKED + b"5;a{}\r\nabcde\r\n0\r\n\r\n",
    "extension-quoted": CHUNKED + b'5;a="{}"\r\nabcde\r\n0\r\n\r\n',
    "chunk-end": CHUNKED + b"5\r\nabcde{}\r\n0\r\n\r\n",
    "last-chunk": CHUNKED + b"0{}\r\n\r\n",
    "trailer-name": CHUNKED + b"0\r\nX{}A: b\r\n\r\n",
    "trailer-value": CHUNKED + b"0\r\nX-A: b{}c\r\n\r\n",
}
METHODS = frozenset((b"GET", b"POST"))  # of those that the cases can make; the POP knows more (wire/h1/head.py)
NOT_IN_A_URI = frozenset(b'"<>\\^`{|}')  # RFC 3986 §2: invalid in a URI, and yet sent by browsers
HOST_FOR_SURE = frozenset(rfc9112.ALPHA_DIGIT | frozenset(b".-_:"))


class Generated(NamedTuple):
    """One case: its bytes, what must come of them, and the request that the origin must see if they are taken."""

    id: str
    position: str
    at: int  # where in `data` the byte was put
    data: bytes
    verdict: str  # R refused, N taken, RN either, W neither: more bytes must come first
    seen: Seen | None = None


def generate() -> Iterator[Generated]:
    """Every position with every byte, raw and encoded."""
    for position, template in POSITIONS.items():
        for byte in range(256):
            for form, inserted in (("raw", bytes([byte])), ("encoded", b"%%%02X" % byte)):
                name = f"{position}-{form}-{byte:02x}"
                yield judged(name, position, template.find(b"{}"), template.replace(b"{}", inserted))


def judged(name: str, position: str, at: int, data: bytes) -> Generated:
    """The case `data`, judged by the grammar."""
    try:
        requests = rfc9112.read_requests(data)
    except rfc9112.Malformed:
        return Generated(name, position, at, data, "R")
    except rfc9112.Unfinished:
        return Generated(name, position, at, data, "W")
    assert len(requests) == 1, f"{name} holds {len(requests)} requests"
    request = requests[0]
    seen = Seen(request.method, request.target, normal_host(request.host), request.body)
    return Generated(name, position, at, data, choices(request, data), seen)


def choices(request: rfc9112.Request, data: bytes) -> str:
    """What must come of a request that the grammar allows, as far as the RFC leaves a choice."""
    if request.method not in METHODS:
        return "R"  # RFC 9110 §15.6.2: what we do not know we do not pass on
    doubtful = not NOT_IN_A_URI.isdisjoint(request.target)
    doubtful |= not HOST_FOR_SURE.issuperset(request.host) or not request.host[:1].isalnum() or b".." in request.host
    quoted = data.partition(b';a="')[2].partition(b'"\r\n')[0]
    doubtful |= b"\\" in quoted or any(byte >= 0x80 for byte in quoted)
    coding = data.partition(b"Transfer-Encoding:")[2].partition(b"\r\n")[0]
    doubtful |= b"\t" in coding  # llhttp refuses what the grammar lets pass: both must accept
    return "RN" if doubtful else "N"


def normal_host(host: bytes) -> bytes:
    """The site that a Host names: RFC 9110 §4.2.3 (case, default port), and a final dot."""
    name, _, port = host.lower().partition(b":")
    port = port.lstrip(b"0")
    name = name.removesuffix(b".")
    return name + b":" + port if port not in (b"", b"80") else name
