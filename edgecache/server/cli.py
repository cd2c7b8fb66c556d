"""The program `edgecache`: one command of `commands.py`, except for the health check, which costs next to nothing.

An orchestrator runs `edgecache healthcheck` every few seconds on a machine that may be busy: it must not pay for
what the POP is made of. Only the health check's own few modules are loaded for it. Before all else is loaded, signals
are ignored that would end a process which is not ready for them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from edgecache.server import signals

INTERRUPTED: Final = 130  # as shells have it of SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for a configuration that refuses the start, else 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    match given:
        case ["healthcheck"] | ["healthcheck", "--config", _]:
            from edgecache.server import healthcheck

            return healthcheck.run("".join(given[2:]), os.environ)
        case ["_worker", *_]:
            signals.ignore(*signals.LED)
        case ["serve", *_]:
            signals.ignore(*signals.UNTIL_HEEDED)
            signals.interrupt_by(*signals.ENDING)
    try:
        from edgecache.server import commands

        return commands.run(given, os.environ)
    except BrokenPipeError:  # the reader of the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if given[0] == "serve":
            _exit_orderly()
        return INTERRUPTED


def _exit_orderly() -> NoReturn:
    """Exit with 0: there was nothing to drain yet.

    Python would end by SIGINT if the exception came out of an `exec` of text, as dataclasses and named tuples use it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
