"""The errors of edgecache: a small tree, and the type says who is to blame."""

from __future__ import annotations

from typing import Final

BAD_CONFIGURATION: Final = 2  # the exit code of a start that the configuration refuses


class EdgecacheError(Exception):
    """Any error that edgecache raises on purpose."""


class ConfigError(EdgecacheError):
    """A setting that refuses the start. Its text is one line that names the variable."""

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(f"{variable}: {problem}")
        self.variable = variable
        self.problem = problem
