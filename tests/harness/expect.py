"""Compares one statement of a case with what was really said: lines that hold, and lines that do not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import http_sf

from harness.transcript import Statement


@dataclass(frozen=True)
class Found:
    """One line of a transcript: as expected, and as found, which is the same text if it holds."""

    expected: str
    actual: str

    @classmethod
    def as_told(cls, text: str) -> Found:
        """A line that expects nothing."""
        return cls(text, text)

    @property
    def holds(self) -> bool:
        """Whether what was found is what was expected."""
        return self.expected == self.actual


class Message(Protocol):
    """A request or a response: what expectations look at."""

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The field lines, in order."""

    def get(self, name: str) -> str | None:
        """The combined value of `name`, or None."""

    def all(self, name: str) -> list[str]:
        """The value of each line of `name`."""


def judged(expected: str, holds: bool, actual: str) -> Found:
    """The line as expected if it holds, else beside what was found."""
    return Found(expected, expected if holds else actual)


def shown(message: Message, name: str) -> str:
    """The field `name` of a message, as a line of a transcript."""
    value = message.get(name)
    return f"no {name}" if value is None else f"{name}: {value}"


def fields_found(message: Message, body: bytes, statement: Statement) -> list[Found]:
    """Every attribute line of `statement` that speaks of fields or body, compared with `message`."""
    found: list[Found] = []
    for attribute in statement.attributes:
        if attribute.startswith("("):
            continue
        if attribute.startswith(("no ", "any ")):
            found += presence_found(message, attribute)
        elif attribute.startswith("part "):
            found.append(part_found(message, body, attribute))
        elif match := re.match(r"(\S+) (has|lacks|matches|says) (.*)\Z", attribute):
            found.append(value_found(message, body, attribute, *match.groups()))
        else:
            found.append(line_found(message, attribute, statement))
    if statement.option("in this order"):
        found.append(order_found(message, statement))
    return found


def presence_found(message: Message, attribute: str) -> list[Found]:
    """`no Name, Name` and `any Name, Name`: whether the fields are absent, or present."""
    word, names = attribute.split(" ", 1)
    found = []
    for name in re.split(r",\s*", names):
        holds = (message.get(name) is None) == (word == "no")
        found.append(judged(f"{word} {name}", holds, shown(message, name)))
    return found


def line_found(message: Message, attribute: str, statement: Statement) -> Found:
    """`Name: value`: the combined value is this; or, if the case has several lines of it, each line is."""
    name, value = re.split(r": ?", attribute, maxsplit=1)
    lines = [other for key, other in statement.field_lines if key.lower() == name.lower()]
    holds = message.get(name) == value if len(lines) == 1 else message.all(name) == lines
    actual = shown(message, name) if len(lines) == 1 else f"{name}: lines {message.all(name)}"
    return judged(attribute, holds, actual)


def value_found(message: Message, body: bytes, attribute: str, name: str, how: str, what: str) -> Found:
    """`Name has x`, `lacks x`, `matches /x/`, `says x`; the name `body` is the body."""
    if name == "Cache-Status" and how == "says":
        return cache_status_found(message, attribute, what)
    value = body.decode("latin-1") if name == "body" else message.get(name)
    what = what.strip('"/') if how == "matches" or name == "body" else what
    if how == "matches":
        holds = value is not None and re.search(what, value) is not None
    else:
        holds = (value is not None and what.lower() in value.lower()) == (how == "has")
    return judged(attribute, holds, f"body {body[:200]!r}" if name == "body" else shown(message, name))


def cache_status(message: Message) -> list[dict[str, Any]]:
    """The parameters of each member that this POP has in Cache-Status (RFC 9211): there should be one."""
    members: Any = http_sf.parse((message.get("Cache-Status") or "").encode(), tltype="list")
    return [parameters for name, parameters in members if str(name) == "test"]


def cache_status_found(message: Message, attribute: str, what: str) -> Found:
    """`Cache-Status says hit; ttl=5; not stored`: the member of this POP has these parameters."""
    actual = shown(message, "Cache-Status")
    try:
        mine = cache_status(message)
    except http_sf.StructuredFieldError as error:
        return judged(attribute, False, f"{actual}  ({error})")
    if len(mine) != 1:
        return judged(attribute, False, f"{actual}  ({len(mine)} members of this POP)")
    return judged(attribute, all(says(mine[0], claim) for claim in re.split(r";\s*", what)), actual)


def says(parameters: dict[str, Any], claim: str) -> bool:
    """Whether a Cache-Status member has one parameter: `hit`, `not hit`, `fwd=stale`, `fwd=miss|uri-miss`."""
    if claim.startswith("not "):
        return not parameters.get(claim.removeprefix("not "))
    name, _, values = claim.partition("=")
    if not values:
        return bool(parameters.get(name))
    return name in parameters and str(parameters[name]) in values.split("|")


def part_found(message: Message, body: bytes, attribute: str) -> Found:
    """`part 0-1/10 "01"`: the multipart/byteranges body has a part of this Content-Range and content."""
    match = re.fullmatch(r'part (\S+) "(.*)"', attribute)
    assert match is not None, attribute
    boundary = re.search(r'multipart/byteranges;\s*boundary="?([^";]+)"?', message.get("Content-Type") or "")
    if boundary is None:
        return judged(attribute, False, shown(message, "Content-Type"))
    parts = re.split(rb"(?:\A|\r\n)--" + re.escape(boundary[1].encode()) + rb"(?:--)?(?:\r\n|\Z)", body)
    for part in parts:
        head, _, content = part.partition(b"\r\n\r\n")
        content_range = re.search(rb"(?i)content-range:[ ]*bytes[ ]+(\S+)", head)
        if content_range is not None and content_range[1].decode() == match[1]:
            return judged(attribute, content.decode("latin-1") == match[2], f"part {match[1]} {content!r}")
    return judged(attribute, False, f"no such part in {body!r}")


def order_found(message: Message, statement: Statement) -> Found:
    """`(in this order)`: the listed lines come in this order, their names spelt as here."""
    listed = statement.field_lines
    names = {name.lower() for name, _ in listed}
    came = [line for line in message.fields if line[0].lower() in names]
    return judged("(in this order)", came == listed, f"the order and spelling {[name for name, _ in came]}")


def status_found(expected: str, status: int) -> bool:
    """Whether a status is the expected one: `200`, `4xx`, or alternatives, `502|504`."""
    return any(re.fullmatch(one.replace("x", "[0-9]"), str(status)) is not None for one in expected.split("|"))
