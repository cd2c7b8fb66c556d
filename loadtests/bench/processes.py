"""The servers of the benchmark: the core that each has to itself, and single requests of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtests.lab import processes
from loadtests.lab.processes import Answer, Process

SERVER_CORE = 0
LOAD_CORE = 1
HOST = "www.example.com"


def server(
    argv: Sequence[str], port: int, folder: Path, env: Mapping[str, str] | None = None, core: int = SERVER_CORE
) -> Process:
    """A server with all its children on one core, which is ready when it answers `/ready`."""
    return Process("server", argv, port, "/ready", folder, env or {}, core=core)


def probe(port: int, method: str, target: str, fields: Mapping[str, str] | None = None) -> Answer:
    """One request of the benchmark's site on a connection of its own."""
    return processes.probe(port, method, target, fields, HOST)
