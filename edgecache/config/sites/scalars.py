"""Scalar values in the text of sites: each is a string with a grammar, parsed by the same parsers as settings.

A parser raises ValueError with words that end the sentence `key: "what was written" …`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import re2

from edgecache.config.addresses import Network, network
from edgecache.config.types import duration, size

LONGEST_PATTERN: Final = 1000  # characters of a regular expression
LONGEST_QUOTE: Final = 80
REGEX_MEMORY: Final = 1024 * 1024  # bytes that one compiled expression may take
HASH: Final = re.compile(r"\$argon2(id|i|d)\$[0-9A-Za-z$=,+/]{20,400}|\$2[aby]\$[0-9]{2}\$[./0-9A-Za-z]{53}")
GLOB_SPECIAL: Final = re.compile(r"[*?]")


class Duration(float):
    """Seconds, written as `250ms`, `10s`, `5m`, `1h` or `1d`."""


class Size(int):
    """Bytes, written as `64KiB`, `256MiB` or `1GB`."""


class Regex:
    """A regular expression in the syntax of RE2, which matches in linear time: no pattern can hang a worker."""

    __slots__ = ("compiled", "text")

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST_PATTERN:
            raise ValueError(f"is longer than {LONGEST_PATTERN} characters")
        options = re2.Options()
        options.max_mem, options.log_errors = REGEX_MEMORY, False
        options.encoding = re2.Options.Encoding.LATIN1
        try:
            self.compiled: Any = re2.compile(text.encode("latin-1"), options)
        except (re2.error, UnicodeEncodeError) as error:
            raise ValueError(f"is not a regular expression of RE2: {_reason(error)}") from None
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regex) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Regex({self.text!r})"


class Cidr:
    """An IP network, written as a CIDR block or an address."""

    __slots__ = ("network",)

    def __init__(self, text: str) -> None:
        try:
            self.network: Network = network(text)
        except ValueError:
            raise ValueError("is not a network such as 10.0.0.0/8") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cidr) and other.network == self.network

    def __hash__(self) -> int:
        return hash(self.network)

    def __repr__(self) -> str:
        return f"Cidr({self.network})"


class PasswordHash(str):
    """A hash of a password, by argon2 or bcrypt."""

    __slots__ = ()

    def __new__(cls, text: str) -> PasswordHash:
        """The hash; ValueError, whose words do not quote it, if it is none."""
        if not HASH.fullmatch(text):
            raise ValueError("must be a hash by argon2 or bcrypt, never a password")
        return super().__new__(cls, text)

    def __repr__(self) -> str:
        return "PasswordHash"


class Grammar(NamedTuple):
    """How one type of scalar is written: its parser, a pattern for editors, and an example."""

    parse: Callable[[str], Any]
    pattern: str
    example: str


PARSERS: Final[dict[type, Grammar]] = {
    Duration: Grammar(lambda text: Duration(duration(text)), r"^(0|[0-9]+(\.[0-9]+)?(ms|s|m|h|d))$", "10s"),
    Size: Grammar(lambda text: Size(size(text)), r"^[0-9]+(\.[0-9]+)?([KMGTkmgt]?[iI]?[bB])?$", "64KiB"),
    Regex: Grammar(Regex, "", "^/shop/"),
    Cidr: Grammar(Cidr, "", "10.0.0.0/8"),
    PasswordHash: Grammar(PasswordHash, HASH.pattern, "$argon2id$…"),
}


def decode(kind: type, value: Any) -> Any:
    """The value of type `kind` out of TOML's `value`; raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f'is not a string in quotes, such as "{PARSERS[kind].example}"')
    try:
        return PARSERS[kind].parse(value)
    except ValueError as error:
        quoted = "the value" if kind is PasswordHash else json.dumps(value[:LONGEST_QUOTE])
        raise ValueError(f"{quoted} {error}") from None


def _reason(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode("latin-1") if isinstance(said, bytes) else str(said)
