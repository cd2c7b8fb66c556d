"""The socket level: mutated requests to a running POP, and mutated answers of its origin, many at a time."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from random import Random

from harness.origin import ReceivedRequest, Reply, running_origin
from harness.pop import Pop, running_pop
from hostile import rfc9112
from hostile.arena import Arena
from hostile.readers import agreed

from fuzz.mutate import Mutator
from fuzz.parse_level import request_seeds, response_seeds

AT_ONCE = 48  # connections
PATIENCE = 20.0  # seconds for a batch, on a busy machine
MARK = re.compile(rb"@([0-9]{2})@")  # whose an answer is, in the place of `evil`
NO_STORE = ("Cache-Control", "no-store")


class Crash(AssertionError):
    """What the product must never do, and the inputs of the batch in which it did."""

    def __init__(self, what: str, inputs: list[bytes]) -> None:
        super().__init__(what)
        self.inputs = inputs


class Sockets:
    """One POP and one origin for all inputs of a run. Mutable state: the corpora, and what the origin answers."""

    name = "sockets"

    def __init__(self, random: Random) -> None:
        self.random = random
        self.requests = Mutator(random, request_seeds())
        self.answers = Mutator(random, response_seeds())
        self.faults: list[str] = []  # logged by the product: a bug of its own
        self.counts: dict[str, int] = {}
        self._arena: Arena | None = None
        self._number = 0

    async def run(self, inputs: int) -> None:
        """Play so many inputs, half of each kind; raises `Crash`."""
        handler = logging.Handler(logging.WARNING)
        handler.emit = self._note  # type: ignore[method-assign]
        logging.getLogger("edgecache").addHandler(handler)
        try:
            async with running_origin() as origin, running_pop(origin, max_connections_per_address=1000) as pop:
                self._arena = arena = Arena(pop, origin)
                await arena.clean()
                for start in range(0, inputs, 2 * AT_ONCE):
                    half = min(AT_ONCE, (inputs - start + 1) // 2)
                    await self._judged(self._request_batch, [self.requests.next() for _ in range(half)])
                    rest = min(AT_ONCE, inputs - start - half)
                    await self._judged(self._answer_batch, [self.answers.next() for _ in range(rest)])
                await arena.close()
        finally:
            logging.getLogger("edgecache").removeHandler(handler)

    def _note(self, record: logging.LogRecord) -> None:
        if record.name != "edgecache.audit":  # that a purge was refused is no bug
            self.faults.append(record.getMessage())

    async def _judged(self, play: object, batch: list[bytes]) -> None:
        """A batch, and whether a clean client is served after it; whatever goes wrong is a `Crash`."""
        arena = self._arena
        assert arena is not None, "only called while one runs"
        try:
            async with asyncio.timeout(PATIENCE):
                await play(arena, batch)  # type: ignore[operator]
                await arena.clean()
        except TimeoutError:
            raise Crash(f"a batch hung for {PATIENCE} s", batch) from None
        except Crash:
            raise
        except (AssertionError, rfc9112.Malformed, rfc9112.Unfinished) as error:
            raise Crash(str(error) or repr(error), batch) from error
        if self.faults:
            raise Crash(f"the product logged: {self.faults[0]}", batch)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    async def _request_batch(self, arena: Arena, batch: list[bytes]) -> None:
        """Mutated requests: strictly well-formed answers, and at the origin what three parsers read alike."""
        for marker in ("/clean", "/next"):
            batch = [data for data in batch if marker.encode() not in data]
        arena.answer = ok
        before = arena.before()
        received = await asyncio.gather(*(self._exchange(arena.pop, data) for data in batch))
        responses = [responses_in(data) for data in received]
        for statuses in responses:
            self._count("refused" if statuses[-1:] and statuses[-1] >= 400 else "taken" if statuses else "unfinished")
        heard = [seen for stream in arena.heard(before) for seen in agreed(whole(stream))]
        answered = sum(status == 200 for statuses in responses for status in statuses)
        assert len(heard) >= answered, f"{answered} answers of the origin, which was asked {len(heard)} times"
        assert arena.objects() == before.objects, "something was stored"

    async def _answer_batch(self, arena: Arena, batch: list[bytes]) -> None:
        """Mutated answers: each client gets one well-formed answer or a broken one, and no one gets another's."""
        by_target: dict[str, bytes] = {}
        for place, data in enumerate(batch):
            self._number += 1
            by_target[f"/fuzz/{self._number}-{place:02}"] = data.replace(b"evil", b"@%02d@" % place)
        arena.answer = lambda request: Reply(raw=by_target[request.target])
        asked = [f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for target in by_target]
        for again in (False, True):
            received = await asyncio.gather(*(self._exchange(arena.pop, data) for data in asked))
            for target, data in zip(by_target, received, strict=True):
                try:
                    self._check_answer(target, data, again=again)
                except (AssertionError, rfc9112.Malformed) as error:
                    raise Crash(f"{target}: {error!r}", [by_target[target], data]) from error
        arena.pop.worker.edge.memory.invalidate(b"http://a/clean")  # whatever was stored, it goes on
        await arena.clean()

    def _check_answer(self, target: str, data: bytes, *, again: bool) -> None:
        assert {*MARK.findall(data)} <= {target[-2:].encode()}, "another's answer"
        try:
            statuses = responses_in(data)
        except rfc9112.Unfinished:
            self._count("broken")
            return
        assert len([status for status in statuses if status >= 200]) <= 1, "two answers"
        self._count("again" if again else "bad gateway" if 502 in statuses else "passed on" if statuses else "broken")

    async def _exchange(self, pop: Pop, data: bytes) -> bytes:
        """All that the POP sends on a connection of its own, after which the client half-closes."""
        loop = asyncio.get_running_loop()
        received = bytearray()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", pop.port))
            try:
                for piece in self.requests.pieces(data):
                    await loop.sock_sendall(sock, piece)
                    await asyncio.sleep(0)
                sock.shutdown(socket.SHUT_WR)
                while piece := await loop.sock_recv(sock, 65536):
                    received += piece
            except (ConnectionResetError, BrokenPipeError, OSError):
                pass  # refused while it was still sending, or a broken transfer
        return bytes(received)


def ok(request: ReceivedRequest) -> Reply:
    """An answer that is not stored."""
    return Reply(200, [NO_STORE], b"ok")


def whole(stream: bytes) -> bytes:
    """The requests in `stream` that came whole: a client that left may have cut the last one short."""
    at = 0
    while at < len(stream):
        try:
            _, at = rfc9112.read_request(stream, at)
        except rfc9112.Unfinished:
            break
    return stream[:at]


def responses_in(data: bytes, at: int = 0) -> list[int]:
    """The statuses of the responses in `data`, read strictly; one of them may answer a HEAD, and have no body then."""
    if at == len(data):
        return []
    response, end = rfc9112.read_response(data, at, b"HEAD")
    try:
        with_body, after = rfc9112.read_response(data, at, b"GET")
        return [with_body.status, *responses_in(data, after)]
    except (rfc9112.Unfinished, rfc9112.Malformed):
        if end < len(data) and not data.startswith(b"HTTP/1.1 ", end):
            raise
        return [response.status, *responses_in(data, end)]
