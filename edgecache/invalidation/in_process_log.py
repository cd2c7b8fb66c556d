"""The log of a POP without a regional tier: the supervisor relays each worker's invalidations to the others.

    worker ──► append ──► supervisor ──► apply ──► every other worker ──► applied ──► supervisor ──► done ──► worker

It need not outlive the POP: without a regional tier, no stored response does, unless there is a machine's store: then
the log lies in that (`invalidation/machine_log.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from os import urandom
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
        return await self._tell_others(draft, "")

    async def _tell_others(self, draft: Draft, identity: str) -> tuple[str, bool]:
        number, everywhere = next(self._numbers), True
        if self.send is not None:
            known = self._waiting[number] = asyncio.get_running_loop().create_future()
            self.send({"log": "append", "n": number, "id": identity, **written_scopes(draft.scopes, draft.soft)})
            await asyncio.wait((known,), timeout=WITHIN)
            everywhere = known.done() and known.result()
            del self._waiting[number]
        return f"local:{number}", everywhere

    def receive(self, message: Message) -> None:
        """Handle a message from the supervisor."""
        match message:
            case {"log": "apply", "n": number}:
                self._apply(message)
                if self.send is not None:
                    self.send({"log": "applied", "n": number})
            case {"log": "done", "n": number, "all": everywhere} if number in self._waiting:
                waiting = self._waiting[number]
                if not waiting.done():
                    waiting.set_result(everywhere)

    def _apply(self, message: Message) -> None:
        """Apply what another worker, or the supervisor, has sent."""
        scopes, soft = read_scopes(message)
        self._invalidation.append(scopes, soft=soft)


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
        self._name = urandom(8).hex()
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
        scopes, soft = read_scopes(message)
        everywhere = await self.apply(scopes, soft=soft, but=worker, identity=message.get("id", ""))
        worker.send({"log": "done", "n": number, "all": everywhere})

    async def apply(
        self, scopes: Sequence[bytes], *, soft: bool, but: WorkerHandle | None = None, identity: str = ""
    ) -> bool:
        """Apply it in every worker `but` one; whether all have in time. `identity` is its own in a shared log."""
        number = next(self._numbers)
        told = [worker for worker in self._workers() if worker.ready and worker is not but]
        late, all_know = {id(worker) for worker in told}, asyncio.Event()
        self._late[number] = late, all_know
        try:
            for worker in told:
                named = {"id": identity or f"{self._name}.{number}"}
                worker.send({"log": "apply", "n": number, **named, **written_scopes(scopes, soft)})
            if told:
                await asyncio.wait_for(all_know.wait(), WITHIN)
            return True
        except TimeoutError:
            gone = {id(worker) for worker in told if not worker.ready}
            return late <= gone
        finally:
            del self._late[number]


def written_scopes(scopes: Iterable[bytes], soft: bool) -> dict[str, Any]:
    """Scopes as JSON has them."""
    return {"scopes": [scope.decode("latin-1") for scope in scopes], "soft": soft}


def read_scopes(message: Message) -> tuple[list[bytes], bool]:
    """The scopes that `written_scopes` wrote."""
    return [scope.encode("latin-1") for scope in message["scopes"]], bool(message["soft"])
