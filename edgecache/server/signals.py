"""Signals that must not end a process of a POP, although they would by default.

Signals of faults (SIGSEGV, SIGABRT …) and of job control keep their default actions.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType
from typing import Final

STRAYS: Final = tuple(
    getattr(signal, name)
    for name in ("SIGUSR1", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT", "SIGXCPU")
    if hasattr(signal, name)
) + tuple(range(signal.SIGRTMIN, signal.SIGRTMAX + 1))
# What a terminal or a script sends to a whole group of processes: the supervisor leads the others.
LED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR2)
UNTIL_HEEDED: Final = (signal.SIGHUP, signal.SIGUSR2)  # what has no meaning before the supervisor is there
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
_interrupted: Final[list[int]] = []  # the signals that came
_cancel: Final[list[Callable[[], object]]] = []  # cancels what `run` runs, while it runs


def ignore(*numbers: int) -> None:
    """Ignore these and all unused signals; child processes inherit that."""
    for number in (*STRAYS, *numbers):
        with suppress(OSError, ValueError):  # a system may keep one of them for itself
            signal.signal(number, signal.SIG_IGN)


def interrupt_by(*numbers: int) -> None:
    """Let these raise KeyboardInterrupt, so that cleanup runs; or cancel what `run` runs."""
    for number in numbers:
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupted.append(number)
    if not _cancel:
        raise KeyboardInterrupt
    _cancel[-1]()


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if an earlier one, or a cancellation, was lost on its way."""
    if _interrupted:
        raise KeyboardInterrupt


def run(coroutine: Coroutine[object, object, None]) -> None:
    """Run `coroutine` as `asyncio.run` does, until a signal of `interrupt_by` cancels it: KeyboardInterrupt then."""
    import asyncio  # here, for the health check loads this module too

    async def run_it() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "in a coroutine"
        _cancel.append(lambda: loop.call_soon_threadsafe(task.cancel))
        try:
            await coroutine
        finally:
            _cancel.clear()

    try:
        asyncio.run(run_it())
    except asyncio.CancelledError:
        raise_if_interrupted()
        raise
    raise_if_interrupted()
