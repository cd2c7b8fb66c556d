"""One POP in front of one origin, and the oracles that judge a case against them over sockets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from harness.client import RawClient, ReceivedResponse, let_others_run
from harness.origin import Answer, OriginDouble, ReceivedRequest, Reply, running_origin
from harness.pop import Pop, running_pop

from hostile import rfc9112
from hostile.readers import Seen, agreed
from hostile.tables import Case, Question

NO_STORE = ("Cache-Control", "no-store")
FOR_A_MINUTE = ("Cache-Control", "max-age=60")
CANARY = b"evil"


def by_target(request: ReceivedRequest) -> Reply:
    """Answer with the target, not to be stored: no response can be taken for another's."""
    if request.target == "/clean":
        return Reply(200, [("Cache-Control", "max-age=3600")], b"clean")
    return Reply(200, [NO_STORE], request.target.encode("latin-1"))


def echo(request: ReceivedRequest) -> Reply:
    """Answer with every byte of the request, to be stored for a minute."""
    return Reply(200, [FOR_A_MINUTE], request.raw + bytes(request.body))


@dataclass
class Before:
    """How things stood before a case."""

    refused: Counter[str]
    objects: tuple[int, int]
    origin: list[int]


class Arena:
    """Where cases are played, one after the other. Mutable state: what the origin answers, and the clean client."""

    def __init__(self, pop: Pop, origin: OriginDouble) -> None:
        self.pop = pop
        self.origin = origin
        self.answer: Answer = by_target
        origin.otherwise(self._answer)
        self._clean: RawClient | None = None

    def _answer(self, request: ReceivedRequest) -> Reply:
        known = request.target == "/clean" or request.target.startswith(("/next", "/marker"))
        reply = (by_target if known else self.answer)(request)
        assert isinstance(reply, Reply)
        return reply

    # What is looked at…

    def before(self) -> Before:
        """How things stand."""
        return Before(self.refused(), self.objects(), [len(seen) for seen in self.origin.received])

    def refused(self) -> Counter[str]:
        """The counter of refusals, by reason."""
        family = self.pop.worker.snapshot().get("edgecache_refused")
        return Counter(
            {dict(labels)["reason"]: int(values[0]) for labels, values in family["series"]} if family else {}
        )

    def objects(self) -> tuple[int, int]:
        """How many URLs are stored, and their bytes."""
        memory = self.pop.worker.edge.memory
        return len(memory), memory.size

    def heard(self, before: Before) -> list[bytes]:
        """What each of the origin's connections received since `before`."""
        marks = [*before.origin, *[0] * len(self.origin.received)]
        new = [bytes(seen[mark:]) for seen, mark in zip(self.origin.received, marks, strict=False)]
        return [piece for piece in new if piece]

    async def clean(self) -> None:
        """A stored object and a pass-through are answered 200 to somebody else."""
        if self._clean is None:
            self._clean = await self.pop.open()
        for target in ("/clean", "/next"):
            await self._clean.request("GET", target)
        for body in (b"clean", b"/next"):
            response = await self._clean.response()
            assert (response.status, response.body) == (200, body)

    async def close(self) -> None:
        """No more cases."""
        if self._clean is not None:
            self._clean.close()

    # The oracles…

    async def judge(self, case: Case, segment: int | None = None) -> None:
        """Play `case` and judge it by its kind."""
        oracles: dict[str, Callable[[Case, int | None], object]] = {
            "R": self.rejects,
            "N": self.takes,
            "RN": self.rejects_or_takes,
            "L": self.leaks_nothing,
            "E": self.answers_itself,
        }
        await oracles[case.kind](case, segment)  # type: ignore[misc]

    async def rejects(self, case: Case, segment: int | None = None) -> None:
        """R: one refusal, the connection closed, nothing at the origin, nothing stored, counted once by its reason."""
        before = self.before()
        async with self.pop.client() as client:
            await client.send(case.data, case.refused_as, segment)
            response = await client.response()
            assert await client.closed() in ("fin", "rst")
        self.is_refusal(case, response, before)
        assert self.heard(before) == []
        assert self.objects() == before.objects
        await self.clean()

    def is_refusal(self, case: Case, response: ReceivedResponse, before: Before) -> None:
        """Whether `response` is the one refusal that the case expects, and one counter moved by one."""
        assert case.accepts(response.status), f"{response.status} {response.body!r}"
        assert response.get("connection") == "close"
        assert response.get("content-type") == "application/problem+json"
        assert response.get("cache-control") == "no-store"
        moved = self.refused() - before.refused
        if case.refused_as == "HEAD":
            assert (response.body, moved.total()) == (b"", 1)
            return
        problem = json.loads(response.body)
        assert problem["status"] == response.status
        assert moved == Counter({problem["reason"]: 1})

    async def takes(self, case: Case, segment: int | None = None) -> None:
        """N: three readers see at the origin what the case says; as many responses as requests."""
        before = self.before()
        async with self.pop.client() as client:
            await client.send(case.data, None, segment)
            responses = [await client.response(one.method.decode()) for one in case.sees]
            assert [(one.status, one.body[:200]) for one in responses if one.status != 200] == []
            if case.then_refused:
                self.is_refusal(case, await client.response("GET"), before)
                assert await client.closed() in ("fin", "rst")
            else:
                await self.goes_on(client, case, responses)
        self.heard_as_said(case, before)
        for question, response in zip(case.sees, responses, strict=True):
            assert response.body == (b"" if question.method == b"HEAD" else question.target)

    async def goes_on(self, client: RawClient, case: Case, responses: list[ReceivedResponse]) -> None:
        """The connection is closed as announced, or the next request on it gets its own answer."""
        if responses[-1].get("connection") == "close":
            assert await client.closed() in ("fin", "rst")
            return
        await client.request("GET", f"/marker/{case.id}")
        response = await client.response()
        assert (response.status, response.body) == (200, f"/marker/{case.id}".encode())

    def heard_as_said(self, case: Case, before: Before) -> None:
        """The origin received the questions of the case and no others, and three readers agree on them."""
        asked: list[tuple[Seen, rfc9112.Request]] = []
        for stream in self.heard(before):
            asked += zip(agreed(stream), rfc9112.read_requests(stream), strict=True)
        asked = [pair for pair in asked if not pair[0].target.startswith(b"/marker/")]
        assert sorted(seen for seen, _ in asked) == sorted(_seen(question) for question in case.sees)
        for question in case.sees:
            request = next(request for seen, request in asked if seen == _seen(question))
            for expected in question.fields:
                check_field(request, expected)

    async def rejects_or_takes(self, case: Case, segment: int | None = None) -> None:
        """RN: refused as by R; or taken, and then three readers agree on what the origin received."""
        before = self.before()
        async with self.pop.client() as client:
            await client.send(case.data, "GET", segment)
            response = await client.response()
        if response.status == 200:
            requests = [seen for stream in self.heard(before) for seen in agreed(stream)]
            assert len(requests) == 1
            assert response.body == requests[0].target
        else:
            self.is_refusal(case, response, before)
            assert self.heard(before) == []
        await self.clean()

    async def leaks_nothing(self, case: Case, segment: int | None = None) -> None:
        """L: the canary reaches neither the origin nor a clean client of the same URL."""
        before = self.before()
        self.answer = echo
        try:
            async with self.pop.client() as client:
                await client.send(case.data, case.data.partition(b" ")[0].decode(), segment)
                assert (await client.response()).status == 200
            heard = self.heard(before)
            assert CANARY not in b"".join(heard).lower()
            (attack,) = [seen for stream in heard for seen in agreed(stream)]
            async with self.pop.client() as client:
                await client.send(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (attack.target, attack.host))
                victim = await client.response()
            assert victim.status == 200
            assert CANARY not in (victim.head.raw + victim.body).lower()
        finally:
            self.answer = by_target
            self.pop.worker.edge.memory.invalidate(b"http://" + attack.host + attack.target)

    async def answers_itself(self, case: Case, segment: int | None = None) -> None:
        """E: the POP's own answer; nothing at the origin, and the connection goes on."""
        before = self.before()
        async with self.pop.client() as client:
            await client.send(case.data, case.data.partition(b" ")[0].decode(), segment)
            response = await client.response()
            assert case.accepts(response.status), f"{response.status} {response.body!r}"
            assert self.heard(before) == []
            await self.goes_on(client, case, [response])
        assert self.objects() == before.objects


def _seen(question: Question) -> Seen:
    return Seen(question.method, question.target, question.host, question.body)


def check_field(request: rfc9112.Request, expected: str) -> None:
    """`no Name`: the field is absent; `Name: value`: one line of it has this value."""
    if expected.startswith("no "):
        name = expected[3:].lower().encode()
        assert name not in {key.lower() for key, _ in request.lines}, expected
        return
    name_text, _, value = expected.partition(":")
    wanted = value.strip().encode("latin-1").decode("unicode_escape").encode("latin-1")
    found = [line for key, line in request.lines if key.lower() == name_text.lower().encode()]
    assert wanted in found, f"{expected}, but {found}"


@asynccontextmanager
async def running_arena(**settings: object) -> AsyncIterator[Arena]:
    """An arena with a POP of its own; the stored object that `clean` asks for is there."""
    async with running_origin() as origin, running_pop(origin, **settings) as pop:
        arena = Arena(pop, origin)
        await arena.clean()
        await let_others_run()
        try:
            yield arena
        finally:
            await arena.close()
