"""The log of a POP without a regional tier: the supervisor relays each worker's invalidations to the others.

    worker ──► append ──► supervisor ──► apply ──► every other worker ──► applied ──► supervisor ──► done ──► worker

It need not outlive the POP: without a regional tier, no stored response does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Final, Protocol

from edgecache.invalidation.log_entry import Draft
from edgecache.invalidation.validity import Invalidation
from edgecache.tasks import spawn

WITHIN: Final = 1.0  # seconds that all workers have to apply an entry
Message = Mapping[str, Any]


class InProcessLog:
    """A worker's end. Mutable state: waiters by entry."""

    def __init__(self, invalidation: Invalidation) -> None:
        self._invalidation = invalidation
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[bool]] = {}
        self.send: Callable[[Message], None] | None = None  # to the supervisor; None: this process is alone

    async def record(self, draft: Draft) -> tuple[str, bool]:
        """Apply `draft` here and in all other workers; its ID, this POP's own, and whether all have it in time."""
        self._invalidation.append(draft.scopes, soft=draft.soft)
        number, everywhere = next(self._numbers), True
        if self.send is not None:
            known = self._waiting[number] = asyncio.get_running_loop().create_future()
            self.send({"log": "append", "n": number, **_written(draft.scopes, draft.soft)})
            await asyncio.wait((known,), timeout=WITHIN)
            everywhere = known.done() and known.result()
            del self._waiting[number]
        return f"local:{number}", everywhere

    def receive(self, message: Message) -> None:
        """Handle a message from the supervisor."""
        match message:
            case {"log": "apply", "n": number}:
                scopes, soft = _read(message)
                self._invalidation.append(scopes, soft=soft)
                if self.send is not None:
                    self.send({"log": "applied", "n": number})
            case {"log": "done", "n": number, "all": everywhere} if number in self._waiting:
                waiting = self._waiting[number]
                if not waiting.done():
                    waiting.set_result(everywhere)


class WorkerHandle(Protocol):
    """The supervisor's handle of a worker."""

    @property
    def ready(self) -> bool:
        """Whether it serves."""

    def send(self, message: Message) -> None:
        """Send it a message."""


class InProcessLogHub:
    """The supervisor's end. Mutable state: workers that lag, by entry."""

    def __init__(self, workers: Callable[[], Iterable[WorkerHandle]]) -> None:
        self._workers = workers
        self._numbers = count(1)
        self._late: dict[int, tuple[set[int], asyncio.Event]] = {}

    def receive(self, worker: WorkerHandle, message: Message) -> None:
        """Handle a message from a worker."""
        match message:
            case {"log": "append", "n": number}:
                spawn(self._relay(worker, number, message), "tell the other workers")
            case {"log": "applied", "n": number} if number in self._late:
                late, all_know = self._late[number]
                late.discard(id(worker))
                if not late:
                    all_know.set()

    async def _relay(self, worker: WorkerHandle, number: int, message: Message) -> None:
        scopes, soft = _read(message)
        everywhere = await self.apply(scopes, soft=soft, but=worker)
        worker.send({"log": "done", "n": number, "all": everywhere})

    async def apply(self, scopes: Sequence[bytes], *, soft: bool, but: WorkerHandle | None = None) -> bool:
        """Apply it in every worker `but` one; whether all have in time."""
        number = next(self._numbers)
        told = [worker for worker in self._workers() if worker.ready and worker is not but]
        late, all_know = {id(worker) for worker in told}, asyncio.Event()
        self._late[number] = late, all_know
        try:
            for worker in told:
                worker.send({"log": "apply", "n": number, **_written(scopes, soft)})
            if told:
                await asyncio.wait_for(all_know.wait(), WITHIN)
            return True
        except TimeoutError:
            gone = {id(worker) for worker in told if not worker.ready}
            return late <= gone
        finally:
            del self._late[number]


def _written(scopes: Iterable[bytes], soft: bool) -> dict[str, Any]:
    return {"scopes": [scope.decode("latin-1") for scope in scopes], "soft": soft}


def _read(message: Message) -> tuple[list[bytes], bool]:
    return [scope.encode("latin-1") for scope in message["scopes"]], bool(message["soft"])
