"""A POP without sockets whose pools answer with what they received; rule sets are put into it by the thousand."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple, cast

from hostile.rig import Transport

from edgecache.config.settings import load
from edgecache.config.sites.compiler import compiled
from edgecache.config.sites.parser import parsed
from edgecache.semantics.message import Fields, Framing, Response
from edgecache.server.assembly import policy_of
from edgecache.server.worker import Worker
from edgecache.storage.resident_clock import Clock
from edgecache.wire.body import Body
from edgecache.wire.h1.server import ClientConnection
from edgecache.wire.upstream_request import UpstreamCall
from harness import rule_sets
from harness.clock import FakeClock
from harness.pop import environment
from harness.rule_sets import Sent

LINE = re.compile(rb"^([^:\r\n]+): ?([^\r]*)\r$", re.MULTILINE)
NO_RULES = """
[[sites]]
name = "x"
hosts = ["nothing.test"]
pool = "p0"
[pools.p0]
servers = ["http://127.0.0.1:9"]
[pools.p1]
servers = ["http://127.0.0.1:9"]
"""


class Got(NamedTuple):
    """A response."""

    status: int
    fields: dict[str, str]

    @property
    def number(self) -> str:
        """Of the origin's response."""
        return self.fields["x-n"]

    @property
    def is_hit(self) -> bool:
        """Whether it came out of a store."""
        return "; hit" in self.fields["cache-status"]

    @property
    def ttl(self) -> int | None:
        """What is left of its freshness, in seconds."""
        found = re.search(r"ttl=(-?\d+)", self.fields["cache-status"])
        return None if found is None else int(found[1])


def _text_of(lines: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode(), value.decode()) for name, value in lines)


class _Content:
    """Takes a body that has come whole."""

    writable = True

    def __init__(self, body: Body | None) -> None:
        self.content = b""
        if body is not None:
            body.read_into(self)

    def write(self, piece: Any) -> None:
        """Take `piece`."""
        self.content += bytes(piece)

    def finish(self) -> None:
        """It is complete."""

    def abort(self) -> None:
        """It will not be."""

    def goes_alone(self, at: int) -> bool:
        """Never."""
        return False


class EchoPool:
    """A pool whose servers tell in `X-Echo` what they have received of what rules may change."""

    def __init__(self, name: str, numbers: Any) -> None:
        self._name = name
        self._numbers = numbers
        self.busy = self.waiting = self.asked = self.repeated = 0

    def send(self, call: UpstreamCall) -> None:
        """Answer it in a moment, so that others can follow."""
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, self._answer, call)

    def _answer(self, call: UpstreamCall) -> None:
        if call.cancelled:
            return
        request = call.upstream_request
        fields = Fields(request.fields)
        path = request.target.partition(b"?")[0].removeprefix(b"/up").decode()
        edits = [(fields.get(b"x-r%d" % number) or b"").decode() for number in range(3)]
        content = _Content(request.body).content.decode()
        sent = Sent(request.method.decode(), path, "", _text_of(request.fields), "", content)
        echo = rule_sets.echo(self._name, request.target.decode(), edits, sent).encode()
        lines = [(b"X-Echo", echo), (b"X-N", b"%d" % next(self._numbers)), (b"ETag", b'"%b"' % echo)]
        lines.append((b"Content-Type", rule_sets.TYPES.get(path, "text/html").encode()))
        if (seconds := rule_sets.LIFETIMES[path]) is not None:
            lines.append((b"Cache-Control", b"max-age=%d" % seconds))
        if path == "/c":
            lines.append((b"Set-Cookie", b"c=1"))
        known = fields.get(b"if-none-match") == b'"%b"' % echo
        status = 304 if known else rule_sets.STATUS.get(path, 200)
        content = b"" if known or request.method == b"HEAD" else b"body"
        framing = Framing(len(content))
        if not known:
            lines.append((b"Content-Length", b"4"))
        call.on_answer(Response(status, Fields(lines), b"", framing), Body.of(content))

    def sweep(self, now: float) -> None:
        """Nothing is overdue."""

    def close(self) -> None:
        """Nothing is open."""

    def counts(self) -> tuple[int, int, int]:
        """Nothing is counted."""
        return 0, 0, 0


class EchoingPop:
    """The POP."""

    def __init__(self, **settings: object) -> None:
        self.clock = FakeClock()
        clock = self.clock
        wanted = {
            "sites": NO_RULES,
            "geo_overrides": ",".join(f"{network}={code}" for network, code in rule_sets.COUNTRIES.items()),
            "trusted_proxies": rule_sets.TRUSTED,
            **settings,
        }
        self.worker = Worker(
            load(environment("http://127.0.0.1:9", wanted.items())), clock=Clock(clock, clock.steady, clock.steady, 1)
        )
        numbers = count(1)
        pools: Any = self.worker._switch.current.sites
        pools.opened = {name: EchoPool(name, numbers) for name in ("p0", "p1")}
        self._hosts, self._heads = count(), count()
        self.host = ""

    def put(self, match: str, rules: list[rule_sets.Rule]) -> None:
        """From now on, a site of its own has these rules, and nothing is stored of it."""
        self.host = f"h{next(self._hosts)}.test"
        document = parsed(rule_sets.document(self.host, match, rules), "")
        settings = self.worker._settings
        self.worker.compose(settings, compiled(document, policy_of(settings)))

    def start(self, sent: Sent) -> tuple[Sent, ClientConnection]:
        """Send a request on a connection of its own."""
        connection = ClientConnection(cast(Any, self.worker), b"http", sent.peer)
        connection.connection_made(Transport())
        lines = [f"{sent.method} {sent.target} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in sent.fields]
        content = sent.content.encode()
        lines += [f"Content-Length: {len(content)}"] if sent.method == "QUERY" else []
        number = next(self._heads)
        if number // 2 % 2:  # no head was like it: templates answer it, if anything known does
            lines.append(f"X-Request-Id: {number}")
        connection.data_received("\r\n".join([*lines, "", ""]).encode() + content)
        return sent, connection

    async def taken(self, started: tuple[Sent, ClientConnection]) -> Got:
        """The response to it."""
        sent, connection = started
        transport: Any = connection.transport
        for _ in range(200):
            if connection.exchange is None and transport.written:
                break
            await asyncio.sleep(0)
        raw = bytes(transport.written)
        assert connection.exchange is None, (sent, raw)
        assert raw, sent
        connection.connection_lost(None)
        fields: dict[str, str] = {}
        for name, value in LINE.findall(raw.partition(b"\r\n\r\n")[0] + b"\r\n"):
            fields.setdefault(name.decode().lower(), value.decode())
        return Got(int(raw[9:12]), fields)

    async def get(self, sent: Sent) -> Got:
        """A request and its response."""
        return await self.taken(self.start(sent))
