"""Judges one exchange of a case: each statement beside what really happened."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from harness.client import ReceivedResponse
from harness.expect import Found, fields_found, judged, status_found
from harness.origin import ReceivedRequest
from harness.transcript import Statement

ANSWERS = ("origin answers", "origin hangs", "origin resets")
INDENT = " " * 17


@dataclass
class Happened:
    """What really happened in one exchange; the judge takes from the left what it has judged."""

    sent: Statement
    asked: deque[ReceivedRequest]
    responses: deque[ReceivedResponse | str]  # a text where no response came
    ends: deque[str]  # how connections ended that were to be closed
    origin_bytes: int
    open_question: bool = False  # an `origin is asked` awaits its answer
    told: bool = False  # a final response was judged
    interim: int = 0  # of the next response: how many of its interim ones were judged
    last_answer: Statement | None = None


def verdict(statements: list[Statement], happened: Happened) -> list[Found]:
    """The transcript of one exchange, each line with what was found in its place."""
    lines: list[Found] = []
    for statement in statements:
        match statement.verb:
            case "client sends":
                lines += told(statement)
            case "origin is asked":
                lines += asked(statement, happened)
            case "client receives":
                lines += received(statement, happened)
            case _:
                lines += answered(statement, happened)
    if not happened.told and happened.last_answer is not None:
        lines += received_as_answered(happened)
    for extra in happened.asked:
        lines.append(Found("", f"origin is asked  {extra.method} {extra.target}  (one request too many)"))
    return lines


def told(statement: Statement) -> list[Found]:
    """A statement that is no expectation."""
    return [Found.as_told(statement.text), *(Found.as_told(INDENT + one) for one in statement.attributes)]


def answered(statement: Statement, happened: Happened) -> list[Found]:
    """`origin answers` and the like; the client's own question comes before it if the case says no other."""
    lines: list[Found] = []
    if statement.verb == "origin answers" and statement.rest.startswith("interim"):
        return told(statement)
    if not happened.open_question:
        request = happened.asked.popleft() if happened.asked else None
        method, target = ("*", "*") if happened.sent.words[0] == "raw" else happened.sent.words[:2]
        found = question_found(f"origin is asked  {method} {target}", method, target, request)
        lines += [] if found.holds else [found]
    happened.open_question = False
    happened.last_answer = statement
    return [*lines, *told(statement)]


def asked(statement: Statement, happened: Happened) -> list[Found]:
    """`origin is asked`: the next request that the origin saw, or nothing at all."""
    if statement.rest == "nothing":
        requests = [f"{one.method} {one.target}" for one in happened.asked]
        happened.asked.clear()
        actual = f"origin is asked  {', '.join(requests)}  ({happened.origin_bytes} bytes)"
        return [judged(statement.text, happened.origin_bytes == 0, actual)]
    happened.open_question = True
    request = happened.asked.popleft() if happened.asked else None
    method, target = statement.words
    lines = [question_found(statement.text, method, target, request)]
    if request is None:
        return lines
    if statement.string is not None:
        actual = f"origin is asked  with the body {bytes(request.body)!r}"
        lines.append(judged(f"{INDENT}(body as above)", bytes(request.body) == statement.string, actual))
    return lines + indented(fields_found(request, bytes(request.body), statement))


def question_found(text: str, method: str, target: str, request: ReceivedRequest | None) -> Found:
    """Whether the origin was asked this; `*` stands for any method or target."""
    if request is None:
        return Found(text, "origin is asked  nothing")
    holds = method in ("*", request.method) and target in ("*", request.target)
    return judged(text, holds, f"origin is asked  {request.method} {request.target}")


def received(statement: Statement, happened: Happened) -> list[Found]:
    """`client receives`: the next response, or the next interim one of it."""
    if statement.rest.startswith("interim"):
        return interim_received(statement, happened)
    happened.told = True
    happened.interim = 0
    response = happened.responses.popleft()
    if statement.rest == "a broken transfer":
        broken = response == "a broken transfer" or (
            isinstance(response, ReceivedResponse) and response.broken is not None
        )
        return [judged(statement.text, broken, response_text(response))]
    lines = [response_found(statement, response)]
    if isinstance(response, ReceivedResponse):
        lines += indented(fields_found(response, response.body, statement))
    if statement.option("closed"):
        end = happened.ends.popleft()
        lines.append(judged(f"{INDENT}(closed)", end == "closed", f"{INDENT}({end})"))
    return lines


def interim_received(statement: Statement, happened: Happened) -> list[Found]:
    """`client receives interim 103`: the next interim response before the next final one."""
    response = happened.responses[0]
    came = response.interim[happened.interim :] if isinstance(response, ReceivedResponse) else []
    if not came:
        return [Found(statement.text, "client receives  no further interim response")]
    happened.interim += 1
    line = judged(
        statement.text, status_found(statement.words[1], came[0].status), f"client receives  {came[0].status}"
    )
    return [line, *indented(fields_found(came[0], b"", statement))]


def received_as_answered(happened: Happened) -> list[Found]:
    """What the client receives where the case does not say: the origin's answer."""
    answer, response = happened.last_answer, happened.responses[0]
    if answer is None or answer.verb != "origin answers" or answer.words[0] == "raw":
        return []
    bodiless = happened.sent.words[0] == "HEAD"
    rest = f'{answer.words[0]} ""' if bodiless else answer.rest
    found = response_found(Statement("client receives", rest, (), 0), response)
    return [] if found.holds else [found]


def response_found(statement: Statement, response: ReceivedResponse | str) -> Found:
    """Whether a response has the status and, if the case names it, the body."""
    if isinstance(response, str) or response.broken is not None:
        return Found(statement.text, response_text(response))
    holds = status_found(statement.words[0], response.status)
    if statement.string is not None:
        holds = holds and response.body == statement.string
    return judged(statement.text, holds, response_text(response))


def response_text(response: ReceivedResponse | str) -> str:
    """What the client received, in the words of a transcript, with the field that tells why."""
    if isinstance(response, str):
        return f"client receives  {response}"
    body = response.body.decode("latin-1")
    body = body if len(body) < 200 else f"{body[:200]}… ({len(body)} bytes)"
    broken = f"  ({response.broken})" if response.broken else ""
    why = response.get("cache-status")
    return f'client receives  {response.status} "{body}"{broken}' + (f"  [{why}]" if why else "")


def indented(found: list[Found]) -> list[Found]:
    """Lines of attributes, set below their statement."""
    return [Found(INDENT + one.expected, INDENT + one.actual) for one in found]
