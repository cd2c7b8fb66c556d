"""Secrets in files of their own: EDGECACHE_NAME_FILE names the file that holds the value of EDGECACHE_NAME.

So an orchestrator hands them over (Docker and Kubernetes mount them), and no environment shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from edgecache.semantics.errors import ConfigError

SUFFIX: Final = "_FILE"
LARGEST: Final = 1024 * 1024  # bytes
# Every setting that is a secret, or an URL that may hold a password.
SECRETS: Final = (
    "EDGECACHE_ADMIN_TOKEN",
    "EDGECACHE_PEERS",
    "EDGECACHE_POP_SECRET",
    "EDGECACHE_PURGE_TOKENS",
    "EDGECACHE_REGIONAL",
    "EDGECACHE_REGIONAL_KEY",
)
NAMES_OF_FILES: Final = frozenset(name + SUFFIX for name in SECRETS)


class Confidential(str):
    """A value from a secret file: never printed, not even in errors."""

    __slots__ = ()


def named_files(written: Mapping[str, str], names: Iterable[str] = SECRETS) -> Iterator[tuple[str, str]]:
    """Settings of `names` that `written` reads from a file, with its path."""
    for name in names:
        if path := written.get(name + SUFFIX, "").strip():
            yield name, path


def read_secrets(written: Mapping[str, str], names: Iterable[str] = SECRETS) -> dict[str, str]:
    """Values of secret files by setting; raises ConfigError if one cannot be read."""
    found: dict[str, str] = {}
    for name, path in named_files(written, names):
        if written.get(name, "").strip():
            raise ConfigError(name + SUFFIX, f"is set, and so is {name}: one of them is enough")
        found[name] = Confidential(_content(name + SUFFIX, path))
    return found


def _content(variable: str, path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LARGEST).rstrip("\r\n")
    except OSError as error:
        raise ConfigError(variable, f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(variable, f"{path} is not text in UTF-8") from None
    if not text.strip():  # it would mean that no secret is asked for
        raise ConfigError(variable, f"{path} is empty")
    return text
