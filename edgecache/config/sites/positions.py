"""Lines of keys in a TOML text: `tomllib` tells values, not where they are written."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

Path = tuple[str | int, ...]


class Problem(NamedTuple):
    """A mistake, and where it is."""

    path: Path
    words: str


HEADER: Final = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?")
KEY: Final = re.compile(
    r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
TOKENS: Final = re.compile(
    r'"""(?:.|\n)*?"""|\'\'\'(?:.|\n)*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}\n]'
)


def lines_of(text: str) -> dict[Path, int]:
    """Line numbers, from 1, by the path of each key that begins a line, and of each table."""
    found: dict[Path, int] = {}
    prefix: Path = ()
    counts: dict[Path, int] = {}
    for number, line in _logical_lines(text):
        if (header := HEADER.match(line)) is not None:
            prefix = _path_of_header(_parts(header[2]), counts, is_array=header[1] == "[[")
            found.setdefault(prefix, number)
        elif (key := KEY.match(line)) is not None:
            found.setdefault((*prefix, *_parts(key[1])), number)
    return found


def line_of(path: Path, lines: dict[Path, int]) -> int:
    """The line where `path` is written, or the nearest that encloses it; 0 if none is known."""
    while path:
        if (line := lines.get(path) or _first_inside(path, lines)) is not None:
            return line
        path = path[:-1]
    return 0


def _first_inside(path: Path, lines: dict[Path, int]) -> int | None:
    """The first line of what is inside the table at `path`, which need not be written itself."""
    return min((line for known, line in lines.items() if known[: len(path)] == path), default=None)


def _path_of_header(parts: list[str], counts: dict[Path, int], *, is_array: bool) -> Path:
    """The path that a header names: each array of tables on the way counts as its last element."""
    path: Path = ()
    for position, part in enumerate(parts):
        path = (*path, part)
        if is_array and position == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _parts(written: str) -> list[str]:
    return [part.strip("\"'") for part in PART.findall(written)]


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with their numbers, less those inside a value that began on an earlier line."""
    begins, depth, start, number = [], 0, 0, 1
    opened = 1
    for token in TOKENS.finditer(text):
        word = token[0]
        if word == "\n":
            if depth == 0:
                begins.append((opened, text[start : token.start()]))
                start, opened = token.end(), number + 1
            number += 1
        elif word in "[{":
            depth += 1
        elif word in "]}":
            depth = max(0, depth - 1)
        else:
            number += word.count("\n")
    begins.append((opened, text[start:]))
    return begins
