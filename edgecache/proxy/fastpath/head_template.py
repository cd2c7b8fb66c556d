"""Templates of heads: the fast path for GETs whose heads differ from an earlier one only in unkeyed fields.

Each visitor's heads are its own, by cookies, user agents, request IDs; nothing reads those when the response comes out
of memory (`semantics/unkeyed_fields.py`). The other field lines of a head, in their order, and the fingerprint that
middleware puts before it, are its essence. When a plain GET with some essence was parsed, accepted and answered by a
hit, and that for the second time, what follows from the essence is remembered. The next head is then split into its
lines, not parsed: unkeyed lines are well-formed by a look at each or by having been seen before, the request line by a
grammar of its own that takes plain GETs only, and the other lines because they are exactly those that were accepted.

So the parser's verdict comes first here too: it is reached line by line. A head is accepted iff each of its lines is
well-formed, its lines are neither too many nor too long, and its material lines, Host and framing and all, are
consistent. Whatever is new in a line that may matter goes the long way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from typing import Final

from edgecache.proxy.fastpath.head_memo import Rendered
from edgecache.semantics.bounded_cache import BoundedCache, RecentlySeen
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.ignored_parameters import IgnoredParameters
from edgecache.semantics.message import NOT_NOMINATED, Fields, Request, connection_options
from edgecache.semantics.preconditions import is_unconditional
from edgecache.semantics.unkeyed_fields import IN_A_VALUE, NEVER_TWICE, field_line, named_lines
from edgecache.semantics.vary import nominated
from edgecache.storage.memory import Entry
from edgecache.upstream.peer_fields import has_internal
from edgecache.wire.exchange import Exchange
from edgecache.wire.head_limits import HeadLimits

MOST_TEMPLATES: Final = 4096
MOST_LINES: Final = 60  # of a head
LONGEST_HEAD: Final = 4096  # bytes
MOST_NEW: Final = 24  # lines of a head that are judged if they are new
FEWEST_NEW: Final = 2  # the same while most heads prove to be like none that is known
MOST_CREDIT: Final = 256  # heads that may be tried in vain: each that is like a known one earns another
MOST_BYTES: Final = 8 * 1024 * 1024  # of all that is remembered here, where no other bound is set
MOST_ANSWERS: Final = 4096  # to requests that are not plain
LONGEST_LINE: Final = 400  # bytes, with what it costs beside its own; longer ones are looked at each time
LINE_OVERHEAD: Final = 150  # bytes that a remembered line costs beside its own
LONGEST_ESSENCE: Final = 2048  # bytes; longer ones are not learnt
CRLF: Final = b"\r\n"
AGENT_OR_REFERER: Final = frozenset(b"uUrR")  # how their lines begin
END: Final = b"\r\n\r\n"
GET: Final = re.compile(rb'((?:[^\r]*\n)?)GET (/[!-"$-~]*+) HTTP/1\.1\r\n')  # first the fingerprint of middleware

Essence = tuple[bytes, ...]  # the fingerprint before a head, and its keyed lines
Asked = tuple[int, int]  # the number of a template, and the identity of an entry


class NewLine(Exception):
    """A line that may matter is new, so no essence that is known has it; or too many lines are."""


class JudgedLines(dict[bytes, bool]):
    """Field lines, and whether each is material: judged when it is asked for, and remembered if it is short.

    A material line that is not remembered raises `NewLine`, and so does one new line too many.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.unkeyed: frozenset[bytes] = frozenset()  # names
        self.left = 0  # new lines that are judged of the head in hand
        self._most_bytes = most_bytes
        self._bytes = 0

    def __missing__(self, line: bytes) -> bool:
        self.left -= 1
        if self.left < 0:
            raise NewLine
        name, colon, value = line.partition(b":")
        name = name.lower()
        material = name not in self.unkeyed or not colon or value.translate(None, IN_A_VALUE) != b""
        if material or name not in NEVER_TWICE:
            self._remember(line, material)
        if material:
            raise NewLine
        return False

    def _remember(self, line: bytes, material: bool) -> None:
        weight = len(line) + LINE_OVERHEAD
        if weight > LONGEST_LINE:
            return
        self._bytes += weight
        if self._bytes > self._most_bytes:  # a flood of new lines: the usual ones will soon be back
            self.clear()
            self._bytes = weight
        self[line] = material

    def forget_all(self) -> None:
        """Judge anew."""
        self.clear()
        self._bytes = 0


class Template:
    """What GETs of one essence have in common."""

    __slots__ = ("fields", "host", "is_plain", "number", "origin", "scheme")

    def __init__(self, request: Request, unkeyed: frozenset[bytes], number: int) -> None:
        self.number = number  # no other has it
        self.scheme, self.host = request.scheme, request.host
        self.origin = primary_key(request._replace(target=b""))
        self.fields = request.fields.without(unkeyed)
        self.is_plain = is_unconditional(self.fields)  # each gets the whole, as all plain GETs do


class TemplateHit:
    """One request that is like known ones."""

    __slots__ = ("_lines", "_unkeyed", "key", "rendered", "target", "template")

    rendered: Rendered  # its answer, once that is found

    def __init__(
        self,
        template: Template,
        target: bytes,
        lines: list[bytes],
        unkeyed: frozenset[bytes],
        ignored: IgnoredParameters | None,
    ) -> None:
        self.template = template
        self.target = target
        self.key = template.origin + (target if ignored is None else ignored.without(target))  # as `primary_key` has it
        self._lines = lines  # all of its head's field lines
        self._unkeyed = unkeyed

    def selecting(self, names: tuple[bytes, ...]) -> Fields:
        """The fields by which a response that varies by `names` is selected."""
        fields, names = self.template.fields, nominated(names)
        if self._unkeyed.isdisjoint(names):
            return fields
        return fields.plus(*named_lines(self._lines, self._unkeyed.intersection(names)))

    @property
    def size(self) -> int:
        """Bytes of the head, with its request line and the empty line."""
        return len(b"GET  HTTP/1.1\r\n\r\n") + len(self.target) + sum(map(len, self._lines)) + 2 * len(self._lines)

    @property
    def place(self) -> Fields:
        """The fields that say where the client is, if that is known."""
        return self.template.fields

    @property
    def request(self) -> Request:
        """The request itself, for who wants more of it than its answer."""
        template = self.template
        return Request(b"GET", self.target, template.host, Fields(map(field_line, self._lines)), scheme=template.scheme)

    @property
    def agent_and_referer(self) -> tuple[bytes, bytes]:
        """The values of User-Agent and Referer, empty where they are not sent, without reading the other lines."""
        agent: bytes | None = None
        referer: bytes | None = None
        for line in self._lines:
            if line[0] in AGENT_OR_REFERER:
                name, value = field_line(line)
                name = name.lower()
                if name == b"user-agent":
                    agent = value if agent is None else agent + b", " + value
                elif name == b"referer":
                    referer = value if referer is None else referer + b", " + value
        return agent or b"", referer or b""


class HeadTemplates:
    """Likenesses by their essence, the oldest forgotten first. Bounded in number and bytes."""

    def __init__(self, most_bytes: int = MOST_BYTES, hold: Callable[[int], None] | None = None) -> None:
        self._judged = JudgedLines(most_bytes // 4)
        if hold is not None:
            hold(most_bytes // 4)  # all that lines may ever take
        most = most_bytes // 8 * 3
        self._templates: BoundedCache[Essence, Template] = BoundedCache(MOST_TEMPLATES, most, _weight, hold)
        self._answers: BoundedCache[Asked, Rendered] = BoundedCache(MOST_ANSWERS, most, _answer_weight, hold)
        self._numbers = count()
        self._seen = RecentlySeen()
        self._credit = MOST_CREDIT  # so that a flood of heads that are like none costs no more than reading them
        self._wanted: tuple[bytes, Essence] | None = None  # what was asked for in vain last, and its head
        self._stopped = False
        self._ignored: IgnoredParameters | None = None
        self.bound(HeadLimits())

    def bound(self, limits: HeadLimits) -> None:
        """Take heads within these limits; longer ones than a line may be go the long way."""
        self._longest = min(limits.line, limits.head, LONGEST_HEAD)
        self._most_lines = min(limits.fields, MOST_LINES)

    def judge_by(self, unkeyed: frozenset[bytes], ignored: IgnoredParameters | None = None) -> None:
        """From now on these fields key no hit, and neither do these query parameters."""
        self.forget_all()
        self._ignored = ignored
        self._judged.unkeyed = unkeyed

    def find(self, raw: bytes) -> TemplateHit | None:
        """The request whose head is `raw`, if it is a GET like known ones; never one that would be refused."""
        start = GET.match(raw)
        if start is None or len(raw) > self._longest or raw.count(b"\n") > self._most_lines or not raw.endswith(END):
            return None
        lines = raw[start.end() : -len(END)].split(CRLF)  # an empty one, and so a second head, was never accepted
        judged = self._judged
        judged.left = MOST_NEW if self._credit > 0 else FEWEST_NEW
        try:
            essence = (start[1], *[line for line in lines if judged[line]])
        except NewLine:
            self._credit = max(0, self._credit - 1)
            return None
        template = self._templates.get(essence)
        if template is None:
            self._credit = max(0, self._credit - 1)
            if self._seen.again(essence):  # it was asked for in vain before: if this comes to a hit, it is learnt
                self._wanted = raw, essence
            return None
        if self._credit < MOST_CREDIT:
            self._credit += 1
        if not template.is_plain:
            self._wanted = raw, essence  # the answer out of this entry may be new
        return TemplateHit(template, start[2], lines, judged.unkeyed, self._ignored)

    def answer(self, template: Template, entry: Entry) -> Rendered | None:
        """What a request that is not plain gets out of `entry`, if that is known."""
        return self._answers.get((template.number, id(entry)))  # the answer keeps its entry: no other has its identity

    def learn(self, exchange: Exchange, make: Callable[[Request], Rendered] | None = None) -> None:
        """A GET was answered by a hit: remember what follows from its essence, if that was wanted.

        `make`, of one that is not plain, tells what a request gets out of the entry.
        """
        wanted, self._wanted = self._wanted, None
        if wanted is None or self._stopped or wanted[0] != exchange.fingerprint:
            return
        raw, essence = wanted
        request = exchange.request
        nominates = b"connection" in request.fields and not connection_options(request.fields) <= NOT_NOMINATED
        if nominates or has_internal(raw) or sum(map(len, essence)) > LONGEST_ESSENCE:
            return
        template = self._templates.get(essence)
        if template is None:
            template = Template(request, self._judged.unkeyed, next(self._numbers))
            self._templates.remember(essence, template)
        if make is not None:
            rendered = make(request._replace(fields=template.fields))
            if not rendered.answer.content:  # contents are kept where they are counted
                self._answers.remember((template.number, id(rendered.entry)), rendered)

    def forget_gone(self) -> None:
        """Let go of answers out of entries that have left the memory."""
        for asked in [asked for asked, rendered in self._answers.items() if rendered.entry.gone]:
            self._answers.forget(asked)

    def forget_all(self) -> None:
        """Forget all: what follows from an essence has changed."""
        self._templates.clear()
        self._answers.clear()
        self._judged.forget_all()
        self._wanted = None

    def stop(self) -> None:
        """Forget all, and learn no more: from now on connections end with the responses under way."""
        self._stopped = True
        self.forget_all()

    def __len__(self) -> int:
        return len(self._templates)


def _weight(essence: Essence, _: Template) -> int:
    """Bytes, about so many: measured."""
    return 1500 + 4 * sum(map(len, essence))


def _answer_weight(_: Asked, rendered: Rendered) -> int:
    """The same of an answer that is a head: it is kept twice."""
    return 1500 + 2 * len(rendered.entry.block)
