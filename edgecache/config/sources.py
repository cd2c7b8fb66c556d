"""Sources of settings: the environment, and a file that may change while the POP runs.

What the environment sets wins over the file, as one expects of what is said nearer to the start. An environment cannot
change later, so a variable that is to be changed by a reload belongs into the file only; one warning names each that
is in both and differs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final

from edgecache.config.secret_files import NAMES_OF_FILES, SECRETS, named_files, read_secrets
from edgecache.semantics.errors import ConfigError

PREFIX: Final = "EDGECACHE_"
VARIABLE: Final = "EDGECACHE_CONFIG_FILE"
LARGEST: Final = 1024 * 1024  # bytes
LINE: Final = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.ASCII)


def parsed(text: str, where: str) -> dict[str, str]:
    """The variables of a file: `NAME=value` lines, comments after `#` at a line's start, values quoted or not.

    Raises ConfigError that names `where` and the line.
    """
    found: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        problem = None
        if match is None or not line.isprintable():
            problem = "is not NAME=value"
        elif not match[1].startswith(PREFIX):
            problem = f"is not a setting: names begin with {PREFIX}"
        elif match[1] in found:
            problem = f"sets {match[1]} again"
        if problem is not None or match is None:
            raise ConfigError(VARIABLE, f"{where} line {number} {problem}")
        found[match[1]] = _unquoted(match[2])
    return found


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value


class Source:
    """The environment and the file. Mutable state: last contents of the file, and values decided at the start."""

    def __init__(self, environ: Mapping[str, str], path: str = "") -> None:
        self._environ = {**environ, VARIABLE: path} if path else dict(environ)
        self.path = self._environ.get(VARIABLE, "").strip()
        self._decided: dict[str, tuple[str, str]] = {}  # by name: the value, and what had been written
        self.file: dict[str, str] = {}  # what the file says
        self.found: Mapping[str, str] = {}  # what the machine gave at the start, where nothing is written
        self._secrets: dict[str, str] = {}  # what the files of secrets said

    def read(self, secrets: Iterable[str] = SECRETS) -> dict[str, str]:
        """The environment to take settings from, with the files as they are now, of the named secrets too.

        Raises ConfigError.
        """
        self.file = self._read_file()
        self._secrets = read_secrets(self._said(), secrets)
        return self.merged()

    def merged(self) -> dict[str, str]:
        """The settings with the file as last read."""
        merged = self._written()
        merged.update({name: value for name, value in self.found.items() if not merged.get(name, "").strip()})
        for name, (value, _) in self._decided.items():
            merged[name] = value
        return merged

    def _read_file(self) -> dict[str, str]:
        if not self.path:
            return {}
        try:
            with open(self.path, encoding="utf-8") as file:
                text = file.read(LARGEST)
        except OSError as error:
            raise ConfigError(VARIABLE, f"{self.path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise ConfigError(VARIABLE, f"{self.path} is not text in UTF-8") from None
        return parsed(text, os.path.basename(self.path))

    def _said(self) -> dict[str, str]:
        said = {name: value for name, value in self._environ.items() if value.strip() or name not in self.file}
        return {**self.file, **said}

    def _written(self) -> dict[str, str]:
        plain = {name: value for name, value in self._said().items() if name not in NAMES_OF_FILES}
        return {**plain, **self._secrets}

    @property
    def secret_paths(self) -> list[str]:
        """The files that hold secrets."""
        return [path for _, path in named_files(self._said())]

    def fix(self, name: str, value: str) -> None:
        """Fix `name` to `value`, as decided at the start."""
        written = self._decided[name][1] if name in self._decided else self._written().get(name, "").strip()
        self._decided[name] = value, written

    def is_written(self, name: str) -> bool:
        """Whether the environment or the file sets `name`."""
        return bool(self._written().get(name, "").strip())

    def is_fixed(self, name: str) -> bool:
        """Whether `name` was decided at the start."""
        return name in self._decided

    @property
    def changed_though_fixed(self) -> list[str]:
        """Settings decided at the start whose written values have changed."""
        written = self._written()
        return [name for name, (_, before) in self._decided.items() if written.get(name, "").strip() != before]

    @property
    def overridden(self) -> list[str]:
        """Settings of the file that the environment overrides."""
        said = {name: value.strip() for name, value in self._environ.items() if value.strip()}
        return [name for name, value in self.file.items() if name in said and said[name] != value.strip()]
