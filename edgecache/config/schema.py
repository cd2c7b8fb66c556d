"""A row of the table of settings: kind, default, documentation, bounds; and defaults that the machine decides."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgecache.config import system_resources
from edgecache.config.sizing import ConfiguredSizes, Shares, of_machine, registers, shared_out, store_size
from edgecache.config.types import REGIONAL, SettingType

MASK = "********"
LONGEST_QUOTE = 80
_USERINFO = re.compile(r"^(\w+://)?.*@", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FromMachine:
    """A default that the machine decides: how to find it, and the words that document it."""

    words: str
    find: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table. `default`, `least` and `most` are written as an operator would write them."""

    kind: SettingType[Any]
    default: str | FromMachine | None
    doc: str
    least: str | None = None
    most: str | None = None
    secret: bool = False

    def default_text(self) -> str:
        """The default as text on this machine; empty where there is none."""
        return self.default.find() if isinstance(self.default, FromMachine) else self.default or ""

    def value(self, text: str) -> Any:
        """The parsed and bounded value of `text`; ValueError says what is wrong with it."""
        value = self.kind.parse(text)
        if self.least is not None and value < self.kind.parse(self.least):
            raise ValueError(f"is less than {self.least}")
        if self.most is not None and value > self.kind.parse(self.most):
            raise ValueError(f"is more than {self.most}")
        return value

    def shown(self, text: str) -> str:
        """The text of a value as it may be printed: no secret, no user name or password of a URL."""
        if self.kind.name.endswith("the text itself") and "\n" in text:
            return f"{text.count(chr(10)) + 1} lines"
        return MASK if self.secret and text else _USERINFO.sub(rf"\g<1>{MASK}@", text)

    def quoted(self, text: str) -> str:
        """The text of a value inside an error: printable, on one line, bounded."""
        shown = self.shown(text)
        return shown if shown == MASK else json.dumps(shown[:LONGEST_QUOTE])


def setting(
    kind: SettingType[Any],
    default: str | FromMachine,
    doc: str,
    *,
    least: str | None = None,
    most: str | None = None,
    secret: bool = False,
) -> Any:
    """A row of the table with a default."""
    row = Row(kind, default, doc, least, most, secret)
    told = not secret and kind is not REGIONAL  # a URL may hold a password
    return field(metadata={"row": row}, default_factory=lambda: row.value(row.default_text()), repr=told)


def required(kind: SettingType[Any], doc: str) -> Any:
    """A row of the table without a default: the start is refused where it is not set."""
    return field(metadata={"row": Row(kind, None, doc)})


def _shares() -> Shares:
    return shared_out(of_machine(), ConfiguredSizes())


HOST_NAME = FromMachine("the host name", system_resources.pop_name)
CORES = FromMachine(
    "the usable cores, or as many as the cgroup's CPU and memory limits allow", lambda: str(_shares().workers)
)
OBJECTS = FromMachine(
    "256MiB; in a cgroup half of its limit, or what the processes leave free", lambda: str(_shares().memory)
)
NAMES = FromMachine(
    "100000, or what the cgroup's limit allows", lambda: str(registers(of_machine(), _shares().workers))
)
STORE_OBJECTS = FromMachine("three quarters of EDGECACHE_MEMORY; on disk 1GiB", lambda: store_size(_shares()))
VALKEY_OBJECTS = FromMachine("256MiB, or what the cgroup's limit allows", lambda: str(_shares().regional))
