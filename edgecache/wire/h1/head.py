"""Heads of HTTP/1.1 messages: bytes to `Request` and `Response`, or one named refusal.

llhttp (by httptools) splits the head; it lets pass what a shared cache must not, so a grammar written from RFC 9112
reads every head first, as one regular expression. Both must accept. What remains are the rules that a grammar cannot
say (framing, Host, target forms); they follow in the order of the RFC. Nothing is repaired: what is doubtful is
refused (RFC 9112 §11.2), because a repair is where two parsers begin to disagree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Final

import httptools

from edgecache.semantics import uri
from edgecache.semantics.bounded_cache import BoundedCache, RecentlySeen, weight_of_head
from edgecache.semantics.cache_tags import with_tags
from edgecache.semantics.client_claims import claims_in
from edgecache.semantics.forwarding import downstream_lines, is_disguised
from edgecache.semantics.message import (
    NO_BODY,
    FieldLine,
    Fields,
    Framing,
    Request,
    Response,
)
from edgecache.semantics.stored_response import HOP_BY_HOP
from edgecache.wire.errors import BadRequest, OriginError
from edgecache.wire.h1.hop_by_hop import FRAMING_FIELDS, USUAL, Hop, request_hop, response_end_to_end
from edgecache.wire.head_limits import MOST_FIELDS, HeadLimits

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # RFC 9110 §5.6.2
VALUE: Final = rb"[\t -~\x80-\xff]*+"
FIELD_LINES: Final = rb"((?:" + TOKEN + rb":" + VALUE + rb"\r\n)*+)"  # RFC 9112 §5: no fold, no space before ":"
REQUEST_LINE: Final = rb"(" + TOKEN + rb") ([!-~]++) HTTP/([0-9])\.([0-9])\r\n"
REQUEST_HEAD: Final = re.compile(REQUEST_LINE + FIELD_LINES + rb"\r\n")
TIDY_HEAD: Final = re.compile(  # one whose fields mean exactly what llhttp reads
    REQUEST_LINE + rb"((?:[0-9A-Za-z-]++:" + VALUE + rb"(?<![\t ])\r\n)*+)\r\n"
)
RESPONSE_HEAD: Final = re.compile(  # RFC 9112 §5.1: whitespace before a response's ":" is removed, not refused
    rb"HTTP/1\.([0-9]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*+))?\r\n"
    + FIELD_LINES.replace(TOKEN + rb":", TOKEN + rb"[\t ]*+:")
    + rb"\r\n"
)
BLANK_BEFORE_COLON: Final = re.compile(rb"(?m)^[^:\r\n]*[\t ]:")
ABSOLUTE: Final = re.compile(rb"(?i:(https?))://([^/?#@]*)([/?][!-~]*)?")
BARE_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
LENGTH: Final = re.compile(rb"[0-9]{1,18}")
METHODS: Final = frozenset(
    b"GET HEAD POST PUT DELETE PATCH OPTIONS TRACE QUERY PURGE PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH "
    b"REPORT CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE MKCALENDAR ACL BIND REBIND UNBIND LINK UNLINK "
    b"MKACTIVITY SOURCE".split()
)
LIKE_PURGE: Final = frozenset((b"BAN", b"PURGEKEYS"))  # known where somebody may purge; llhttp does not know them
NOT_REPEATABLE: Final = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"authorization",
        b"range",
        b"if-range",
        b"if-modified-since",
        b"if-unmodified-since",
        b"content-range",
        b"max-forwards",
    )
)
BODILESS: Final = frozenset((204, 304))  # final statuses whose responses have no content, to whatever method
DELIMITING: Final = frozenset((b"content-length", b"transfer-encoding"))
SLASH: Final = 0x2F
UNKNOWN_CODING: Final = re.compile(  # a word that is no coding: nothing says that the bytes are not the content
    rb"(?!(?i:(?:x-)?(?:gzip|compress|bzip2?)|deflate|br|zstd|dc[bz]|exi|xz|lzma|pack200-gzip|aes128gcm|.*chunk.*)\Z)"
    rb"[0-9A-Za-z-]{1,64}"
)


LONGEST_REASON: Final = 128  # bytes; it means nothing (RFC 9112 §4): a longer one is left out
MOST_REMEMBERED: Final = 2048  # heads
LONGEST_REMEMBERED: Final = 2048  # bytes of one
MOST_BYTES: Final = 16 * 1024 * 1024  # that they weigh, where no other bound is set


Parsed = tuple[Request, Hop]  # a request, and what its head says to this hop


class RequestHeads:
    """A reader of request heads."""

    def __init__(
        self,
        limits: HeadLimits,
        most_bytes: int = MOST_BYTES,
        hold: Callable[[int], None] | None = None,
        *,
        purging: bool = False,
    ) -> None:
        self.limits = limits
        self._short = min(limits.line, limits.head)  # bytes of a head that has no line too long
        self._methods = METHODS | LIKE_PURGE if purging else METHODS  # CONNECT, which is for forward proxies, is none
        self._parsed: BoundedCache[bytes, tuple[Request, Hop]] = BoundedCache(
            MOST_REMEMBERED, most_bytes, weight_of_head, hold
        )
        self._seen = RecentlySeen()

    def forget_all(self) -> None:
        """Let go of what heads parse to."""
        self._parsed.clear()

    def parse(self, raw: bytes, scheme: bytes = b"http") -> Parsed:
        """What the head `raw` says, up to and with its empty line; raises `BadRequest`.

        Heads without a body that come again are remembered, once accepted: identical bytes parse identically.
        """
        parsed = self._parsed.get(raw)
        if parsed is None or parsed[0].scheme != scheme:
            parsed = self._parse(raw, scheme)
            if parsed[0].framing is NO_BODY and len(raw) <= LONGEST_REMEMBERED and self._seen.again(raw):
                self._parsed.remember(raw, parsed)
        return parsed

    def _parse(self, raw: bytes, scheme: bytes) -> Parsed:
        match = TIDY_HEAD.fullmatch(raw) or REQUEST_HEAD.fullmatch(raw)
        if match is None:
            raise why_not_a_head(raw)
        method, target, major, minor, _ = match.groups()
        count = raw.count(b"\n") - 2
        if major != b"1" or len(raw) > self._short or count > self.limits.fields or method not in self._methods:
            self._check(raw, match, count)
        fields = Fields(split(raw if method in METHODS else b"PURGE" + raw[len(method) :], count))
        if match.re is REQUEST_HEAD:
            fields = _tidied(fields)
        index, http_1_0 = fields.index, minor == b"0"
        if target[0] == SLASH and b"#" not in target and b"host" in index:
            host = normal_host(index[b"host"], scheme)
        else:
            host, target = _host_and_target(method, target, fields, scheme, http_1_0)
        framing = NO_BODY if DELIMITING.isdisjoint(index) else request_framing(fields, http_1_0, self.limits.body)
        if len(index) != len(fields):
            _refuse_repeated(fields)
        hop, version, claims = USUAL, "1.0" if http_1_0 else "1.1", claims_in(index)
        if http_1_0 or not HOP_BY_HOP.isdisjoint(index):
            fields, hop = request_hop(method, fields, framing, http_1_0)
        return Request(method, target, host, fields, framing, version, hop.upgrade, scheme, claims=claims), hop

    def _check(self, raw: bytes, match: re.Match[bytes], count: int) -> None:
        """Raise `BadRequest` if the head is of another protocol, beyond the limits, or of a method unknown here."""
        limits = self.limits
        if match[3] != b"1":
            raise BadRequest(505, "http-version")
        if match.start(5) - 2 > limits.line:
            raise BadRequest(414, "line-too-long", "the request line is too long")
        if len(raw) > limits.head:
            raise BadRequest(431, "head-too-large", "the head is too large")
        if count > limits.fields:
            raise BadRequest(431, "too-many-fields", "the head has too many fields")
        if any(len(line) > limits.line for line in raw.split(b"\r\n")):
            raise BadRequest(431, "line-too-long", "a field line is too long")
        if match[1] not in self._methods:
            raise BadRequest(501, "method", "this method is not implemented here")

    def check_unfinished(self, start: bytes, scanned: int = 0) -> None:
        """Raise `BadRequest` if `start`, of which `scanned` bytes were checked before, can no longer become a head."""
        limits = self.limits
        if start.find(b"\n", 0, limits.line + 2) < 0 and len(start) > limits.line + 2:
            raise BadRequest(414, "line-too-long", "the request line is too long")
        if len(start) > limits.head:
            raise BadRequest(431, "head-too-large", "the head is too large")
        if BARE_LINE_END.search(start, max(0, scanned - 1)):
            raise BadRequest(400, "bare-line-end", "a line ends in a bare CR or LF")


class _FirstLines:
    """What llhttp calls back with: for each line a dict's own method, which costs no frame of ours."""

    def __init__(self) -> None:
        lines: dict[bytes, bytes] = {}  # the first line of each name, in its spelling
        self.on_header = lines.setdefault
        self.lines: Collection[FieldLine] = lines.items()
        self.complete = False

    def on_headers_complete(self) -> None:
        self.complete = True


class _EveryLine:
    """The same, where names are repeated."""

    def __init__(self) -> None:
        self.lines: list[FieldLine] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


def split(raw: bytes, count: int) -> Collection[FieldLine]:
    """The field lines of the head `raw`, so many, as llhttp reads them; its refusal is a `BadRequest`."""
    lines = _read_by_llhttp(raw, _FirstLines())
    return lines if len(lines) == count else _read_by_llhttp(raw, _EveryLine())


def _read_by_llhttp(raw: bytes, head: _FirstLines | _EveryLine) -> Collection[FieldLine]:
    try:
        httptools.HttpRequestParser(head).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # the head is complete, and what follows it is not llhttp's to read
    except (httptools.HttpParserError, httptools.HttpParserInvalidMethodError) as error:
        raise BadRequest(400, "malformed-head", str(error)[:100]) from None
    if not head.complete:
        raise BadRequest(400, "malformed-head")
    return head.lines


def why_not_a_head(raw: bytes) -> BadRequest:
    """The refusal for bytes that are not a request head: its reason tells the class of the fault."""
    first, _, rest = raw.partition(b"\r\n")
    if BARE_LINE_END.search(raw):
        return BadRequest(400, "bare-line-end", "a line ends in a bare CR or LF")
    if not re.fullmatch(rb"[^ ]+ [^ ]+ HTTP/[0-9]\.[0-9]", first):
        return BadRequest(400, "request-line", "the request line is malformed")
    if re.search(rb"\r\n[ \t]", raw):
        return BadRequest(400, "obs-fold", "a field line is folded")
    if re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", rest):
        return BadRequest(400, "control-character", "a field holds a control character")
    return BadRequest(400, "field-line", "a field line is malformed")


@lru_cache(maxsize=4096)
def normal_host(value: bytes, scheme: bytes) -> bytes:
    """The site that `value` names, in the one form of its name; raises `BadRequest`."""
    try:
        return uri.site(value, scheme)
    except ValueError as error:
        raise BadRequest(400, "host", f"the Host {error}") from None


def _tidied(fields: Fields) -> Fields:
    """`fields` as they are meant, in a head that is well-formed.

    Blanks after a value are not of it (RFC 9112 §5.1). To CGI, Transfer_Encoding is Transfer-Encoding: such fields are
    dropped.
    """
    return Fields([(name, value.rstrip(b" \t")) for name, value in fields if not is_disguised(name)])


def _host_and_target(
    method: bytes, target: bytes, fields: Fields, scheme: bytes, http_1_0: bool
) -> tuple[bytes, bytes]:
    """The site and the origin-form target that the request means (RFC 9112 §3.2, §3.3)."""
    value = fields.get(b"host")
    if value is None and not http_1_0:
        raise BadRequest(400, "host", "the request has no Host")  # RFC 9112 §3.2
    host = normal_host(value, scheme) if value is not None else b"localhost"
    if b"#" in target:
        raise BadRequest(400, "target", "a target has no fragment")
    if target[0] == SLASH:
        return host, target
    if target == b"*" and method == b"OPTIONS":
        return host, target
    absolute = ABSOLUTE.fullmatch(target)
    if absolute is None or absolute[1].lower() != scheme:
        raise BadRequest(400, "target", "the form of the target is not supported")
    named = normal_host(absolute[2], scheme)  # RFC 9112 §3.2.2: it counts, whatever Host says
    path = absolute[3] or (b"*" if method == b"OPTIONS" else b"/")
    return named, path if path[:1] in (b"/", b"*") else b"/" + path


def request_framing(fields: Fields, http_1_0: bool, most: int) -> Framing:
    """How the body of a request is delimited, or `BadRequest` (RFC 9112 §6.3, steps 3 to 6)."""
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise BadRequest(400, "length-and-coding", "both Content-Length and Transfer-Encoding")  # step 3
        if http_1_0:
            raise BadRequest(400, "coding-in-1.0", "Transfer-Encoding in HTTP/1.0")  # RFC 9112 §6.1
        if coding.lower() != b"chunked":
            raise BadRequest(501, "transfer-coding", "only the chunked transfer coding is supported")  # step 4
        return Framing(None, chunked=True)
    if length is not None:
        if not LENGTH.fullmatch(length):
            raise BadRequest(400, "content-length", "the Content-Length is malformed")  # step 5
        if most and int(length) > most:
            raise BadRequest(413, "body-too-large", "the request's body is too large")
        return Framing(int(length))
    return NO_BODY  # step 7


def _refuse_repeated(fields: Fields) -> None:
    seen = set()
    for name, _ in fields.lines:
        lower = name.lower()
        if lower in NOT_REPEATABLE:
            if lower in seen:
                raise BadRequest(400, "repeated-field", "a field that may occur once is repeated")
            seen.add(lower)


class ResponseHeads:
    """A reader of response heads; the last ones are remembered: an origin repeats itself within a second."""

    def __init__(
        self,
        hidden: frozenset[bytes] = frozenset(),
        unbelieved: frozenset[bytes] = frozenset(),
        tagging: frozenset[bytes] = frozenset(),
        most_fields: int = MOST_FIELDS,
    ) -> None:
        self._most_fields = most_fields
        self._unbelieved = unbelieved  # fields that only a POP may send
        self._tagging = tagging  # further fields that bear tags
        self._hidden = hidden  # fields that are not passed on, beside those that are for this connection only
        self._parsed: BoundedCache[bytes, Response] = BoundedCache(MOST_REMEMBERED // 4)
        self.known = self._parsed.get  # the response whose head is exactly these bytes, to any method but HEAD

    def parse(self, raw: bytes, method: bytes) -> Response:
        """The response whose head is `raw`, answering a `method` request; raises `OriginError`."""
        if raw.count(b"\n") - 2 > self._most_fields:  # clients have bounds of their own, and fail on more
            raise OriginError("too-many-fields", "the upstream's head has too many fields")
        if method == b"HEAD":  # its framing differs
            return self._parse(raw, method)
        response = self._parsed.get(raw)
        if response is None:
            response = self._parse(raw, method)
            if len(raw) <= LONGEST_REMEMBERED and response.status >= 200:  # an interim one is never the whole answer
                self._parsed.remember(raw, response)
        return response

    def _parse(self, raw: bytes, method: bytes) -> Response:
        response = parse_response_head(raw, method, self._hidden, self._unbelieved)
        return response if not self._tagging else response._replace(fields=with_tags(response.fields, self._tagging))


def parse_response_head(
    raw: bytes, method: bytes, hidden: frozenset[bytes] = frozenset(), unbelieved: frozenset[bytes] = frozenset()
) -> Response:
    """The response whose head is `raw`, answering a `method` request; raises `OriginError`.

    The framing is validated before a byte of the body is used (RFC 9112 §6.3).
    """
    match = RESPONSE_HEAD.fullmatch(raw)
    if match is None:
        raise OriginError("malformed-head", "the upstream's head is malformed")
    minor, status_text, said, block = match.groups()
    lines = [_field_line(line) for line in block.split(b"\r\n")[:-1]]
    if BLANK_BEFORE_COLON.search(block):
        lines = [(_without_blanks(name), value) for name, value in lines]
    fields = Fields(lines).without(unbelieved)
    status = int(status_text)
    reason = said if said and len(said) <= LONGEST_REASON else b""
    framing = response_framing(status, fields, method, minor == b"0")
    connection = fields.get(b"connection")
    options = connection.lower() if connection is not None else b""
    keep_alive = not framing.until_close and b"close" not in options
    if minor == b"0" and b"keep-alive" not in options:
        keep_alive = False
    bodiless = method == b"HEAD" or status < 200 or status in BODILESS
    if bodiless and _may_have_content(method, fields):
        keep_alive = False
    if status != 101:  # to switch protocols, Upgrade must be seen
        fields = response_end_to_end(fields)
        if status < 200:  # it is passed on at once
            fields = Fields(downstream_lines(fields, hidden))
    return Response(status, fields, reason, framing, keep_alive)


def _may_have_content(method: bytes, fields: Fields) -> bool:
    """Whether a sloppy origin may send content with a response that has none (RFC 9112 §6.3 step 1).

    It would come after the response, and be taken for the answer to the next request on that connection. So such a
    connection is not used again: never after HEAD, but where the response says that there is none.
    """
    length = _agreed_length(fields)
    return length != 0 and (method == b"HEAD" or length is not None or b"transfer-encoding" in fields)


def _field_line(line: bytes) -> FieldLine:
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")


def _without_blanks(name: bytes) -> bytes:
    """A field's name without the whitespace after it; what frames the message must not have any (RFC 9112 §11.2)."""
    bare = name.rstrip(b" \t")
    if bare != name and bare.lower() in FRAMING_FIELDS:
        raise OriginError("malformed-head", "a field that delimits the upstream's message is malformed")
    return bare


def response_framing(status: int, fields: Fields, method: bytes, http_1_0: bool) -> Framing:
    """How the body of a response is delimited (RFC 9112 §6.3); raises `OriginError` where it is ambiguous."""
    length = _agreed_length(fields)
    if status < 200 or status in BODILESS or method == b"HEAD":  # step 1
        return NO_BODY
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        if fields.get(b"content-length") is not None:
            raise OriginError("length-and-coding", "both Content-Length and Transfer-Encoding")  # step 3
        if coding.lower() == b"chunked":
            if http_1_0:
                raise OriginError("coding-in-1.0", "Transfer-Encoding in HTTP/1.0")  # RFC 9112 §6.1
            return Framing(None, chunked=True)
        if not UNKNOWN_CODING.fullmatch(coding):
            raise OriginError("transfer-coding", "a transfer coding that was not requested")  # §6.1: TE was not sent
        return Framing(None)  # step 4: up to the close, as it is
    return Framing(length)  # steps 5, 6 and 8


def _agreed_length(fields: Fields) -> int | None:
    value = fields.get(b"content-length")
    if value is None:
        return None
    if LENGTH.fullmatch(value):
        return int(value)
    values = {part.strip(b" \t") for part in value.split(b",")}  # step 5: equal repeats are one length
    if len(values) != 1 or not LENGTH.fullmatch(length := values.pop()):
        raise OriginError("content-length", "the upstream's Content-Length is malformed")
    return int(length)
