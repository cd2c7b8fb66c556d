"""Signals that must not end a process of a POP, although they would by default.

Signals of faults (SIGSEGV, SIGABRT …) and of job control keep their default actions.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Final

STRAYS: Final = tuple(
    getattr(signal, name)
    for name in ("SIGUSR1", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT", "SIGXCPU")
    if hasattr(signal, name)
) + tuple(range(signal.SIGRTMIN, signal.SIGRTMAX + 1))
# What a terminal or a script sends to a whole group of processes: the supervisor leads the others.
LED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR2)
UNTIL_HEEDED: Final = (signal.SIGHUP, signal.SIGUSR2)  # what has no meaning before the supervisor is there
ENDING: Final = (signal.SIGTERM, signal.SIGQUIT)


def ignore(*numbers: int) -> None:
    """Ignore these and all unused signals; child processes inherit that."""
    for number in (*STRAYS, *numbers):
        with suppress(OSError, ValueError):  # a system may keep one of them for itself
            signal.signal(number, signal.SIG_IGN)


def interrupt_by(*numbers: int) -> None:
    """Let these raise KeyboardInterrupt, as SIGINT does, so that cleanup runs."""
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
