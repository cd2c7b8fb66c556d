"""Access control: which clients may read the responses that the rules of sites protect.

Access is decided before the cache is used, so that a refusal reveals nothing about it. A protected response is stored
once, without the credentials of any client, and each client is checked: in full at first, and by the gate of its head
from then on, as long as the admission is valid.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Self

from edgecache.invalidation.purge_dialects import METHODS
from edgecache.proxy.access.admission import MOST_PARTS, AccessRefused, Admission, Asked, Check, Grant
from edgecache.proxy.access.checks import checks_of
from edgecache.proxy.access.demands import Demands
from edgecache.proxy.fastpath.head_memo import Gate
from edgecache.proxy.hooks import HELD, Context, Go, Held, Middleware
from edgecache.proxy.responses import reply_locally
from edgecache.proxy.task_guard import seen_through
from edgecache.semantics.client_address import CLIENT_ADDRESS_FIELDS, Trust, client_address
from edgecache.semantics.message import Request
from edgecache.semantics.path_readings import is_too_long
from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.storage.resident_clock import Clock
from edgecache.tasks import spawn
from edgecache.telemetry.metrics import Counter, Registry
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse
from edgecache.wire.response_writer import ResponseWriter

OPEN: Final = Admission()  # of what nothing is demanded of
CREDENTIALS: Final = frozenset((b"authorization", b"cookie"))


class Access(Middleware):
    """Admits requests, or refuses them."""

    order = 860
    reads = CLIENT_ADDRESS_FIELDS  # and what the checks read
    for_peers = False

    def __init__(self, demands: Demands, is_trusted: Trust, clock: Clock, registry: Registry) -> None:
        self._demands = demands
        self._is_trusted = is_trusted
        self._clock = clock
        self._registry = registry
        self._refused: dict[str, Counter] = {}
        self._go: Go = lambda exchange: None
        self.reads = frozenset(CLIENT_ADDRESS_FIELDS).union(*(check.reads for check in demands.checks))
        self._passed = frozenset(name for check in demands.checks for name in getattr(check, "passes", ()))
        self._kept = sorted({name for check in demands.checks for name in getattr(check, "kept_cookies", ())})

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where a rule demands something."""
        if context.sites is None:
            return None
        demands = Demands(context.sites.all, partial(checks_of, context))
        return cls(demands, context.is_trusted, context.clock, context.registry) if demands.guarded else None

    def continues(self, go: Go) -> None:
        """Learn how requests go on that had to wait for their admission."""
        self._go = go

    def on_request(self, exchange: Exchange) -> FullResponse | Held | None:
        """Admit a request, or refuse it."""
        request = exchange.request
        if request.policy.site not in self._demands.guarded or request.method in METHODS:
            exchange.admission = OPEN  # purges are authenticated by themselves, and reach no store
            return None
        if self._passed and not self._passed.isdisjoint(request.fields.index):
            request = exchange.request = request._replace(fields=request.fields.without(self._passed))
        client = client_address(exchange.client, request.fields, self._is_trusted)
        if has_too_many_parts(request):
            sentence = f"a request for what is protected has no more than {MOST_PARTS} parameters and cookies"
            return self._refusal(AccessRefused(403, "too-many-parts", sentence))
        if is_too_long(request.target):
            sentence = "the path is too long for one that may be taken for others"
            return self._refusal(AccessRefused(403, "path-too-long", sentence))
        checks = self._demands.of(request, client)
        asked = Asked(RequestFacts(request, client), exchange.client, self._clock.wall(), self._clock.now())
        return self._decide(exchange, asked, Admission(), checks)

    def _decide(
        self, exchange: Exchange, asked: Asked, admission: Admission, checks: Sequence[Check]
    ) -> FullResponse | Held | None:
        """Ask these checks; the first that refuses, or takes its time, ends it for now."""
        for number, check in enumerate(checks, 1):
            try:
                grant = check.admit(asked)
            except AccessRefused as refused:
                return self._refusal(refused)
            if not isinstance(grant, Grant):
                later = self._decide_later(exchange, asked, admission, grant, checks[number:])
                spawn(seen_through(exchange, later), "decide access")
                return HELD
            admission.take(grant)
        exchange.admission = admission
        exchange.request = admission.upstream(exchange.request)
        return None

    async def _decide_later(
        self,
        exchange: Exchange,
        asked: Asked,
        admission: Admission,
        pending: Awaitable[Grant],
        rest: Sequence[Check],
    ) -> None:
        """Go on once a check has decided."""
        answer: FullResponse | Held | None
        try:
            admission.take(await pending)
        except AccessRefused as refused:
            answer = self._refusal(refused)
        else:
            answer = self._decide(exchange, asked, admission, rest)
        if exchange.gone:
            return
        if answer is None:
            self._go(exchange)
        elif isinstance(answer, FullResponse):
            reply_locally(exchange, answer)

    def _refusal(self, refused: AccessRefused) -> FullResponse:
        """The response to a refused request, which is counted."""
        counter = self._refused.get(refused.reason)
        if counter is None:
            words = "Requests that were refused by rules of access, by reason."
            counter = self._registry.counter("edgecache_access_refused", words, reason=refused.reason)
            self._refused[refused.reason] = counter
        counter.value += 1
        return refused.response

    def on_lookup(self, exchange: Exchange) -> bytes | None:
        """Fields that a check adds key the response, as do tokens in cookies that go upstream.

        Fields that a client sends are dropped before.
        """
        fields = exchange.request.fields
        present = sorted(self._passed.intersection(fields.index))
        lines = [(name, value) for name in present for value in fields.all(name)]
        if self._kept and b"cookie" in fields and exchange.request.policy.site in self._demands.guarded:
            cookies = RequestFacts(exchange.request, "").cookies
            lines += [(b"cookie " + name.encode(), value) for name in self._kept for value in cookies.get(name, ())]
        return b"access " + b"".join([b"%d:%b=%d:%b" % (len(n), n, len(v), v) for n, v in lines]) if lines else None

    def gate(self, exchange: Exchange) -> Gate | None:
        """What admits later requests with the head of `exchange`."""
        admission: Admission | None = exchange.admission
        if admission is OPEN or exchange.request.child is not None:
            return None
        if admission is None:
            return lambda connection, now: False
        until, lasts, wall = admission.until, admission.lasts, self._clock.wall
        stills = tuple(admission.stills)
        admits = self._by_address(exchange, admission) if admission.addresses else None
        if admits is None and not stills:
            return None if min(until, lasts) > LAST else lambda connection, now: now < lasts and wall() < until

        def gate(connection: ResponseWriter, now: float) -> bool:
            if now >= lasts or wall() >= until:
                return False
            return all(still() for still in stills) and (admits is None or admits(connection.peer))

        return gate

    def _by_address(self, exchange: Exchange, admission: Admission) -> Callable[[str], bool]:
        """Whether the client that a peer with the same head is, or forwards, is admitted by its address."""
        checks, decided, is_trusted = tuple(admission.addresses), exchange.client, self._is_trusted

        def admits(peer: str) -> bool:
            if peer == decided:
                return True
            return not is_trusted(peer) and all(check(peer) for check in checks)

        return admits


LAST: Final = 1e15  # seconds: no time of expiry is later


def has_too_many_parts(request: Request) -> bool:
    """Whether it has more parameters or cookies than conditions read: a rule might be evaded."""
    query = request.received_target.partition(b"?")[2]
    if query.count(b"&") + query.count(b";") >= MOST_PARTS:
        return True
    return b"cookie" in request.fields and b";".join(request.fields.all(b"cookie")).count(b";") >= MOST_PARTS
