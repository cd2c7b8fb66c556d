"""Exceptions of edgecache."""

from __future__ import annotations

from typing import Final

BAD_CONFIGURATION: Final = 2  # exit code for invalid configuration


class EdgecacheError(Exception):
    """Any error that edgecache raises on purpose."""


class ConfigError(EdgecacheError):
    """Invalid configuration; its text is one line that names the variable."""

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(f"{variable}: {problem}")
        self.variable = variable
        self.problem = problem
