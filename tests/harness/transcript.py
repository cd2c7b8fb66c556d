"""Reads the cases in `tests/cases/*.txt`: transcripts of what client, POP and origin say to each other.

`tests/cases/README.md` explains the format to those who write cases. The reader is strict: a line that it does
not understand is an error with the file and the line's number, never an expectation that nobody checks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

VERBS = (
    "after",
    "origin is down",
    "origin is up",
    "origin is asked",
    "origin answers",
    "origin hangs",
    "origin resets",
    "client sends",
    "client receives",
)
SAYS_WHAT_IS_ASKED = ("origin is asked", "origin answers", "origin hangs", "origin resets")
_STATEMENT = re.compile(rf"(?P<verb>{'|'.join(VERBS)})(?:\s+(?P<rest>.*))?\Z")
_CASE = re.compile(r"case (?P<id>\S+)\s+(?P<clause>\S.*)\Z")
_PIECE = r"""("(?:[^"\\]|\\.)*")(?:\s*\*\s*(\d+))?\s*"""
_STRING = re.compile(rf"(?:{_PIECE})+\Z")
OPTIONS = {
    "client sends": r"byte by byte",
    "origin is asked": r"in this order",
    "origin answers": r"chunked|until close|close|and hangs|HTTP/1\.[01]|after \d+s|Content-Length says \d+"
    r"|cut after \d+ bytes by (?:fin|rst)",
    "client receives": r"in this order|closed",
}
_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_ATTRIBUTE = re.compile(
    rf"""(?P<kind>
        {_NAME}:                                # Name: value, equal to the value
      | no\s | any\s                            # absent; present with any value
      | {_NAME}\s(?:has|lacks|matches|says)\s   # a part of the value
      | part\s                                  # one part of a multipart/byteranges body
      | \(                                      # about the connection or the framing
    ).*\Z""",
    re.VERBOSE,
)


class CaseError(ValueError):
    """A case that is not well written."""


@dataclass(frozen=True)
class Statement:
    """One line of a transcript, `verb rest`, and the attribute lines below it."""

    verb: str
    rest: str
    attributes: tuple[str, ...]
    line: int

    @property
    def text(self) -> str:
        """The statement as a line of a transcript."""
        return f"{self.verb:<17}{self.rest}".rstrip()

    @property
    def words(self) -> list[str]:
        """The rest, split at blanks, without the string at its end."""
        return _STRING.sub("", self.rest).split()

    @property
    def string(self) -> bytes | None:
        """The bytes of the strings at the end of the statement (`"a"`, `"ab" * 3`), or None if it has none."""
        match = _STRING.search(self.rest)
        if match is None:
            return None
        pieces = re.findall(_PIECE, match[0])
        return b"".join(ast.literal_eval(text).encode("latin-1") * int(times or 1) for text, times in pieces)

    def option(self, pattern: str) -> re.Match[str] | None:
        """The attribute in parentheses that matches `pattern`."""
        found = (re.fullmatch(rf"\({pattern}\)", attribute) for attribute in self.attributes)
        return next(filter(None, found), None)

    @property
    def field_lines(self) -> list[tuple[str, str]]:
        """The attributes of the form `Name: value`, to be sent."""
        matches = (re.fullmatch(rf"({_NAME}):[ ]?(.*)", attribute) for attribute in self.attributes)
        return [(match[1], match[2]) for match in matches if match]


@dataclass(frozen=True)
class Case:
    """One case: what it shows, by which clause, under which settings, and the transcript."""

    id: str
    clause: str
    title: str
    where: str
    settings: dict[str, str]
    statements: tuple[Statement, ...]


@dataclass
class Draft:
    """A case as it is being read: its lines with their numbers, before `each` multiplies it."""

    header: str
    line: int
    title: list[str] = field(default_factory=list)
    body: list[tuple[int, str]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def read_cases(path: Path) -> list[Case]:
    """Every case of one file, each row of an `each` table a case of its own."""
    return [
        _case(path, draft, dict(zip(draft.columns, row, strict=True)))
        for draft in _drafts(path)
        for row in draft.rows or [[]]
    ]


def _drafts(path: Path) -> Iterator[Draft]:
    draft: Draft | None = None
    in_table = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("# ") or text == "#":
            continue
        if text.startswith("case ") and line == line.lstrip():
            if draft is not None:
                yield draft
            draft = Draft(text, number)
            in_table = False
        elif draft is None:
            raise CaseError(f"{path.name}:{number}: before the first case: {text}")
        else:
            in_table = _read_line(draft, number, line, in_table)
    if draft is not None:
        yield draft


def _read_line(draft: Draft, number: int, line: str, in_table: bool) -> bool:
    """Take one line into the draft; returns whether the next one may be a row of its table."""
    text = line.strip()
    is_statement = _STATEMENT.match(text) is not None
    if match := re.fullmatch(r"each (\w+): (.*)", text):
        draft.columns, draft.rows = [match[1]], [[value] for value in match[2].split()]
        return False
    if text.startswith("each "):
        draft.columns = [cell.strip() for cell in text.removeprefix("each ").split("|")]
        return True
    if in_table and not is_statement and not text.startswith("settings "):
        draft.rows.append([cell.strip() for cell in re.split(r"\s\|(?:\s|\Z)", text)])
        return True
    if not draft.body and not is_statement and not text.startswith("settings "):
        draft.title.append(text)
    else:
        draft.body.append((number, text))
    return False


def _case(path: Path, draft: Draft, values: dict[str, str]) -> Case:
    def filled(text: str) -> str:
        for name, value in values.items():
            text = text.replace("{" + name + "}", value)
        return text

    where = f"{path.name}:{draft.line}"
    match = _CASE.match(filled(draft.header))
    if match is None or not draft.title:
        raise CaseError(f"{where}: a case begins with «case ID CLAUSE» and a sentence: {draft.header}")
    settings: dict[str, str] = {}
    statements: list[Statement] = []
    for number, line in draft.body:
        text = filled(line)
        if text.startswith("settings "):
            settings.update(pair.split("=", 1) for pair in text.split()[1:])  # type: ignore[misc]
        elif found := _STATEMENT.match(text):
            statements.append(Statement(found["verb"], (found["rest"] or "").strip(), (), number))
        elif text and statements and _ATTRIBUTE.match(text):
            last = statements[-1]
            statements[-1] = Statement(last.verb, last.rest, (*last.attributes, text), last.line)
        elif text:
            raise CaseError(f"{path.name}:{number}: not understood: {text}")
    case = Case(match["id"], match["clause"], filled(" ".join(draft.title)), where, settings, tuple(statements))
    _check(case)
    return case


def _check(case: Case) -> None:
    """Refuse a case whose exchanges leave open what the origin is asked, or that has nothing to check."""
    for exchange in exchanges(case.statements):
        verbs = [statement.verb for statement in exchange]
        if verbs[0] == "client sends" and not any(verb in SAYS_WHAT_IS_ASKED for verb in verbs):
            raise CaseError(f"{case.where}: line {exchange[0].line} does not say what the origin is asked")
        if verbs[0] not in ("client sends", "after", "origin is down", "origin is up"):
            raise CaseError(f"{case.where}: line {exchange[0].line} belongs to no «client sends»")
    for statement in case.statements:
        for attribute in statement.attributes:
            if attribute.startswith("(") and not re.fullmatch(rf"\((?:{OPTIONS.get(statement.verb, '')})\)", attribute):
                raise CaseError(f"{case.where}: «{statement.verb}» knows no {attribute}")
    if not any(statement.verb == "client sends" for statement in case.statements):
        raise CaseError(f"{case.where}: no client sends anything")


def exchanges(statements: tuple[Statement, ...]) -> list[list[Statement]]:
    """The statements in groups: each `client sends` with what follows from it; the others by themselves."""
    groups: list[list[Statement]] = []
    for statement in statements:
        alone = statement.verb in ("after", "origin is down", "origin is up")
        if alone or statement.verb == "client sends" or not groups or groups[-1][0].verb != "client sends":
            groups.append([statement])
        else:
            groups[-1].append(statement)
    return groups
