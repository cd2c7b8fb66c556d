"""Templates of heads: the fast path for GETs whose heads differ from an earlier one only in unkeyed fields.

Each visitor's heads are its own, by cookies, user agents, request IDs; nothing reads those when the response comes out
of memory (`semantics/unkeyed_fields.py`). The keyed lines of a head, in their order, and the fingerprint that
middleware puts before it, select its template: what follows from them, remembered when a plain GET with them was
parsed, accepted and answered by a hit for the second time. Two look-ups lead to a template, and neither parses:

    the head less its target and the value of Cookie ──► Visitor    a browser with another cookie, or another page
    the names of its field lines ──► Shape ──► Template             another browser of the same kind

The parser's verdict comes first here too. The request line has a grammar of its own, which takes plain GETs only; all
other bytes are exactly those of a head that was accepted, but for the values of unkeyed fields, which are well-formed,
and for which names are unkeyed, once each. Whatever is new in a line that may matter takes the long way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import count
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple, final

from edgecache.proxy.fastpath.head_memo import ONE_OF, Gate, Rendered
from edgecache.semantics.bounded_cache import BoundedCache, RecentlySeen, weight_of_head
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.ignored_parameters import IgnoredParameters
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.preconditions import is_unconditional
from edgecache.semantics.unkeyed_fields import IN_A_VALUE, KeyedCookies, field_line, named_lines
from edgecache.semantics.vary import nominated
from edgecache.storage.memory import Entry
from edgecache.upstream.peer_fields import has_internal
from edgecache.wire.exchange import Exchange
from edgecache.wire.head_limits import HeadLimits

MOST_TEMPLATES: Final = 4096
MOST_VISITORS: Final = 4096
MOST_TARGETS: Final = 65536  # of all templates, where sites have rules
MOST_SHAPES: Final = 1024
MOST_ANSWERS: Final = 4096  # to requests that are not plain
MOST_LINES: Final = 60  # of a head
LONGEST_HEAD: Final = 4096  # bytes
LONGEST_KEY: Final = 2048  # bytes of keyed lines; longer ones are not learnt
MOST_BYTES: Final = 8 * 1024 * 1024  # of all that is remembered here, where no other bound is set
GET: Final = re.compile(rb'((?:(?!GET /)[^\r]*\n)?+)GET (/[!-"$-~]*+) HTTP/1\.1\r\n')  # after middleware's fingerprint
VALUE: Final = re.compile(rb":([\t -~\x80-\xff]*+)\r\n")  # of a field line (RFC 9110 §5.5); names are between these
END: Final = b"\r\n"  # follows the field lines
COOKIE: Final = b"ookie: "
RANGED: Final = b"\0range"  # marks the keys of templates whose requests differ by a range
CONDITIONS: Final = frozenset((b"if-none-match", b"if-modified-since", b"if-range"))  # that a range depends on
RANGE: Final = b"\nRange: "
COOKIE_STARTS: Final = (b"\nC", b"\nc")

TemplateKey = tuple[bytes, bytes, tuple[bytes, ...]]  # the fingerprint before a head; names and values of keyed lines
Asked = tuple[int, int]  # the number of a template, and the identity of an entry


class Shape:
    """The names of a head's field lines, in order: they determine which lines key a hit."""

    __slots__ = ("agent", "cookie", "keyed", "range", "referer", "repeats", "values")

    def __init__(self, names: Sequence[bytes], unkeyed: frozenset[bytes]) -> None:
        lower = [name.lower() for name in names]
        self.repeats = len(set(lower)) < len(names)  # some name
        self.range = 2 * lower.index(b"range") + 1 if b"range" in lower and CONDITIONS.isdisjoint(lower) else -1
        keyed = [at for at, name in enumerate(lower) if name not in unkeyed and 2 * at + 1 != self.range]
        self.keyed = b":".join([names[at] for at in keyed]) + (RANGED if self.range >= 0 else b"")
        self.values = itemgetter(-1, *[2 * at + 1 for at in keyed])  # of a split head, which ends in `END`
        self.agent = 2 * lower.index(b"user-agent") + 1 if b"user-agent" in lower else -1
        self.cookie = 2 * lower.index(b"cookie") + 1 if b"cookie" in lower else -1
        self.referer = 2 * lower.index(b"referer") + 1 if b"referer" in lower else -1


class Template:
    """The common part of GETs with the same keyed lines."""

    __slots__ = ("fields", "host", "is_plain", "is_ranged", "key", "number", "origin", "scheme", "unkeyed")

    def __init__(self, key: TemplateKey, request: Request, unkeyed: frozenset[bytes], number: int) -> None:
        self.key = key
        self.number = number  # no other has it
        self.unkeyed = unkeyed
        self.scheme, self.host = request.scheme, request.host
        self.origin = primary_key(request._replace(target=b""))
        self.is_ranged = key[1].endswith(RANGED)  # each gets the range that it names
        self.fields = request.fields.without(unkeyed | {b"range"} if self.is_ranged else unkeyed)
        self.is_plain = not self.is_ranged and is_unconditional(self.fields)  # each gets the whole, as plain GETs do


class Visitor:
    """The common part of GETs from one browser."""

    __slots__ = ("agent", "logged", "range", "referer", "template")

    def __init__(self, template: Template, agent: bytes, referer: bytes, wanted: bytes) -> None:
        self.template = template
        self.range = wanted  # the value of Range, where the template leaves it open
        self.agent = agent  # the value of User-Agent with the blanks around it; only those if it is not sent
        self.referer = referer
        self.logged = ""  # what the usual line of the access log says of it, once it was logged


@final
class TemplateHit:
    """One request whose template is known."""

    __slots__ = ("_raw", "gate", "is_new", "key", "policy", "rendered", "target", "template", "visitor")

    rendered: Rendered  # its answer, once that is found
    policy: Any  # of its site
    gate: Gate | None

    def __init__(self, visitor: Visitor, raw: bytes, target: bytes, key: bytes, is_new: bool) -> None:
        self.visitor = visitor
        self.template = visitor.template
        self._raw = raw
        self.policy = self.gate = None
        self.target = target
        self.key = key  # of the cache, as `primary_key` makes it
        self.is_new = is_new  # no head like it was seen before, whatever the target and the cookie

    def selecting(self, names: tuple[bytes, ...]) -> Fields:
        """The fields by which a response that varies by `names` is selected."""
        template, names = self.template, nominated(names)
        if template.unkeyed.isdisjoint(names):
            return template.fields
        return template.fields.plus(*named_lines(self._lines, template.unkeyed.intersection(names)))

    @property
    def _lines(self) -> list[bytes]:
        return self._raw.partition(b"\r\n")[2].split(b"\r\n")[:-2]

    @property
    def range(self) -> bytes:
        """The value of Range, where the template leaves it open."""
        return self.visitor.range

    @property
    def size(self) -> int:
        """Bytes of the head, with its request line and the empty line."""
        return len(self._raw) - self._raw.index(b"GET " + self.target)

    @property
    def place(self) -> Fields:
        """The fields that say where the client is, if that is known."""
        return self.template.fields

    @property
    def request(self) -> Request:
        """The request itself."""
        template = self.template
        fields, policy = Fields(map(field_line, self._lines)), self.policy
        return Request(b"GET", self.target, template.host, fields, scheme=template.scheme, policy=policy)


class RuledTarget(NamedTuple):
    """The effect of a site's rules on requests with one template and one target."""

    key: bytes  # of the cache
    policy: Any
    gate: Gate | None


class HeadTemplates:
    """Templates and their look-up tables, the oldest dropped first. Bounded in number and bytes."""

    def __init__(
        self, most_bytes: int = MOST_BYTES, hold: Callable[[int], None] | None = None, answer_bytes: int = MOST_BYTES
    ) -> None:
        part = most_bytes // 8
        self._visitors: BoundedCache[bytes, Visitor] = BoundedCache(MOST_VISITORS, 3 * part, _visitor_weight, hold)
        self._shapes: BoundedCache[bytes, Shape] = BoundedCache(MOST_SHAPES, part, weight_of_head, hold)
        self._templates: BoundedCache[TemplateKey, Template] = BoundedCache(MOST_TEMPLATES, 2 * part, _weight, hold)
        self._answers: BoundedCache[Asked, Rendered] = BoundedCache(MOST_ANSWERS, answer_bytes, _answer_weight, hold)
        self._targets: BoundedCache[tuple[int, bytes], RuledTarget] = BoundedCache(
            MOST_TARGETS, 2 * part, _target_weight, hold
        )
        self._numbers = count()
        self._seen = RecentlySeen()  # shapes, and keys of templates
        self._seen_visitors = RecentlySeen()
        self._wanted: tuple[bytes, TemplateKey] | None = None  # what was looked up in vain last, and its head
        self._stopped = False
        self._unkeyed: frozenset[bytes] = frozenset()
        self._cookie_starts: tuple[bytes, ...] = ()
        self._ignored: IgnoredParameters | None = None
        self._ruled = False
        self._passed_over = 0
        self._cookies: KeyedCookies | None = None
        self.gates: Callable[[Exchange], Gate | None] = lambda exchange: None  # of middleware that admits requests
        self.bound(HeadLimits())

    def bound(self, limits: HeadLimits) -> None:
        """Take heads within these limits; longer ones than a line may be go the long way."""
        self.forget_all()
        self._longest = min(limits.line, limits.head, LONGEST_HEAD)
        self._most_lines = min(limits.fields, MOST_LINES)

    def judge_by(
        self,
        unkeyed: frozenset[bytes],
        ignored: IgnoredParameters | None = None,
        *,
        cookies: frozenset[bytes] = frozenset(),
        ruled: bool = False,
    ) -> None:
        """From now on these fields key no hit, and neither do these query parameters.

        Of Cookie, if it is one of the fields, what begins as one of `cookies` is excepted. `ruled`: sites have rules.
        """
        self.forget_all()
        self._ruled = ruled
        self._cookies = KeyedCookies(cookies) if cookies and b"cookie" in unkeyed else None
        self._ignored = ignored
        self._unkeyed = unkeyed
        self._cookie_starts = COOKIE_STARTS if b"cookie" in unkeyed else ()

    def find(self, raw: bytes) -> TemplateHit | None:
        """The request whose head is `raw`, if its template is known; never one that would be refused."""
        start = GET.match(raw)
        if start is None or len(raw) > self._longest:
            return None
        fingerprint, target = start.groups()
        fields = cut = resume = start.end()
        cookie, keyed = raw.rfind(COOKIE, fields), b""
        if raw[cookie - 2 : cookie] in self._cookie_starts:
            cut = cookie + len(COOKIE)
            resume = raw.find(b"\r", cut)
            if self._cookies is not None and self._cookies.occur(raw, cut, resume):
                keyed = self._cookies.of(raw[cut:resume])
        rest = fingerprint + raw[fields - 2 : cut] + keyed + raw[resume:]  # a fingerprint alone precedes its first CRLF
        visitor, is_new = self._visitors.get(rest), False
        if visitor is None and RANGE in rest:
            visitor = self._ranged_visitor(rest)
        if visitor is None or raw[cut:resume].translate(None, IN_A_VALUE):
            visitor = self._visitor(fingerprint, raw, fields)
            if visitor is None:
                return None
            rest = _without_range(rest) if visitor.template.is_ranged else rest
            is_new = not self._seen_visitors.again(rest)
            if not is_new:
                self._visitors.remember(rest, visitor)
        template, ignored = visitor.template, self._ignored
        if not template.is_plain:
            self._wanted = raw, template.key  # the answer out of this entry may be new
        if self._ruled:
            return self._ruled_hit(visitor, raw, target, is_new=is_new)
        key = template.origin + (target if ignored is None else ignored.without(target))
        return TemplateHit(visitor, raw, target, key, is_new)

    def _ranged_visitor(self, rest: bytes) -> Visitor | None:
        """A visitor whose heads, of which `rest` is one, differ by their ranges too."""
        before, line, after = rest.partition(RANGE)
        wanted, _, after = after.partition(b"\r")
        known = self._visitors.get(before + line + after)
        return None if known is None else Visitor(known.template, known.agent, known.referer, wanted)

    def refused(self, hit: TemplateHit, raw: bytes) -> Literal[False]:
        """The gate of `hit` is shut: if the head `raw` comes to a hit by the long way, the gate is made anew."""
        self._wanted = raw, hit.template.key
        return False

    def _ruled_hit(self, visitor: Visitor, raw: bytes, target: bytes, *, is_new: bool) -> TemplateHit | None:
        """The request, if it is known what rules make of its target."""
        template = visitor.template
        ruled = self._targets.get((template.number, target))
        if ruled is None:
            self._wanted = raw, template.key
            return None
        hit = TemplateHit(visitor, raw, target, ruled.key, is_new)
        hit.policy, hit.gate = ruled.policy, ruled.gate
        return hit

    def _visitor(self, fingerprint: bytes, raw: bytes, fields: int) -> Visitor | None:
        """The visitor with the head `raw`, whose field lines begin at `fields`, if its template is known."""
        parts = VALUE.split(raw[fields:])  # names and values in turns
        names = b":".join(parts[::2])
        shape = self._shapes.get(names) or self._learn_shape(names, parts[::2])
        if shape is None:
            return None
        values = shape.values(parts)
        if self._cookies is not None and shape.cookie >= 0:
            values = (self._cookies.of(parts[shape.cookie]), *values)
        key = fingerprint, shape.keyed, values
        template = self._templates.get(key)
        if template is None:
            if self._seen.again(key):  # it was looked up in vain before: if this comes to a hit, it is learnt
                self._wanted = raw, key
            return None
        return Visitor(template, parts[shape.agent], parts[shape.referer], parts[shape.range])

    def _learn_shape(self, joined: bytes, names: list[bytes]) -> Shape | None:
        """The shape of a head that is well-formed as far as its `names` go, if one like it was seen before."""
        if not self._seen.again(joined) or names[-1] != END or joined.translate(None, IN_A_VALUE) != END:
            return None
        shape = Shape(names[:-1], self._unkeyed)
        if shape.repeats or len(names) + 1 > self._most_lines:
            return None
        self._shapes.remember(joined, shape)
        return shape

    def answer(self, template: Template, entry: Entry) -> Rendered | None:
        """What a request that is not plain gets out of `entry`, if that is known."""
        return self._answers.get((template.number, id(entry)))  # the answer keeps its entry: no other has its identity

    def learn(self, exchange: Exchange, make: Callable[[Request], Rendered] | None = None) -> None:
        """A GET was answered by a hit: remember what follows from its keyed lines, if that was wanted.

        `make`, of one that is not plain, tells what a request gets out of the entry.
        """
        wanted, self._wanted = self._wanted, None
        if wanted is None or self._stopped or wanted[0] != exchange.fingerprint:
            return
        raw, key = wanted
        request = exchange.request
        if has_internal(raw) or _length(key) > LONGEST_KEY:
            return
        template = self._templates.get(key)
        if template is None:
            template = Template(key, request, self._unkeyed, next(self._numbers))
            self._templates.remember(key, template)
        if self._ruled:
            ruled = RuledTarget(primary_key(request), request.policy, self.gates(exchange))
            self._targets.remember((template.number, request.received_target), ruled)
        if make is not None and not template.is_ranged and self._has_room_for_answer():
            rendered = make(request._replace(fields=template.fields))
            if not rendered.answer.content:  # contents are kept where they are counted
                self._answers.remember((template.number, id(rendered.entry)), rendered)

    def _has_room_for_answer(self) -> bool:
        """Whether one more answer is remembered: of more than there is room for, some are, and stay."""
        self._passed_over = (self._passed_over + 1) % ONE_OF
        return not self._answers.half_full or self._passed_over == 0

    def forget_gone(self) -> None:
        """Let go of answers out of entries that have left the memory."""
        for asked in [asked for asked, rendered in self._answers.items() if rendered.entry.gone]:
            self._answers.forget(asked)

    def forget_all(self) -> None:
        """Forget all: what follows from heads has changed."""
        self._visitors.clear()
        self._shapes.clear()
        self._templates.clear()
        self._answers.clear()
        self._targets.clear()
        self._wanted = None

    def stop(self) -> None:
        """Forget all, and learn no more: from now on connections end with the responses under way."""
        self._stopped = True
        self.forget_all()

    def __len__(self) -> int:
        return len(self._templates)


def _without_range(rest: bytes) -> bytes:
    """The place of a visitor whose heads, of which `rest` is one, differ by their ranges."""
    before, line, after = rest.partition(RANGE)
    return before + line + (after.partition(b"\r")[2] if line else after)


def _length(key: TemplateKey) -> int:
    return len(key[1]) + sum(map(len, key[2]))


def _weight(key: TemplateKey, _: Template) -> int:
    """Bytes, about so many: measured."""
    return 1500 + 4 * _length(key)


def _visitor_weight(rest: bytes, _: Visitor) -> int:
    """The same of a visitor: agent, referer and the line of the log are copies of what is in its head."""
    return 1000 + 2 * len(rest)


def _answer_weight(_: Asked, rendered: Rendered) -> int:
    """The same of an answer that is a head: it is kept twice."""
    return 1500 + 2 * len(rendered.entry.block)


def _target_weight(known: tuple[int, bytes], ruled: RuledTarget) -> int:
    """The same of a target."""
    return 500 + len(known[1]) + len(ruled.key)
