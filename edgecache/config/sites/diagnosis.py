"""What is wrong with a text of sites that its grammar does not allow: the first mistake, its place, the right words.

The decoder says that something is wrong; this walk, by the same classes, says what, and where inside lists and tables.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Meta, structs

from edgecache.config.sites import model
from edgecache.config.sites.positions import Path, Problem
from edgecache.config.sites.scalars import LONGEST_QUOTE, PARSERS, decode

FITTING: Final[dict[type, tuple[type, ...]]] = {  # what TOML has → kinds that it may become
    bool: (bool,),
    int: (int, float),
    float: (float,),
    str: (str, *PARSERS),
    list: (tuple,),
    dict: (dict, model.Table),
}
WORDS: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    tuple: "a list",
    list: "a list",
    dict: "a table",
    model.Table: "a table",
}
OF_LINES: Final = ("body", "keys")  # texts that may have several lines
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_USERINFO: Final = re.compile(r"(//)[^/?#]*@")


def mistake(value: Any, kind: Any = model.Document, path: Path = ()) -> Problem | None:
    """The first mistake in `value`, in the order of the text, as one of type `kind`; None if there is none."""
    choices = _alternatives(kind)
    fitting = [choice for choice in choices if _fits(value, *choice)]
    if not fitting:
        words = [word for inner, _ in choices for word in _words(inner)]
        if isinstance(value, str) and any(map(_is_quoted, words)):
            return Problem(path, _is_none_of(value, words))
        hint = _hint_of_form(value, [inner for inner, _ in choices], path)
        return Problem(path, f"should be {_listed(dict.fromkeys(words))}, not {_what(value)}{hint}")
    for inner, meta in fitting[:1]:
        walk = next(walk for of, walk in _WALKS if of(inner))
        return walk(value, inner, meta, path)
    return None


def control_character(value: Any, path: Path = ()) -> Problem | None:
    """The first text with a control character in it; only those of several lines may have line breaks."""
    if isinstance(value, str):
        is_free = bool(path) and path[-1] in OF_LINES
        return None if is_free or _CONTROL.search(value) is None else Problem(path, "holds a control character")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in items:
        if isinstance(step, str) and _CONTROL.search(step):
            return Problem(path, "has a key with a control character")
        if (found := control_character(item, (*path, step))) is not None:
            return found
    return None


# --- the types that a value may have


@lru_cache(maxsize=1024)
def _alternatives(kind: Any) -> tuple[tuple[Any, Meta | None], ...]:
    return tuple(_choices(kind))


def _choices(kind: Any, meta: Meta | None = None) -> Iterator[tuple[Any, Meta | None]]:
    """The alternatives of a union, each with what its annotation says."""
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *said = get_args(kind)
        yield from _choices(inner, next((one for one in said if isinstance(one, Meta)), meta))
    elif origin in (Union, UnionType):
        for member in get_args(kind):
            yield from _choices(member, meta)
    elif kind is not NoneType:
        yield kind, meta


def _fits(value: Any, kind: Any, meta: Meta | None) -> bool:
    """Whether `value` is of the sort that `kind` is written as."""
    if get_origin(kind) is Literal:
        return value in get_args(kind) and type(value) in map(type, get_args(kind))
    bare = get_origin(kind) or kind
    wanted = model.Table if _is_table(bare) else bare
    return wanted in FITTING.get(type(value), ())


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, model.Table)


# --- the walk, by the sort of type


def _table(value: dict[str, Any], kind: type, meta: Meta | None, path: Path) -> Problem | None:
    hints = _hints(kind)
    for key, item in value.items():
        if key not in hints:
            return Problem((*path, key), "is not a key here" + _hint(key, [*hints]))
        if (found := mistake(item, hints[key], (*path, key))) is not None:
            return found
    for name in _required(kind):
        if name not in value:
            return Problem(path, f"lacks the key {name}")
    return None


@lru_cache
def _required(kind: type) -> tuple[str, ...]:
    return tuple(one.encode_name for one in structs.fields(kind) if _is_required(one))


@lru_cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a table's keys, as they are written."""
    hints = get_type_hints(kind, vars(model), include_extras=True)
    return {one.encode_name: hints[one.name] for one in structs.fields(kind)}


def _is_required(one: structs.FieldInfo) -> bool:
    return one.default is NODEFAULT and one.default_factory is NODEFAULT


def _mapping(value: dict[str, Any], kind: Any, meta: Meta | None, path: Path) -> Problem | None:
    of_keys, of_values = get_args(kind)
    if not value and meta is not None and meta.min_length:
        return Problem(path, "is empty")
    for key, item in value.items():
        found = mistake(key, of_keys, (*path, key)) or mistake(item, of_values, (*path, key))
        if found is not None:
            return found
    return None


def _list(value: list[Any], kind: Any, meta: Meta | None, path: Path) -> Problem | None:
    if not value and meta is not None and meta.min_length:
        return Problem(path, "is an empty list")
    of_items = get_args(kind)[0]
    found = (mistake(item, of_items, (*path, number)) for number, item in enumerate(value))
    return next((one for one in found if one is not None), None)


def _scalar(value: Any, kind: type, meta: Meta | None, path: Path) -> Problem | None:
    try:
        decode(kind, value)
    except ValueError as error:
        return Problem(path, str(error))
    return None


def _text(value: str, kind: type, meta: Meta | None, path: Path) -> Problem | None:
    if meta is None:
        return None
    if meta.max_length is not None and len(value) > meta.max_length:
        return Problem(path, f"is longer than {meta.max_length} characters")
    if meta.pattern is not None and re.search(meta.pattern, value) is None:
        return Problem(path, f"{quoted(value)} is not {_noun(meta)}")
    return None


def _number(value: float, kind: type, meta: Meta | None, path: Path) -> Problem | None:
    if meta is None:
        return None
    tests: tuple[tuple[float | None, Callable[[float], bool], str], ...] = (
        (meta.ge, lambda least: value >= least, "at least"),
        (meta.gt, lambda least: value > least, "more than"),
        (meta.le, lambda most: value <= most, "at most"),
        (meta.lt, lambda most: value < most, "less than"),
    )
    for bound, holds, words in tests:
        if bound is not None and not holds(bound):
            return Problem(path, f"{value} should be {words} {bound}")
    return None


def _right(value: Any, kind: Any, meta: Meta | None, path: Path) -> Problem | None:
    return None


_WALKS: Final[tuple[tuple[Callable[[Any], bool], Callable[[Any, Any, Any, Path], Problem | None]], ...]] = (
    (_is_table, _table),
    (lambda kind: get_origin(kind) is dict, _mapping),
    (lambda kind: get_origin(kind) is tuple, _list),
    (lambda kind: kind in PARSERS, _scalar),
    (lambda kind: kind is str, _text),
    (lambda kind: kind in (int, float), _number),
    (lambda kind: True, _right),
)


# --- words


def quoted(value: str) -> str:
    """A value inside an error: on one line, bounded, without the user and password of a URL."""
    return json.dumps(_USERINFO.sub(r"\1********@", value)[:LONGEST_QUOTE], ensure_ascii=False)


def _words(kind: Any) -> Iterable[str]:
    if get_origin(kind) is Literal:
        return [json.dumps(word) for word in get_args(kind)]
    if kind in PARSERS:
        return [f'a string such as "{PARSERS[kind].example}"']
    return ["a table" if _is_table(kind) else WORDS.get(get_origin(kind) or kind, "something else")]


def _is_quoted(word: str) -> bool:
    return word.startswith('"')


def _is_none_of(value: str, words: Iterable[str]) -> str:
    known = list(dict.fromkeys(words))
    near = difflib.get_close_matches(value, [word.strip('"') for word in known], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{quoted(value)} is not {_listed(known)}{hint}"


def _listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _hint_of_form(value: Any, kinds: list[Any], path: Path) -> str:
    """How the same is written rightly, where that is likely to be meant."""
    if isinstance(value, dict) and any(get_origin(kind) is tuple for kind in kinds):
        names = ".".join(step for step in path if isinstance(step, str))
        return f": put it into [], or begin it with [[{names}]]"
    if isinstance(value, int | float) and not isinstance(value, bool) and str in kinds:
        return f': write "{value}"'
    return ""


def _what(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "a string"  # it may be a secret
    if isinstance(value, int | float):
        return f"the number {value}"
    return WORDS.get(type(value), "a date or time")


def _noun(meta: Meta) -> str:
    words = (meta.description or "of the right form").rstrip(".")
    return words[:1].lower() + words[1:] if words[1:2].islower() or words[1:2] == " " else words


def _hint(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are: {', '.join(sorted(known))}"
