r"""Reads the byte cases in `tables/*.txt`; `tables/README.md` explains the format to those who write cases.

Strict: a line that is not understood is an error with its file and number, never a case that nobody runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent / "tables"
REQUESTS = ("R", "N", "RN", "L", "E")  # kinds of cases that are about what the client sends
STORING = ("fresh", "asks")
ANSWERS = ("bad", "whole", "either")
KINDS = REQUESTS + STORING + ANSWERS
_SECTION = re.compile(r"== (?P<id>\w+) +(?P<title>\S.*)")
_ATTRIBUTE = re.compile(r"(?P<key>bytes|answer|clause) +(?P<value>\S.*)")
_ROW = re.compile(r"(?P<kind>\w+)(?: (?P<status>[\d|x]+))? +(?P<id>[\w.-]+)(?: +(?P<text>\S.*))?")
_SEES = re.compile(
    r' +origin sees +(?P<what>(?P<method>\S+) (?P<target>\S+) (?P<host>[^\s;]+)(?: "(?P<body>[^"]*)")?)(?P<rest>.*)'
)
_RECEIVES = re.compile(r' +client receives +(?P<status>\d+)(?: "(?P<body>[^"]*)")?')
_REFUSED = re.compile(r" +then refused +(?P<status>\S+)")
_REPEAT = re.compile(rb"<(\d+) x ([^>]+)>")


class TableError(ValueError):
    """A table that is not well written."""


@dataclass(frozen=True)
class Question:
    """One request that the origin must see, and what must hold of its fields: `no Name`, or `Name: value`."""

    method: bytes
    target: bytes
    host: bytes
    body: bytes = b""
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One case: what the client sends, what the origin answers where that matters, and what must come of it."""

    id: str
    kind: str
    status: str  # of the refusal: `400`, `400|501`, `4xx`; of `fresh` and `asks`: after how many seconds
    clause: str
    title: str
    data: bytes
    answer: bytes = b""
    sees: tuple[Question, ...] = ()
    then_refused: str = ""  # after what the origin sees, one refusal with this status
    receives: tuple[int, bytes] = (0, b"")  # what the client receives of an answer that is `whole`

    @property
    def refused_as(self) -> str:
        """The method that frames the refusal: only a HEAD's has no content (RFC 9112 §6.3)."""
        return "HEAD" if self.data.startswith(b"HEAD ") else "GET"

    def accepts(self, status: int) -> bool:
        """Whether a refusal by `status` is as expected."""
        wanted = self.status or self.then_refused or "4xx|501|505"
        return any(re.fullmatch(one.replace("x", r"\d"), str(status)) for one in wanted.split("|"))


@dataclass
class _Section:
    id: str
    title: str
    attributes: dict[str, str] = field(default_factory=dict)


def unescaped(text: str) -> bytes:
    r"""The bytes that `text` means: Python's escapes, and `<90 x ab>` for ninety times `ab`."""
    data = text.encode("latin-1").decode("unicode_escape").encode("latin-1")
    return _REPEAT.sub(lambda match: match[2] * int(match[1]), data)


@cache
def read_table(name: str) -> tuple[Case, ...]:
    """The cases of `tables/<name>.txt`, in order."""
    path = HERE / f"{name}.txt"
    cases: list[Case] = []
    section: _Section | None = None
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        try:
            section = _read_line(line, section, cases)
        except (ValueError, TypeError, AttributeError) as error:
            raise TableError(f"{path.name}:{number}: {error}: {line!r}") from error
    return tuple(cases)


def _read_line(line: str, section: _Section | None, cases: list[Case]) -> _Section:
    if match := _SECTION.fullmatch(line):
        return _Section(match["id"], match["title"])
    if section is None:
        raise ValueError("before the first section")
    if line.startswith(" "):
        cases[-1] = _continued(cases[-1], line)
    elif match := _ATTRIBUTE.fullmatch(line):
        section.attributes[match["key"]] = match["value"]
    elif (match := _ROW.fullmatch(line)) and match["kind"] in KINDS:
        cases.append(_case(section, match))
    else:
        raise ValueError("neither a section, an attribute, a row nor what belongs to a row")
    return section


def _case(section: _Section, row: re.Match[str]) -> Case:
    name = f"{section.id}-{row['id']}"
    text = row["text"] or ""
    parts = {key: section.attributes.get(key, "{}" if key == "bytes" else "") for key in ("bytes", "answer")}
    if sum("{}" in part for part in parts.values()) != 1:
        raise ValueError("the row's text has no one place to go")
    filled = {key: unescaped(part.replace("{}", text).replace("{id}", name)) for key, part in parts.items()}
    clause = section.attributes.get("clause", "")
    return Case(name, row["kind"], row["status"] or "", clause, section.title, filled["bytes"], filled["answer"])


def _continued(case: Case, line: str) -> Case:
    if match := _SEES.fullmatch(line):
        words = (unescaped(match[key]) for key in ("method", "target", "host"))
        fields = tuple(one.strip() for one in match["rest"].split(";") if one.strip())
        target = match["target"].replace("{id}", case.id)
        method, _, host = words
        question = Question(method, unescaped(target), host, unescaped(match["body"] or ""), fields)
        return replace(case, sees=(*case.sees, question))
    if match := _RECEIVES.fullmatch(line):
        return replace(case, receives=(int(match["status"]), unescaped(match["body"] or "")))
    if match := _REFUSED.fullmatch(line):
        return replace(case, then_refused=match["status"])
    raise ValueError("not what belongs to a row")


def all_cases() -> Iterator[Case]:
    """Every case of every table."""
    for path in sorted(HERE.glob("*.txt")):
        yield from read_table(path.stem)
