"""The POP before a site, and progress as it is told."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from loadtests.lab.processes import Pop, pop, settings

POP = "real-sites"


def say(text: str) -> None:
    """One line of progress, on standard error."""
    print(f"real-sites: {text}", file=sys.stderr, flush=True)


def pop_for(port: int, folder: Path, workers: int, more: Mapping[str, str] | None = None) -> Pop:
    """An edgecache in front of a port of 127.0.0.1, with `more` settings, to be started."""
    usual = {"workers": workers, "memory": f"{256 * workers}MiB", "access_log": "json", "drain_grace": "3s"}
    return pop(POP, folder, {**settings(origin=f"http://127.0.0.1:{port}", **usual), **(more or {})})


@contextlib.contextmanager
def pop_before(port: int, folder: Path, workers: int, more: Mapping[str, str] | None = None) -> Iterator[Pop]:
    """The same, while the block runs."""
    one = pop_for(port, folder, workers, more)
    with one.process:
        yield one
