"""Eviction policies: LRU, SIEVE and S3-FIFO, as mappings with a budget in bytes and the interface of cachetools.

Hits are far more frequent than insertions, so **a hit is one dict lookup and at most one attribute write**: SIEVE and
S3-FIFO mark the object, and read the marks at eviction. LRU cannot: it moves the object in a second structure. Objects
are nodes with `__slots__` in one dict; a hit costs 7 % more with nodes as lists, 31 % with a set of marked keys, 73 %
with an OrderedDict, 84 % with nodes that move in a ring.

Every operation is O(1), amortised over evictions, except `clear`, `values` and `items`, which are O(n). Not here: time
to live (freshness is RFC 9111's business) and locks (a cache belongs to one event loop).
"""

from collections import OrderedDict
from collections.abc import Callable, ItemsView, Iterable, Iterator, ValuesView
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, overload

from cachetools import Cache

from edgecache.storage.eviction_queues import Ghosts, Node, Queue

if TYPE_CHECKING:
    from edgecache.storage.site_shares import SiteShares

__all__ = ["LRU", "POLICIES", "EvictionPolicy", "S3Fifo", "Sieve"]

ONE_MORE: Final = (1, 2, 3, 3)  # S3-FIFO's count of an object's hits after one more: up to three
MOST_SPARED: Final = 16  # values spared by one call of `limit` before it gives up

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class EvictionPolicy(Cache[K, V]):
    """A `cachetools.Cache` with a budget in bytes that reports evictions; the base of the three policies.

    Hits: `cache[key]`, `get` and `touch`. `peek`, `in`, iteration, `values` and `items` are none; the last two are
    snapshots, so that entries can be deleted during the iteration.

    `cache[key] = value` measures the value once by `getsizeof` (bytes; 1 by default) and evicts until it fits.
    Replacing a value is a hit and keeps its place in the queue. If the new value does not fit into the budget, it is
    queued anew with its hits, so that it is never evicted for its own growth.

    - `ValueError`: the value is larger than `maxsize`, or its size is negative. Nothing changes: the old value stays
      under the key, and a caller that must not use it any more deletes it. The same if `getsizeof` raises.
    - `on_evict(key, value)` is called for each item that is evicted, after its removal and before the insertion of
      the new one; not for `del`, `pop`, `popitem`, `clear` and replaced values. It can read the cache, but **must not
      change it**. If it raises, so does the assignment, and the key has no value.
    - `spares(value)`: whether evicting it for a lower `limit` would free little, because others hold it too. It is
      queued anew instead; after `MOST_SPARED` of them, `limit` gives up.
    """

    def __init__(
        self,
        maxsize: int,
        getsizeof: Callable[[V], int] | None = None,
        on_evict: Callable[[K, V], None] | None = None,
        spares: Callable[[V], bool] | None = None,
    ) -> None:
        super().__init__(maxsize, getsizeof)  # its store stays empty: ours is one dict of nodes
        self._budget = maxsize  # bytes
        self._used = 0  # bytes: the sum of the sizes in _nodes, at every return
        self._nodes: dict[K, Node[K, V]] = {}
        self._on_evict = on_evict
        self._spares = spares
        self.shares: SiteShares | None = None  # of sites; None: all share the queues
        self._start()

    # What a policy decides: its queues, where a node enters and leaves, the next victim, and what a hit changes.

    def _start(self) -> None:
        raise NotImplementedError

    def _enter(self, node: Node[K, V]) -> None:
        raise NotImplementedError

    def _leave(self, node: Node[K, V]) -> None:
        if node.queue is not None:
            node.queue.remove(node)

    def _victim(self) -> Node[K, V]:
        """Return the node to evict next; there is at least one, and the caller removes it."""
        raise NotImplementedError

    def touch(self, key: K) -> None:
        """Count a hit on `key`; does nothing if it is absent."""
        raise NotImplementedError

    @property
    def maxsize(self) -> int:
        """The budget in bytes."""
        return self._budget

    def limit(self, maxsize: int) -> bool:
        """Set the budget in bytes and evict until it is kept; False if it is not, because values were spared."""
        self.set_budget(maxsize)
        if self.shares is not None:
            self.shares.limit(maxsize)
        spared = 0
        while self._used > self._budget:
            node = self._next()
            if self._spares is not None and self._spares(node.value):
                self._drop(node)
                self._insert(node)
                spared += 1
                if spared == MOST_SPARED:
                    return False
            else:
                self._evict(node)
        return True

    def set_budget(self, maxsize: int) -> None:
        """Set the budget in bytes, and evict nothing."""
        self._budget = maxsize

    @property
    def currsize(self) -> int:
        """The bytes in use: the sum of the sizes of all values."""
        return self._used

    @staticmethod
    def getsizeof(value: object) -> int:
        """Return the size in bytes of a value; without the constructor's `getsizeof`, each counts 1."""
        return 1

    def peek(self, key: K) -> V | None:
        """Return the value, or None; not a hit."""
        node = self._nodes.get(key)
        return None if node is None else node.value

    @overload
    def get(self, key: K, default: None = None) -> V | None: ...
    @overload
    def get(self, key: K, default: V | T) -> V | T: ...
    def get(self, key: K, default: Any = None) -> Any:
        """Return the value and count a hit, or return `default`; a miss raises nothing, and so costs less."""
        return self[key] if key in self._nodes else default

    def __setitem__(self, key: K, value: V) -> None:
        size, node = self._size_of(value), self._nodes.get(key)
        if node is not None:
            self._replace(node, value, size)
        else:
            self._make_room(size)
            self._insert(Node(key, value, size))

    def _size_of(self, value: V) -> int:
        """The size of `value` in bytes; `ValueError` if it does not fit into the budget."""
        size = self.getsizeof(value)
        if not 0 <= size <= self._budget:
            raise ValueError("value too large" if size > 0 else "value size must be non-negative")
        return size

    def _replace(self, node: Node[K, V], value: V, size: int) -> None:
        growth = size - node.size
        if self._used + growth > self._budget:
            self._drop(node)
            self._make_room(size)
            node.size = size
            self._insert(node)
        else:
            node.size = size
            self._used += growth
            if self.shares is not None:
                self.shares.grown(node.key, growth)
            if node.queue is not None:
                node.queue.size += growth
        node.value = value
        self.touch(node.key)

    def _queues(self, node: Node[K, V], growth: int) -> "EvictionPolicy[K, V]":
        """Where `node` enters with so many bytes, or leaves."""
        return self if self.shares is None else self.shares.grown(node.key, growth)

    def _next(self) -> Node[K, V]:
        """The node to evict next, of all sites."""
        return self._victim() if self.shares is None else self.shares.victim()

    def unqueued(self) -> list[Node[K, V]]:
        """All nodes, which are in no queue until they are queued again."""
        nodes = list(self._nodes.values())
        for node in nodes:
            self._queues(node, -node.size)._leave(node)
            node.queue = None
        return nodes

    def queue_again(self, nodes: Iterable[Node[K, V]]) -> None:
        """Put `nodes` where their sites belong now."""
        for node in nodes:
            self._queues(node, node.size)._enter(node)

    def _insert(self, node: Node[K, V]) -> None:
        self._queues(node, node.size)._enter(node)
        self._nodes[node.key] = node
        self._used += node.size

    def _drop(self, node: Node[K, V]) -> None:
        self._queues(node, -node.size)._leave(node)
        del self._nodes[node.key]
        self._used -= node.size

    def _make_room(self, size: int) -> None:
        """Evict until `size` bytes are free."""
        while self._used + size > self._budget:
            self._evict(self._next())

    def _evict(self, node: Node[K, V]) -> None:
        self._drop(node)
        if self._on_evict is not None:
            self._on_evict(node.key, node.value)

    def __delitem__(self, key: K) -> None:
        self._drop(self._nodes[key])

    def popitem(self) -> tuple[K, V]:
        """Remove and return the `(key, value)` to be evicted next, without `on_evict`; `KeyError` if empty."""
        if not self._nodes:
            raise KeyError(f"{type(self).__name__} is empty")
        node = self._next()
        self._drop(node)
        return node.key, node.value

    def clear(self) -> None:
        """Remove everything, and what the policy remembers, without `on_evict`."""
        for node in self._nodes.values():
            self._queues(node, -node.size)._leave(
                node
            )  # breaks the ring, so that values are freed now, not by the cyclic collector
        self._nodes.clear()
        self._used = 0
        self._start()

    def __contains__(self, key: object) -> bool:
        return key in self._nodes

    def __iter__(self) -> Iterator[K]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def values(self) -> ValuesView[V]:
        """Return a snapshot of the values; counts no hits."""
        return {key: node.value for key, node in self._nodes.items()}.values()

    def items(self) -> ItemsView[K, V]:
        """Return a snapshot of the `(key, value)` pairs; counts no hits."""
        return {key: node.value for key, node in self._nodes.items()}.items()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self.items())!r}, maxsize={self._budget}, currsize={self._used})"

    def __copy__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} cannot be copied: two caches would share one queue")


class LRU(EvictionPolicy[K, V]):
    """Least recently used (Mattson et al., IBM Systems Journal 9(2), 1970): evicts the value used longest ago."""

    def _start(self) -> None:
        self._order: OrderedDict[K, None] = OrderedDict()  # least recently used first

    def __getitem__(self, key: K) -> V:
        try:
            node = self._nodes[key]
        except KeyError:
            return self.__missing__(key)
        self._order_of(key).move_to_end(key)
        return node.value

    def _order_of(self, key: K) -> OrderedDict[K, None]:
        return self._order if self.shares is None else self.shares.part_of(key)._order

    def touch(self, key: K) -> None:
        """Count a hit on `key`: it becomes the most recently used."""
        if key in self._nodes:
            self._order_of(key).move_to_end(key)

    def _enter(self, node: Node[K, V]) -> None:
        self._order[node.key] = None

    def _leave(self, node: Node[K, V]) -> None:
        del self._order[node.key]

    def _victim(self) -> Node[K, V]:
        return self._nodes[next(iter(self._order))]


class Sieve(EvictionPolicy[K, V]):
    """SIEVE (Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024).

    One queue in order of insertion, one visited bit per object, and a hand that moves from the oldest to the newest
    and round again: it clears the bit of a visited object and evicts the first object that is not visited. Objects
    never move. Unlike in the paper, they have sizes: objects are evicted until the new one fits. O(1) amortised, since
    each step of the hand undoes a hit, evicts, or begins a round.
    """

    def _start(self) -> None:
        self._queue: Queue[K, V] = Queue()
        self._hand = self._queue.end  # the next candidate; at the end, it starts again from the oldest

    def __getitem__(self, key: K) -> V:
        try:
            node = self._nodes[key]
        except KeyError:
            return self.__missing__(key)
        node.uses = 1
        return node.value

    def touch(self, key: K) -> None:
        """Count a hit on `key`: the hand passes over it once."""
        node = self._nodes.get(key)
        if node is not None:
            node.uses = 1

    def _enter(self, node: Node[K, V]) -> None:
        self._queue.push(node)

    def _leave(self, node: Node[K, V]) -> None:
        if node is self._hand:
            self._hand = node.next
        super()._leave(node)

    def _victim(self) -> Node[K, V]:
        self._hand = self._queue.sweep(self._hand)
        return self._hand


class S3Fifo(EvictionPolicy[K, V]):
    """S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).

    New objects enter a small queue, a tenth of the budget. At its end, objects with more than one hit move to the main
    queue; the others are evicted, and their keys become ghosts. A ghost that is stored again enters the main queue,
    where an object goes round once more for each hit, up to three.

    Ghosts stand for no more bytes than the main queue has, and are no more than the most objects that were cached at
    once. Unlike the authors' simulator, it admits objects larger than the small queue: callers set a limit.
    """

    def _start(self) -> None:
        self._small: Queue[K, V] = Queue()
        self._main: Queue[K, V] = Queue()
        self._main_budget = self._budget - self._budget // 10  # bytes
        self._ghosts: Ghosts[K] = Ghosts(self._main_budget)
        self._most_entries = 0

    def set_budget(self, maxsize: int) -> None:
        """Set the budget in bytes, and the main queue's part of it."""
        self._main_budget = maxsize - maxsize // 10
        super().set_budget(maxsize)

    def __getitem__(self, key: K) -> V:
        try:
            node = self._nodes[key]
        except KeyError:
            return self.__missing__(key)
        node.uses = ONE_MORE[node.uses]
        return node.value

    def touch(self, key: K) -> None:
        """Count a hit on `key`, up to three."""
        node = self._nodes.get(key)
        if node is not None:
            node.uses = ONE_MORE[node.uses]

    def _enter(self, node: Node[K, V]) -> None:
        queue = node.queue  # a node that is queued anew returns to its queue
        if queue is None:
            queue = self._main if self._ghosts.recall(node.key) else self._small
        queue.push(node)

    def _victim(self) -> Node[K, V]:
        if len(self._nodes) > self._most_entries:
            self._most_entries = len(self._nodes)
        small, main = self._small, self._main
        while True:
            if main.size > self._main_budget or small.end.next is small.end:
                node = main.sweep(main.end.next)
                main.begin_at(node)
                return node
            node = small.end.next
            if node.uses <= 1:
                self._ghosts.remember(node.key, node.size, at_most=self._most_entries)
                return node
            node.uses = 0
            small.remove(node)
            main.push(node)


POLICIES: Final[dict[str, type[EvictionPolicy[Any, Any]]]] = {"lru": LRU, "sieve": Sieve, "s3fifo": S3Fifo}
