"""The table of settings as operators read it: what is in force, the reference in docs/, and a sample file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgecache.config.schema import MASK, FromMachine, Row
from edgecache.config.secret_files import Confidential
from edgecache.config.settings import GROUPS, LIVE, PREFIX, RESTART, ROWS, found_by_machine

SAMPLE_HEAD: Final = """\
# Sample configuration of edgecache: every setting with its default, commented out. `edgecache serve --config FILE`
# reads it; variables of the environment override it. docs/settings.md describes the values that a setting takes, and
# secrets in files of their own; `edgecache check-config --config FILE` checks the file."""


def effective_table(environ: Mapping[str, str], file: Mapping[str, str] | None = None) -> str:
    """Every setting as `edgecache check-config` prints it: name, value, where it is from, documentation.

    `file` is what comes from the configuration file, already part of `environ`.
    """
    cells, known = [], {**environ, **found_by_machine(environ)}
    for variable, row in ROWS.items():
        text = environ.get(variable, "").strip()
        source = "set" if text else "default" if row.default is not None else _stand_in(environ)
        source = "file" if text and (file or {}).get(variable, "").strip() == text else source
        value = row.shown(known.get(variable, "").strip() or row.default_text())
        if isinstance(environ.get(variable), Confidential):
            value, source = MASK, "secret file"
        cells.append((variable, value or "-", source, row.doc))
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]) for line in cells
    )


def _stand_in(environ: Mapping[str, str]) -> str:
    """Where EDGECACHE_ORIGIN, the only required setting, comes from if it is not set."""
    others = [name for name in ("EDGECACHE_ORIGINS", "EDGECACHE_SITES") if environ.get(name, "").strip()]
    return f"of {others[0]}" if others else "missing"


def reference() -> str:
    """The reference of all settings, docs/settings.md: for each heading a table in Markdown."""
    return "\n\n".join(_section(heading, rows) for heading, rows in GROUPS.items())


def _section(heading: str, rows: Mapping[str, Row]) -> str:
    lines = [f"## {heading}", "", "| Variable | Default | Value | Meaning |", "| --- | --- | --- | --- |"]
    for variable, row in rows.items():
        example = row.kind.example.replace("|", "\\|")
        value = _value_words(row) + (f", such as `{example}`" if example else "")
        lines.append(f"| `{variable}` | {_default_words(row)} | {value} | {row.doc}{_reload_words(variable)} |")
    return "\n".join(lines)


def sample_file() -> str:
    """A configuration file of all settings, commented out: docs/edgecache.env.example."""
    return "\n".join([SAMPLE_HEAD, *(_sample_section(heading, rows) for heading, rows in GROUPS.items())])


def _sample_section(heading: str, rows: Mapping[str, Row]) -> str:
    lines = ["", f"# ---- {heading}"]
    for variable, row in rows.items():
        words = [row.doc]
        if isinstance(row.default, FromMachine):
            words.append(f"Default: {row.default.words}.")
        if row.kind.example:
            words.append(f"Example: {row.kind.example}")
        lines += ["", "# " + " ".join(words), f"#{variable}={row.default if isinstance(row.default, str) else ''}"]
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


def _value_words(row: Row) -> str:
    bounds = [f"from {row.least}" if row.least else "", f"to {row.most}" if row.most else ""]
    return " ".join([row.kind.name, *filter(None, bounds)])
