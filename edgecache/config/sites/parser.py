"""From the text of `EDGECACHE_SITES` to a checked document; a mistake is one sentence with file, line, key and hint."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final

import msgspec

from edgecache.config.addresses import Origin, normalised, server
from edgecache.config.certificates import Described
from edgecache.config.sites import model
from edgecache.config.sites.access_checks import evaded
from edgecache.config.sites.certificates import certificates_of
from edgecache.config.sites.checks import problems
from edgecache.config.sites.credentials import signature_parameters
from edgecache.config.sites.diagnosis import control_character, mistake
from edgecache.config.sites.files import contents_of, paths_of
from edgecache.config.sites.geo_rules import of_country
from edgecache.config.sites.key_files import open_to_others, unusable_key
from edgecache.config.sites.positions import Problem, line_of, lines_of
from edgecache.config.sites.scalars import PARSERS, decode
from edgecache.config.types import Explained

LARGEST: Final = 32 * 1024 * 1024  # bytes of the text
DEEPEST: Final = 40  # lists and tables inside each other
LONGEST_WORDS: Final = 600  # characters that are said of one mistake
BOM: Final = "\ufeff"
_IN_WORDS: Final = {  # of the TOML parser: what an operator did
    "cannot overwrite a value": "a key is written twice",
    "cannot mutate immutable namespace": "a table in braces {} is closed: no key can be added to it",
    "cannot redefine namespace": "a table is written twice",
}
_DECLARED: Final = re.compile(r"cannot declare \((.*?),?\) twice")


class SitesError(Explained):
    """A mistake in the text of sites: one sentence."""


@dataclass(frozen=True)
class WrittenSites:
    """Sites and rules as they were written: the text, the document that it is, and the files that it names.

    Equal texts with equal files are equal. `files` holds the contents of secrets and pages by the path that the text
    has: whatever needs one takes it from here, so that all workers have what was checked.
    """

    text: str = field(repr=False)
    file: str = field(compare=False)  # empty where the text itself was the setting
    document: model.Document = field(compare=False, repr=False)
    files: Mapping[str, bytes] = field(repr=False, default_factory=dict)
    certificates: tuple[Described, ...] = ()  # of all sites; a worker gets them with those of the listeners

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

    def is_current(self) -> bool:
        """Whether the files still hold what was read."""
        try:
            return not self.file or written(self.file) == self
        except SitesError:
            return False

    @cached_property
    def owners(self) -> Mapping[str, str]:
        """The names of sites by their hosts."""
        return {host: site.name for site in self.document.sites for host in self.hosts_of(site)}

    @staticmethod
    def hosts_of(site: model.Site) -> list[str]:
        """The hosts of `site` as requests have them; a wildcard keeps its star."""
        return [normalised(host) for host in site.hosts]

    @property
    def countries(self) -> Iterator[str]:
        """Where rules ask for the country of clients: file, line and key."""
        for path in of_country(self.document):
            yield str(_located(Problem(path, ""), self.text, self.file)).removesuffix(": ")

    @property
    def secret_parameters(self) -> frozenset[bytes]:
        """Query parameters that hold signatures, of any site."""
        return signature_parameters(self.document.sites)

    @property
    def warnings(self) -> list[str]:
        """What does not refuse the start, and should be known."""
        return [*open_to_others(self.document), *evaded(self.document)]

    @property
    def watched(self) -> list[str]:
        """The files whose change is a change of the sites."""
        return [*([self.file] if self.file else []), *paths_of(self.document)]


def written(value: str) -> WrittenSites:
    """The sites that `value` is, or that lie in the file of that name. Raises SitesError."""
    content = value if is_text(value) else _content(value)
    if isinstance(content, bytes) and content.startswith(CHECKED):
        return _of_snapshot(content)
    file = "" if isinstance(content, str) else value
    text = _decoded(content, file)
    document = parsed(text, file)
    found = contents_of(document)
    if isinstance(found, Problem):
        raise _located(found, text, file)
    if (unusable := unusable_key(document, found)) is not None:
        raise _located(unusable, text, file)
    certificates = certificates_of(document)
    if isinstance(certificates, Problem):
        raise _located(certificates, text, file)
    return WrittenSites(text, file, document, found, certificates)


def is_text(value: str) -> bool:
    """Whether `value` is a text of sites, and not the path of one."""
    return "\n" in value or ("=" in value and not value.startswith(("/", "./", "../")))


def _content(path: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SitesError(f"{path}: is not a file")
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise SitesError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise SitesError(f"{path}: is larger than {LARGEST // 1024 // 1024} MiB")
    return content


def _decoded(content: str | bytes, file: str) -> str:
    if isinstance(content, str):
        return content.removeprefix(BOM)
    try:
        return content.decode().removeprefix(BOM)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SitesError(f"{file}:{line}: is not UTF-8") from None


@lru_cache(maxsize=2)  # a reload looks at the same text several times
def parsed(text: str, file: str = "") -> model.Document:
    """The document that `text` is. Raises SitesError for the first mistake."""
    raw = _taken_apart(text, file)
    if (found := control_character(raw)) is not None:
        raise _located(found, text, file)
    document = _document(raw, text, file)
    for problem in problems(document):
        raise _located(problem, text, file)
    return document


@lru_cache(maxsize=1)
def _taken_apart(text: str, file: str) -> dict[str, Any]:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SitesError(_sentence(file, _line_in(str(error)), _without_place(str(error)))) from None
    except RecursionError:
        raise SitesError(_sentence(file, 0, _TOO_DEEP)) from None
    if _is_deeper(raw, DEEPEST):
        raise SitesError(_sentence(file, 0, _TOO_DEEP))
    return raw


_TOO_DEEP: Final = f"has more than {DEEPEST} lists and tables inside each other"


def _is_deeper(value: Any, deepest: int) -> bool:
    """Whether lists and tables lie deeper in each other; no recursion without bound."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return deepest == 0 or any(_is_deeper(item, deepest - 1) for item in inner)


def _document(raw: Any, text: str, file: str) -> model.Document:
    try:
        return msgspec.convert(raw, model.Document, dec_hook=decode)
    except msgspec.ValidationError as error:
        raise _located(mistake(raw) or Problem((), f"is invalid: {error}"), text, file) from None


def _located(problem: Problem, text: str, file: str) -> SitesError:
    key = "".join(f"[{step + 1}]" if isinstance(step, int) else f".{_key(step)}" for step in problem.path).lstrip(".")
    words = f"{key}: {problem.words}" if key else problem.words
    words = "".join([letter if letter.isprintable() else "?" for letter in words[:LONGEST_WORDS]])
    return SitesError(_sentence(file, line_of(problem.path, lines_of(text)), words))


def _key(step: str) -> str:
    """A key as TOML has it."""
    return step if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", step) else msgspec.json.encode(step[:80]).decode()


def _sentence(file: str, line: int, words: str) -> str:
    place = f"{file or 'line'}{':' if file and line else ' ' if line else ''}{line or ''}"
    return f"{place}: {words}" if file or line else words


def _line_in(said: str) -> int:
    found = re.search(r"at line (\d+)", said)
    return int(found[1]) if found else 0


def _without_place(said: str) -> str:
    words = re.sub(r" \(at .*\)$", "", said)
    words = words[:1].lower() + words[1:]
    if declared := _DECLARED.fullmatch(words):
        words = f"the table {'.'.join(re.findall(chr(39) + '(.*?)' + chr(39), declared[1]))} is written twice"
    return "is not TOML: " + _IN_WORDS.get(words, words)


# --- what workers get


CHECKED: Final = b"\0edgecache sites, checked\n"  # no text of TOML begins so


class _Snapshot(msgspec.Struct):
    text: str
    file: str
    raw: Any
    files: dict[str, bytes]


def snapshot(sites: WrittenSites) -> bytes:
    """`sites` as a worker reads them: the very text, already taken apart, and the contents of the files it names."""
    made = _Snapshot(sites.text, sites.file, _taken_apart(sites.text, sites.file), dict(sites.files))
    return CHECKED + msgspec.msgpack.encode(made)


@lru_cache(maxsize=2)
def _of_snapshot(content: bytes) -> WrittenSites:
    found = msgspec.msgpack.decode(content.removeprefix(CHECKED), type=_Snapshot)
    return WrittenSites(found.text, found.file, _document(found.raw, found.text, found.file), found.files)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the text of sites."""

    def of_scalar(kind: type) -> dict[str, Any]:
        grammar = PARSERS[kind]
        words = (kind.__doc__ or "").strip()
        schema: dict[str, Any] = {"type": "string", "description": words, "examples": [grammar.example]}
        return schema | ({"pattern": grammar.pattern} if grammar.pattern else {})

    schema = msgspec.json.schema(model.Document, schema_hook=of_scalar)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sites and rules of edgecache",
        **schema,
    }
