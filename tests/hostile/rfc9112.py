"""A strict reader of HTTP/1.1 messages, written from RFC 9112 section by section and from nothing else.

It repairs nothing and forgives nothing: what the grammar does not say is `Malformed`, and what is cut short is
`Unfinished`. It reads whole streams of bytes, not pieces, and imports neither the product nor any parser.
"""

from __future__ import annotations

from typing import Final, NamedTuple

ALPHA_DIGIT: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
TCHAR: Final = ALPHA_DIGIT | frozenset(b"!#$%&'*+-.^_`|~")  # RFC 9110 §5.6.2
VCHAR: Final = frozenset(range(0x21, 0x7F))
FIELD_BYTE: Final = (
    VCHAR | frozenset(range(0x80, 0x100)) | frozenset(b" \t")
)  # RFC 9110 §5.5: VCHAR, obs-text, SP, HTAB
QDTEXT: Final = FIELD_BYTE - frozenset(b'"\\')  # RFC 9110 §5.6.4
HEX: Final = frozenset(b"0123456789ABCDEFabcdef")
DIGIT: Final = frozenset(b"0123456789")
HOST_BYTE: Final = ALPHA_DIGIT | frozenset(b"-._~!$&'()*+,;=%")  # RFC 3986 §3.2.2: reg-name

Lines = list[tuple[bytes, bytes]]


class Malformed(Exception):
    """The bytes are not what RFC 9112 calls a message; the text names the rule."""


class Unfinished(Exception):
    """The bytes end inside a message."""


class Request(NamedTuple):
    """One request: its line, its field lines, and its content with the framing removed."""

    method: bytes
    target: bytes
    version: bytes
    lines: Lines
    body: bytes

    @property
    def host(self) -> bytes:
        """The value of Host, as sent."""
        return one(self.lines, b"host") or b""


class Response(NamedTuple):
    """One response: its status line, its field lines, and its content with the framing removed."""

    status: int
    reason: bytes
    lines: Lines
    body: bytes


def read_requests(stream: bytes) -> list[Request]:
    """Every request in `stream`, which must hold whole requests and nothing else."""
    requests, at = [], 0
    while at < len(stream):
        request, at = read_request(stream, at)
        requests.append(request)
    return requests


def read_request(stream: bytes, at: int) -> tuple[Request, int]:
    """The request that begins at `at`, and where the next one begins."""
    line, at = read_line(stream, at)
    method, target, version = request_line(line)
    lines, at = field_lines(stream, at)
    check_host(lines, target)
    body, at = request_body(stream, at, lines, version)
    return Request(method, target, version, lines, body), at


def read_response(stream: bytes, at: int, method: bytes) -> tuple[Response, int]:
    """The response to a `method` request that begins at `at`, and where the next one begins; interim ones too."""
    line, at = read_line(stream, at)
    status, reason = status_line(line)
    lines, at = field_lines(stream, at)
    length = content_length(lines)
    if status < 200 or status in (204, 304) or method == b"HEAD":  # §6.3, 1
        return Response(status, reason, lines, b""), at
    if (coding := one(lines, b"transfer-encoding")) is not None:
        require(length is None, "§6.3, 3: both Content-Length and Transfer-Encoding")
        require(line.startswith(b"HTTP/1.1"), "§6.1: Transfer-Encoding in HTTP/1.0")
        require(coding.lower() == b"chunked", "§6.1: a transfer coding that is not known")
        body, at = chunked(stream, at)
    elif length is not None:
        body, at = exactly(stream, at, length)
    else:
        body, at = stream[at:], len(stream)  # §6.3, 8
    return Response(status, reason, lines, body), at


def require(holds: bool, rule: str) -> None:
    """Raise `Malformed` by the name of the rule that does not hold."""
    if not holds:
        raise Malformed(rule)


# --- §2.2 lines, §3 request line, §4 status line, §5 field lines


def read_line(stream: bytes, at: int) -> tuple[bytes, int]:
    """The line at `at` without its CRLF, and what follows it; a bare CR or LF is an error."""
    end = stream.find(b"\n", at)
    if end < 0:
        require(stream.find(b"\r", at, -1) < 0, "§2.2: bare CR")
        raise Unfinished("a line")
    require(end > at and stream[end - 1] == 0x0D, "§2.2: bare LF")
    line = stream[at : end - 1]
    require(b"\r" not in line, "§2.2: bare CR")
    return line, end + 1


def request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, target and version (§3)."""
    parts = line.split(b" ")
    require(len(parts) == 3, "§3: method SP request-target SP HTTP-version")
    method, target, version = parts
    require(bool(method) and TCHAR.issuperset(method), "§3.1: method = token")
    require(bool(target) and VCHAR.issuperset(target) and b"#" not in target, "§3.2: request-target")
    require(version in (b"HTTP/1.0", b"HTTP/1.1"), "§2.3: HTTP-version")
    slash, star = target.startswith(b"/"), target == b"*" and method == b"OPTIONS"
    require(slash or star or b"://" in target, "§3.2: a form of request-target")
    return method, target, version


def status_line(line: bytes) -> tuple[int, bytes]:
    """Status and reason phrase (§4)."""
    version, _, rest = line.partition(b" ")
    status, blank, reason = rest[:3], rest[3:4], rest[4:]
    require(version in (b"HTTP/1.0", b"HTTP/1.1"), "§2.3: HTTP-version")
    require(len(status) == 3 and DIGIT.issuperset(status) and status[0] != 0x30, "§4: status-code")
    require(blank in (b" ", b"") and FIELD_BYTE.issuperset(reason), "§4: reason-phrase")
    return int(status), reason


def field_lines(stream: bytes, at: int) -> tuple[Lines, int]:
    """The field lines up to the empty line (§5)."""
    lines: Lines = []
    while True:
        line, at = read_line(stream, at)
        if not line:
            return lines, at
        name, colon, value = line.partition(b":")
        require(bool(colon), "§5: a field line without colon")
        require(bool(name) and TCHAR.issuperset(name), "§5.1: field-name = token, no blank before the colon")
        require(FIELD_BYTE.issuperset(value), "RFC 9110 §5.5: field-content")
        lines.append((name, value.strip(b" \t")))


def one(lines: Lines, name: bytes) -> bytes | None:
    """The value of a field that may occur once, or None."""
    values = [value for key, value in lines if key.lower() == name]
    require(len(values) < 2, f"RFC 9110 §5.3: {name.decode()} is repeated")
    return values[0] if values else None


def check_host(lines: Lines, target: bytes) -> None:
    """§3.2: exactly one Host, and it is a uri-host with an optional port."""
    host = one(lines, b"host")
    require(host is not None, "§3.2: no Host")
    assert host is not None
    if host.startswith(b"["):
        name, bracket, rest = host[1:].partition(b"]")
        require(bool(bracket) and frozenset(name) <= HEX | frozenset(b":."), "RFC 3986 §3.2.2: IP-literal")
        port = rest[1:] if rest.startswith(b":") else rest
        require(rest[:1] in (b"", b":"), "RFC 3986 §3.2.2: IP-literal")
    else:
        name, _, port = host.partition(b":")
        require(bool(name) and HOST_BYTE.issuperset(name), "RFC 3986 §3.2.2: reg-name")
    require(DIGIT.issuperset(port) and int(port[:6] or b"0") < 65536, "RFC 3986 §3.2.3: port")


# --- §6 message body, §7 chunked


def content_length(lines: Lines) -> int | None:
    """RFC 9110 §8.6: 1*DIGIT, said once."""
    value = one(lines, b"content-length")
    if value is None:
        return None
    require(0 < len(value) < 19 and DIGIT.issuperset(value), "RFC 9110 §8.6: Content-Length = 1*DIGIT")
    return int(value)


def request_body(stream: bytes, at: int, lines: Lines, version: bytes) -> tuple[bytes, int]:
    """The content of a request (§6.3, steps 3 to 7), and what follows it."""
    length, coding = content_length(lines), one(lines, b"transfer-encoding")
    if coding is not None:
        require(length is None, "§6.3, 3: both Content-Length and Transfer-Encoding")
        require(version == b"HTTP/1.1", "§6.1: Transfer-Encoding in HTTP/1.0")
        require(coding.lower() == b"chunked", "§6.3, 4: the final coding is not chunked")
        return chunked(stream, at)
    return exactly(stream, at, length or 0)


def exactly(stream: bytes, at: int, length: int) -> tuple[bytes, int]:
    """The next `length` bytes."""
    if len(stream) - at < length:
        raise Unfinished("a body")
    return stream[at : at + length], at + length


def chunked(stream: bytes, at: int) -> tuple[bytes, int]:
    """The content of a chunked body (§7.1); trailer fields are read and dropped."""
    content = bytearray()
    while True:
        line, at = read_line(stream, at)
        size = chunk_size(line)
        if not size:
            return bytes(content), field_lines(stream, at)[1]
        piece, at = exactly(stream, at, size)
        content += piece
        end, at = exactly(stream, at, 2)
        require(end == b"\r\n", "§7.1: chunk-data CRLF")


def chunk_size(line: bytes) -> int:
    """The size in a chunk's first line; its extensions are checked and ignored (§7.1.1)."""
    digits = line.split(b";", 1)[0]
    if b";" in line:
        digits = digits.rstrip(b" \t")
    require(0 < len(digits) < 16 and HEX.issuperset(digits), "§7.1: chunk-size = 1*HEXDIG")
    at = len(digits)
    while at < len(line):
        at = chunk_extension(line, at)
    return int(digits, 16)


def chunk_extension(line: bytes, at: int) -> int:
    """Where the extension that begins at `at` ends: BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ]."""
    at = blanks_end(line, at)
    require(line[at : at + 1] == b";", "§7.1.1: an extension begins with a semicolon")
    end = token_end(line, blanks_end(line, at + 1))
    at = blanks_end(line, end)
    if line[at : at + 1] != b"=":
        return end
    at = blanks_end(line, at + 1)
    if line[at : at + 1] != b'"':
        return token_end(line, at)
    at += 1
    while at < len(line) and line[at] != 0x22:
        escaped = line[at] == 0x5C
        at += escaped
        require(at < len(line) and line[at] in (FIELD_BYTE if escaped else QDTEXT), "§7.1.1: quoted-string")
        at += 1
    require(at < len(line), "§7.1.1: a quoted-string is not ended")
    return at + 1


def blanks_end(line: bytes, at: int) -> int:
    """Where the bad whitespace that may begin at `at` ends (RFC 9110 §5.6.3)."""
    while line[at : at + 1] in (b" ", b"\t"):
        at += 1
    return at


def token_end(line: bytes, at: int) -> int:
    """Where the token that begins at `at` ends."""
    start = at
    while at < len(line) and line[at] in TCHAR:
        at += 1
    require(at > start, "§7.1.1: a token is missing")
    return at
