"""Heads of HTTP/1.1 messages: bytes to `Request` and `Response`, or one named refusal.

llhttp (by httptools) splits the head; it lets pass what a shared cache must not, so a grammar written from RFC 9112
reads every head first, as one regular expression. Both must accept. What remains are the rules that a grammar cannot
say (framing, Host, target forms); they follow in the order of the RFC. Nothing is repaired: what is doubtful is
refused (RFC 9112 §11.2), because a repair is where two parsers begin to disagree.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from edgecache.semantics import uri
from edgecache.semantics.bounded_cache import BoundedCache, RecentlySeen, weight_of_head
from edgecache.semantics.cache_tags import with_tags
from edgecache.semantics.client_claims import claims_in
from edgecache.semantics.forwarding import downstream_lines, is_disguised
from edgecache.semantics.message import (
    NO_BODY,
    NOT_NOMINATED,
    FieldLine,
    Fields,
    Framing,
    Request,
    Response,
    connection_options,
)
from edgecache.wire.errors import BadRequest, OriginError
from edgecache.wire.h1.llhttp import Splitter
from edgecache.wire.head_limits import MOST_FIELDS, HeadLimits

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # RFC 9110 §5.6.2
FIELD_LINES: Final = rb"((?:" + TOKEN + rb":[\t -~\x80-\xff]*+\r\n)*+)"  # RFC 9112 §5: no fold, no space before ":"
REQUEST_LINE: Final = rb"(" + TOKEN + rb") ([!-~]++) HTTP/([0-9])\.([0-9])\r\n"
ODD_HEAD: Final = re.compile(REQUEST_LINE + FIELD_LINES + rb"\r\n")
REQUEST_HEAD: Final = re.compile(REQUEST_LINE + FIELD_LINES.replace(TOKEN, rb"[0-9A-Za-z-]++") + rb"\r\n")
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
FRAMING_FIELDS: Final = frozenset((b"host", b"content-length", b"transfer-encoding"))
UNKNOWN_CODING: Final = re.compile(  # a word that is no coding: nothing says that the bytes are not the content
    rb"(?!(?i:(?:x-)?(?:gzip|compress|bzip2?)|deflate|br|zstd|dc[bz]|exi|xz|lzma|pack200-gzip|aes128gcm|.*chunk.*)\Z)"
    rb"[0-9A-Za-z-]{1,64}"
)


LONGEST_REASON: Final = 128  # bytes; it means nothing (RFC 9112 §4): a longer one is left out
MOST_REMEMBERED: Final = 2048  # heads
LONGEST_REMEMBERED: Final = 2048  # bytes of one
MOST_BYTES: Final = 16 * 1024 * 1024  # that they weigh, where no other bound is set


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
        self._purging = purging  # whether anybody may purge
        self._parsed: BoundedCache[bytes, Request] = BoundedCache(MOST_REMEMBERED, most_bytes, weight_of_head, hold)
        self._seen = RecentlySeen()
        self._splitter = Splitter()

    def forget_all(self) -> None:
        """Let go of what heads parse to."""
        self._parsed.clear()

    def parse(self, raw: bytes, scheme: bytes = b"http") -> Request:
        """The request whose head is `raw`, up to and with its empty line; raises `BadRequest`.

        Identical bytes parse identically: heads of requests without a body are remembered, once accepted, if they come
        again.
        """
        request = self._parsed.get(raw)
        if request is None or request.scheme != scheme:
            request = self._parse(raw, scheme)
            if request.framing is NO_BODY and len(raw) <= LONGEST_REMEMBERED and self._seen.again(raw):
                self._parsed.remember(raw, request)
        return request

    def _parse(self, raw: bytes, scheme: bytes) -> Request:
        match = REQUEST_HEAD.fullmatch(raw)
        odd = match is None
        if match is None:
            match = ODD_HEAD.fullmatch(raw)
            if match is None:
                raise why_not_a_head(raw)
        method, target, major, minor, _ = match.groups()
        if major != b"1":
            raise BadRequest(505, "http-version")
        count = self._check_limits(raw, match)
        if not self._is_known(method):
            raise BadRequest(501, "method", "this method is not implemented here")
        lines = self._splitter.split(raw if method in METHODS else b"PURGE" + raw[len(method) :], count)
        if b" \r\n" in raw or b"\t\r\n" in raw:  # RFC 9112 §5.1: blanks after a value are not of it; llhttp keeps them
            lines = [(name, value.rstrip(b" \t")) for name, value in lines]
        fields = Fields(lines)
        index = fields.index
        if minor == b"0" or not _LEAVES_START.isdisjoint(index):
            self._splitter.renew()
        if odd:  # to CGI, Transfer_Encoding is Transfer-Encoding: such fields are dropped
            fields = Fields(line for line in fields if not is_disguised(line[0]))
            index = fields.index
        host, target = _host_and_target(method, target, fields, scheme, minor)
        framing = request_framing(fields, minor == b"0")
        if len(index) != len(fields.lines):
            _refuse_repeated(fields)
        keep_alive = minor != b"0"
        connection = index.get(b"connection")
        if connection is not None and (connection != b"keep-alive" or minor == b"0"):
            options = connection_options(fields)
            if not FRAMING_FIELDS.isdisjoint(options):  # nobody may strip what delimits the message
                raise BadRequest(400, "connection-option", "Connection names a field that delimits the message")
            keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
            if not options <= NOT_NOMINATED:  # what is not sent on does not select, authorize or ask for anything here
                fields = fields.without(options - NOT_NOMINATED)
        claims = claims_in(index)
        return Request(method, target, host, fields, framing, minor == b"0", keep_alive, scheme, claims=claims)

    def _is_known(self, method: bytes) -> bool:
        """Whether `method` is answered: not CONNECT, which is for forward proxies, nor what cannot be passed on."""
        return method in METHODS or (self._purging and method in LIKE_PURGE)

    def check_unfinished(self, start: bytes, scanned: int = 0) -> None:
        """Raise `BadRequest` if `start`, of which `scanned` bytes were checked before, can no longer become a head."""
        limits = self.limits
        if start.find(b"\n", 0, limits.line + 2) < 0 and len(start) > limits.line + 2:
            raise BadRequest(414, "line-too-long", "the request line is too long")
        if len(start) > limits.head:
            raise BadRequest(431, "head-too-large", "the head is too large")
        if BARE_LINE_END.search(start, max(0, scanned - 1)):
            raise BadRequest(400, "bare-line-end", "a line ends in a bare CR or LF")

    def _check_limits(self, raw: bytes, match: re.Match[bytes]) -> int:
        """The number of field lines, if the head is within its limits."""
        limits = self.limits
        if match.start(5) - 2 > limits.line:
            raise BadRequest(414, "line-too-long", "the request line is too long")
        if len(raw) > limits.head:
            raise BadRequest(431, "head-too-large", "the head is too large")
        count = raw.count(b"\n", match.start(5), match.end(5))
        if count > limits.fields:
            raise BadRequest(431, "too-many-fields", "the head has too many fields")
        if len(raw) > limits.line and any(len(line) > limits.line for line in raw.split(b"\r\n")):
            raise BadRequest(431, "line-too-long", "a field line is too long")
        return count


# Fields after which llhttp waits for a body or for the end, so that the next head needs a new parser.
_LEAVES_START: Final = frozenset(
    (b"connection", b"proxy-connection", b"content-length", b"transfer-encoding", b"upgrade")
)


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


def _host_and_target(method: bytes, target: bytes, fields: Fields, scheme: bytes, minor: bytes) -> tuple[bytes, bytes]:
    """The site and the origin-form target that the request means (RFC 9112 §3.2, §3.3)."""
    value = fields.get(b"host")
    if value is None and minor != b"0":
        raise BadRequest(400, "host", "the request has no Host")  # RFC 9112 §3.2
    host = normal_host(value, scheme) if value is not None else b"localhost"
    if b"#" in target:
        raise BadRequest(400, "target", "a target has no fragment")
    if target[0] == 0x2F:
        return host, target
    if target == b"*" and method == b"OPTIONS":
        return host, target
    absolute = ABSOLUTE.fullmatch(target)
    if absolute is None or absolute[1].lower() != scheme:
        raise BadRequest(400, "target", "the target is in a form that this server does not take")
    named = normal_host(absolute[2], scheme)  # RFC 9112 §3.2.2: it counts, whatever Host says
    path = absolute[3] or (b"*" if method == b"OPTIONS" else b"/")
    return named, path if path[:1] in (b"/", b"*") else b"/" + path


def request_framing(fields: Fields, http_1_0: bool) -> Framing:
    """How the body of a request is delimited, or `BadRequest` (RFC 9112 §6.3, steps 3 to 6)."""
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise BadRequest(400, "length-and-coding", "both Content-Length and Transfer-Encoding")  # step 3
        if http_1_0:
            raise BadRequest(400, "coding-in-1.0", "Transfer-Encoding in HTTP/1.0")  # RFC 9112 §6.1
        if coding.lower() != b"chunked":
            raise BadRequest(501, "transfer-coding", "only the chunked transfer coding is taken")  # step 4
        return Framing(None, chunked=True)
    if length is not None:
        if not LENGTH.fullmatch(length):
            raise BadRequest(400, "content-length", "the Content-Length is malformed")  # step 5
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
    if status < 200 and status != 101:  # it is passed on at once; to switch protocols, Upgrade must be seen
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
            raise OriginError("transfer-coding", "a transfer coding that nobody asked for")  # §6.1: TE was not sent
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
