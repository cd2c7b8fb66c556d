"""The interface of the regional tier's client to the keeper of its records: a server, the machine's store, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from edgecache.semantics.rope import Piece
from edgecache.storage.fetch_lease import Lease, LeaseResult, Leases, LeaseWait
from edgecache.valkey.availability import Availability
from edgecache.valkey.batching import MOST_BYTES, Commands, Reads

NEAR: Final = "near"  # the word that comes with a value out of the machine's store
OnValue = Callable[[bytes | None, str], None]
OnStore = Callable[[bytes, bytes], Callable[[int], bool]]  # key and URL of what will be stored; which lengths may be
OnReply = Callable[[int, Any], None]  # the size as it was given, and the reply: an exception if there is none


class ReadLane(Protocol):
    """Reads of values by key."""

    def get(self, key: bytes, on_value: OnValue) -> None:
        """Have `on_value` called with the value of `key`, or with None and a word; perhaps at once."""

    async def close(self) -> None:
        """Close it."""


class WriteLane(Protocol):
    """Other commands, in order."""

    @property
    def queued(self) -> int:
        """Bytes that wait."""

    def send(self, command: tuple[object, ...], size: int = 0, on_reply: OnReply | None = None) -> bool:
        """Enqueue `command`, and have `on_reply` called; False if it is dropped at once."""

    async def execute(self, command: tuple[object, ...], size: int = 0, within: float | None = None) -> Any:
        """The reply to `command`; raises one of `Failure`."""

    async def close(self) -> None:
        """Close it."""


class LeaseKeeper(Protocol):
    """Leases of fetches."""

    async def take(self, key: bytes, within: float) -> Lease | LeaseWait | None:
        """The lease of `key`, or a wait for another's; None if there is no answer `within` seconds."""

    def release(self, lease: Lease, result: LeaseResult, after: Any = None) -> None:
        """Release the lease and publish the outcome, `after` the commands of that queue."""

    async def close(self) -> None:
        """Close it."""

    def __len__(self) -> int: ...


class NearLane(Protocol):
    """Reads of the machine's store that do not wait, by the digests of keys."""

    @property
    def stays(self) -> bool:
        """Whether what was read once is read alike ever after."""

    def digest_of(self, key: bytes) -> bytes:
        """The digest of a key."""

    def at_hand(self, digest: bytes) -> tuple[int, Piece] | None:
        """The value of the key with this digest, after a number of its place that no other value ever has."""

    def place_of(self, digest: bytes) -> int | None:
        """The number of the place of that value."""

    def generation(self) -> int:
        """A number that changes with each change of the store."""

    def again(self, digest: bytes, place: int, at: int, length: int, generation: int) -> Piece | None:
        """Bytes of a value of which the place is known; None if the store has changed since `generation`."""

    @property
    def count_hit(self) -> Callable[[], None]:
        """Counts that such a value was used."""


class Lanes(NamedTuple):
    """The queues of a tier, and its leases."""

    reads: ReadLane  # of requests that wait for nothing else
    bulk: ReadLane  # of chunks: no first byte waits behind one
    followed: ReadLane  # of what another worker's fetch has stored
    writes: WriteLane
    control: WriteLane
    leases: LeaseKeeper
    near: NearLane | None = None  # None: no machine's store


def valkey_lanes(guard: Availability, budget: float, take_within: float, lease: float, most_unwritten: int) -> Lanes:
    """The queues to a Valkey."""
    control = Commands(guard, "regional control")
    return Lanes(
        reads=Reads(guard, budget),
        bulk=Reads(guard, max(budget, 1.0), patient=True),
        followed=Reads(guard, take_within, patient=True),
        writes=Commands(guard, "regional writes", most_unwritten),
        control=control,
        leases=Leases(guard, control, lease),
    )


__all__ = (
    "MOST_BYTES",
    "NEAR",
    "Lanes",
    "LeaseKeeper",
    "NearLane",
    "OnReply",
    "OnStore",
    "OnValue",
    "ReadLane",
    "WriteLane",
    "valkey_lanes",
)
