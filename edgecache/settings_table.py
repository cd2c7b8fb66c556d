"""The table of settings as it is shown: to the operator, and in the README."""

from __future__ import annotations

from collections.abc import Mapping

from edgecache.config import LIVE, MASK, PREFIX, RESTART, ROWS, FromMachine, Row, found_by_machine
from edgecache.secret_files import Confidential


def effective_table(environ: Mapping[str, str], file: Mapping[str, str] | None = None) -> str:
    """Every setting as `edgecache check-config` prints it: name, value, where it is from, documentation.

    `file` is what comes from the configuration file, already part of `environ`.
    """
    cells, known = [], {**environ, **found_by_machine(environ)}
    for variable, row in ROWS.items():
        text = environ.get(variable, "").strip()
        source = "set" if text else "default" if row.default is not None else "missing"
        source = "file" if text and (file or {}).get(variable, "").strip() == text else source
        value = row.shown(known.get(variable, "").strip() or row.default_text())
        if isinstance(environ.get(variable), Confidential):
            value, source = MASK, "secret file"
        cells.append((variable, value or "-", source, row.doc))
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]) for line in cells
    )


def markdown_table() -> str:
    """The table of settings in the README: variable, default, kind with bounds, documentation."""
    lines = ["| Variable | Default | Kind | Meaning |", "| --- | --- | --- | --- |"]
    for variable, row in ROWS.items():
        lines.append(
            f"| `{variable}` | {_default_words(row)} | {_kind_words(row)} | {row.doc}{_reload_words(variable)} |"
        )
    return "\n".join(lines)


def _reload_words(variable: str) -> str:
    name = variable.removeprefix(PREFIX).lower()
    return "" if name in LIVE else " (restart)" if name in RESTART else " (new workers)"


def _default_words(row: Row) -> str:
    match row.default:
        case None:
            return "required"
        case FromMachine(words=words):
            return words
        case "":
            return "empty"
        case text:
            return f"`{text}`"


def _kind_words(row: Row) -> str:
    bounds = [f"from {row.least}" if row.least else "", f"to {row.most}" if row.most else ""]
    return " ".join([row.kind.name, *filter(None, bounds)])
