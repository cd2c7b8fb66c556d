"""Plays a case: client and origin do as the transcript says; `verdict.py` judges the POP between them."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from harness.client import RawClient, ReceivedResponse, TooLate, let_others_run
from harness.clock import FakeClock
from harness.expect import Found
from harness.origin import RESET, UNSCRIPTED, OriginDouble, ReceivedRequest, Reply, hang, running_origin
from harness.pop import Pop, running_pop
from harness.transcript import Case, Statement, exchanges
from harness.verdict import ANSWERS, Happened, verdict
from harness.wire import Closed, NotHTTP, Truncated

PATIENCE = 3.0  # seconds that anything may take, on a machine that is busy with other tests


@dataclass
class Question:
    """A request that the origin expects: what it answers, and when it may."""

    answer: Statement
    interim: list[Statement]
    gate: asyncio.Event | None  # in the background: the answer is held until the client has its own


@dataclass
class Play:
    """A case under way; `lines` is its transcript as far as it was played."""

    case: Case
    origin: OriginDouble
    pop: Pop
    lines: list[Found] = field(default_factory=list)
    expected: deque[Question] = field(default_factory=deque)
    started: float = 0.0
    judged: int = 0  # requests of the origin that some exchange has judged

    async def run(self) -> list[Found]:
        """Play every exchange until one goes wrong; the transcript."""
        self.started = self.origin.clock()
        self.origin.otherwise(self.answer)
        for exchange in exchanges(self.case.statements):
            if exchange[0].verb == "client sends":
                self.lines += await self.exchange(exchange)
            else:
                await self.act(exchange[0])
            if not all(line.holds for line in self.lines):
                break
        return self.lines

    async def act(self, statement: Statement) -> None:
        """Move the clock, or stop or start the origin."""
        self.lines.append(Found.as_told(statement.text))
        if statement.verb == "after":
            self.origin.clock.advance(float(statement.rest.removesuffix("s")))
        elif statement.verb == "origin is down":
            await self.origin.stop()
        else:
            await self.origin.start()

    async def exchange(self, statements: list[Statement]) -> list[Found]:
        """One request of the client, all that follows from it, and the verdict on it."""
        before, bytes_before = len(self.origin.requests), self.origin.bytes_received
        questions = questions_of(statements)
        self.expected = deque(questions)
        sent = self.timed(statements[0])
        responses, ends = await self.ask(sent, [one for one in statements if is_final(one)])
        for question in questions:
            if question.gate is not None:
                question.gate.set()
        await self.settled(before + len(questions))
        self.judged += len(self.origin.requests) - before
        happened = Happened(
            sent,
            deque(self.origin.requests[before:]),
            deque(responses),
            deque(ends),
            self.origin.bytes_received - bytes_before,
        )
        return verdict([sent, *map(self.timed, statements[1:])], happened)

    async def ask(self, sent: Statement, receives: list[Statement]) -> tuple[list[ReceivedResponse | str], list[str]]:
        """Send the client's request on a connection of its own; the responses, and how it ended."""
        client = await RawClient.connect(self.pop.port, within=PATIENCE)
        try:
            if sent.words[0] == "raw":
                await client.send(sent.string or b"", segment=1 if sent.option("byte by byte") else None)
            else:
                method, target, *version = sent.words
                text = version[0].removeprefix("HTTP/") if version else "1.1"
                await client.request(method, target, sent.field_lines, sent.string or b"", text)
            responses = [await outcome(client) for _ in range(max(len(receives), 1))]
            ends = [await ending(client) for one in receives if one.option("closed")]
        finally:
            client.close()
        return responses, ends

    async def settled(self, count: int) -> None:
        """Wait until the origin was asked all that it expects, and give way to what else may be asked."""
        try:
            if count:
                await self.origin.request_seen(count, PATIENCE)
                await self.origin.all_whole(PATIENCE)
        except TooLate:
            pass
        await let_others_run(60)

    def answer(self, request: ReceivedRequest) -> Reply:
        """The origin's reply to its next request."""
        if not self.expected:
            return UNSCRIPTED
        question = self.expected.popleft()
        answer = question.answer
        if answer.verb == "origin hangs":
            return hang()
        if answer.verb == "origin resets":
            return RESET
        if delay := answer.option(r"after (\d+)s"):
            self.origin.clock.advance(float(delay[1]))
        interim = [(int(one.words[1]), self.timed(one).field_lines) for one in question.interim]
        return replace(reply_of(self.timed(answer)), interim=interim, wait=question.gate)

    def timed(self, statement: Statement) -> Statement:
        """The statement with its dates filled in: <now>, <now-60s>, <start+60s>."""

        def date(match: re.Match[str]) -> str:
            base = self.origin.clock() if match[1] == "now" else self.started
            return FakeClock(base).http_date(float(match[2] or 0))

        def fill(text: str) -> str:
            return re.sub(r"<(now|start)(?:([+-]\d+)s)?>", date, text)

        return replace(statement, rest=fill(statement.rest), attributes=tuple(map(fill, statement.attributes)))


def is_final(statement: Statement) -> bool:
    """Whether the client receives a final response here."""
    return statement.verb == "client receives" and not statement.rest.startswith("interim")


def questions_of(statements: list[Statement]) -> list[Question]:
    """What the origin expects to be asked in one exchange."""
    questions: list[Question] = []
    interim: list[Statement] = []
    told = False
    for statement in statements:
        told = told or is_final(statement)
        if statement.verb == "origin answers" and statement.rest.startswith("interim"):
            interim.append(statement)
        elif statement.verb in ANSWERS:
            questions.append(Question(statement, interim, asyncio.Event() if told else None))
            interim = []
    return questions


def reply_of(answer: Statement) -> Reply:
    """What `origin answers` says, as the origin double takes it."""
    if answer.words[0] == "raw":
        return Reply(raw=answer.string, hang=answer.option("and hangs") is not None)
    changes: dict[str, Any] = {}
    if answer.option("chunked"):
        changes["framing"] = "chunked"
    if answer.option("until close"):
        changes["framing"] = "close"
    if answer.option("close"):
        changes["close"] = True
    if length := answer.option(r"Content-Length says (\d+)"):
        changes["content_length"] = int(length[1])
    if cut := answer.option(r"cut after (\d+) bytes by (fin|rst)"):
        changes.update(cut_at=int(cut[1]), cut_by=cut[2])
    if version := answer.option(r"HTTP/(1\.[01])"):
        changes["version"] = version[1]
    if "no Date" in answer.attributes:
        changes["date"] = False
    return Reply(int(answer.words[0]), answer.field_lines, answer.string or b"", **changes)


async def outcome(client: RawClient) -> ReceivedResponse | str:
    """The next response, or in words what came instead."""
    try:
        return await client.response_or_broken()
    except TooLate:
        return f"nothing within {PATIENCE} s"
    except (Closed, Truncated, ConnectionResetError):
        return "a broken transfer"
    except NotHTTP as error:
        return f"what is not HTTP: {error}"


async def ending(client: RawClient) -> str:
    """How the connection ended after its last response: "closed", or in words what happened instead."""
    try:
        await client.closed()
    except (TooLate, NotHTTP) as error:
        return str(error)
    return "closed"


async def play(case: Case) -> list[Found]:
    """Play one case with a fresh origin and a fresh POP; the transcript, up to the first failure."""
    async with running_origin(FakeClock()) as origin, running_pop(origin, None, **case.settings) as pop:
        played = Play(case, origin, pop)
        lines = await played.run()
        await let_others_run()
        if extra := len(origin.requests) - played.judged:
            lines.append(Found("", f"{extra} request(s) at the origin outside every exchange"))
        if origin.violations:
            lines.append(Found("", f"origin received what is not HTTP: {origin.violations}"))
        return lines
