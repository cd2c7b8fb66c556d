"""From the text of `EDGECACHE_SITES` to a checked document; a mistake is one sentence with file, line, key and hint."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from edgecache.config.addresses import Origin, server
from edgecache.config.sites import model
from edgecache.config.sites.checks import problems
from edgecache.config.sites.positions import Path, Problem, line_of, lines_of
from edgecache.config.sites.scalars import PARSERS, decode
from edgecache.config.types import Explained

LARGEST: Final = 32 * 1024 * 1024  # bytes of the text
RENAMED: Final = {"not": "negated"}  # keys that are no names in Python
_AT: Final = re.compile(r"(.*?)(?: - at (?:the key in )?`(\$[^`]*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `([^`]*)`")
_MISSING: Final = re.compile(r"Object missing required field `([^`]*)`")


class SitesError(Explained):
    """A mistake in the text of sites: one sentence."""


@dataclass(frozen=True)
class WrittenSites:
    """Sites and rules as they were written: the text, and the document that it is. Equal texts are equal."""

    text: str = field(repr=False)
    file: str = field(compare=False)  # empty where the text itself was the setting
    document: model.Document = field(compare=False, repr=False)

    @property
    def first_origin(self) -> Origin:
        """A server of the first site: where health and start-up need one."""
        site = self.document.sites[0]
        first = site.origin or self.document.pools[site.pool or ""].servers[0]
        return server(first.url if isinstance(first, model.Server) else first)

    @property
    def servers(self) -> Iterator[Origin]:
        """All servers of all pools, and the origins of sites."""
        document = self.document
        written = [one for pool in document.pools.values() for one in pool.servers]
        written += [site.origin for site in document.sites if site.origin is not None]
        yield from (server(one.url if isinstance(one, model.Server) else one) for one in written)


def written(value: str) -> WrittenSites:
    """The sites that `value` is, or that lie in the file of that name. Raises SitesError."""
    text, file = text_of(value)
    return WrittenSites(text, file, parsed(text, file))


def text_of(value: str) -> tuple[str, str]:
    """The text of sites, and the name of its file, empty where `value` is the text itself. Raises SitesError."""
    if "\n" in value or "=" in value:
        return value, ""
    try:
        content = File(value).read_bytes()
    except OSError as error:
        raise SitesError(f"{value}: cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise SitesError(f"{value}: is larger than {LARGEST // 1024 // 1024} MiB")
    try:
        return content.decode(), value
    except UnicodeDecodeError:
        raise SitesError(f"{value}: is not UTF-8") from None


def parsed(text: str, file: str = "") -> model.Document:
    """The document that `text` is. Raises SitesError for the first mistake."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SitesError(_sentence(file, _line_in(str(error)), _without_place(str(error)))) from None
    try:
        document = msgspec.convert(_renamed(raw), model.Document, dec_hook=decode)
    except msgspec.ValidationError as error:
        raise _explained(str(error), raw, text, file) from None
    for problem in problems(document):
        raise _located(problem, text, file)
    return document


def _renamed(value: Any) -> Any:
    """`value` with keys that are words of Python under the names of their attributes."""
    if isinstance(value, dict):
        return {RENAMED.get(key, key): _renamed(item) for key, item in value.items()}
    return [_renamed(item) for item in value] if isinstance(value, list) else value


def _explained(said: str, raw: Any, text: str, file: str) -> SitesError:
    match = _AT.fullmatch(said)
    assert match is not None, "the place is optional"
    problem, path = match[1], _path(match[2] or "$")
    if unknown := _UNKNOWN.fullmatch(problem):
        near = difflib.get_close_matches(unknown[1], _keys_at(path), n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are: {', '.join(sorted(_keys_at(path)))}"
        return _located(Problem((*path, unknown[1]), "is not a key here" + hint), text, file)
    if missing := _MISSING.fullmatch(problem):
        return _located(Problem(path, f"lacks the key {missing[1]}"), text, file)
    return _located(Problem(path, _plain(problem)), text, file)


def _plain(problem: str) -> str:
    """A sentence of the decoder in the words of TOML."""
    words = problem.replace("`", "").replace("Expected", "should be").replace("object", "table")
    words = re.sub(r"matching regex '.*'", "of another form", words)
    for ours, theirs in (
        ("str", "a string"),
        ("int", "a whole number"),
        ("bool", "true or false"),
        ("array", "a list"),
    ):
        words = re.sub(rf"\b{ours}\b", theirs, words)
    return words[:1].lower() + words[1:]


def _located(problem: Problem, text: str, file: str) -> SitesError:
    key = "".join(f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in problem.path).lstrip(".")
    words = f"{key}: {problem.words}" if key else problem.words
    return SitesError(_sentence(file, line_of(problem.path, lines_of(text)), words))


def _sentence(file: str, line: int, words: str) -> str:
    place = f"{file or 'line'}{':' if file and line else ' ' if line else ''}{line or ''}"
    return f"{place}: {words}" if file or line else words


def _path(written: str) -> Path:
    """`$.sites[0].rules[1]` as a path; an element that the decoder does not name ends it."""
    path: Path = ()
    for key, index in _STEP.findall(written):
        if index == "...":
            break
        path = (*path, key) if key else (*path, int(index))
    return path


def _keys_at(path: Path) -> list[str]:
    """The keys that the table at `path` may have."""
    kinds: list[Any] = [model.Document]
    for step in path:
        kinds = [inner for kind in kinds for inner in _inside(kind, step)]
    names = {value: key for key, value in RENAMED.items()}
    found = {name for kind in kinds if _is_table(kind) for name in kind.__struct_fields__}
    return [names.get(name, name) for name in found]


def _inside(kind: Any, step: str | int) -> Iterator[Any]:
    """The types that may lie at `step` of a value of type `kind`, with unions, annotations and lists unwrapped."""
    if _is_table(kind):
        hints = get_type_hints(kind, vars(model))
        if step in hints:
            yield from _flat(hints[str(step)])
        return
    yield from (found for inner in get_args(kind) for found in _flat(inner))


def _flat(kind: Any) -> Iterator[Any]:
    arguments = get_args(kind)
    if _is_table(kind) or not arguments or get_origin(kind) in (tuple, dict):
        yield kind
        return
    for argument in arguments:
        yield from _flat(argument)


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, model.Table)


def _line_in(said: str) -> int:
    found = re.search(r"at line (\d+)", said)
    return int(found[1]) if found else 0


def _without_place(said: str) -> str:
    words = re.sub(r" \(at .*\)$", "", said)
    return "is not TOML: " + words[:1].lower() + words[1:]


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the text of sites."""

    def of_scalar(kind: type) -> dict[str, Any]:
        pattern = PARSERS[kind][1]
        return {"type": "string", "description": (kind.__doc__ or "").strip()} | (
            {"pattern": pattern} if pattern else {}
        )

    schema = msgspec.json.schema(model.Document, schema_hook=of_scalar)
    definitions = schema["$defs"]
    properties = definitions["When"]["properties"]
    for name, attribute in RENAMED.items():
        properties[name] = properties.pop(attribute)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sites and rules of edgecache",
        **schema,
    }
