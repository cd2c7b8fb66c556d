"""The parts of the eviction policies: nodes, FIFO queues that any node can leave, and the ghosts of S3-FIFO."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Node(Generic[K, V]):
    """A cached value with its size in bytes, its recent hits, and its neighbours in a queue."""

    __slots__ = ("key", "next", "previous", "queue", "size", "uses", "value")
    next: "Node[K, V]"
    previous: "Node[K, V]"

    def __init__(self, key: K, value: V, size: int) -> None:
        self.key = key
        self.value = value
        self.size = size
        self.uses = 0  # SIEVE's visited bit, S3-FIFO's two-bit counter (0 to 3); unused by LRU
        self.queue: Queue[K, V] | None = None


class Queue(Generic[K, V]):
    """A FIFO queue as a doubly linked ring, which any node can leave in O(1); `end.next` is the oldest node."""

    __slots__ = ("end", "size")

    def __init__(self) -> None:
        self.end: Node[K, V] = Node.__new__(Node)  # stands between newest and oldest; has only links
        self.end.previous = self.end.next = self.end
        self.end.uses = 0  # so that a sweep passes over it
        self.size = 0  # bytes

    def push(self, node: Node[K, V]) -> None:
        """Append `node` as the newest."""
        end = self.end
        newest = end.previous
        node.queue, node.previous, node.next = self, newest, end
        newest.next = end.previous = node
        self.size += node.size

    def remove(self, node: Node[K, V]) -> None:
        """Remove `node` from any position."""
        node.previous.next = node.next
        node.next.previous = node.previous
        self.size -= node.size

    def sweep(self, node: Node[K, V]) -> Node[K, V]:
        """Decrement the uses of each node from `node` on, round the ring, and return the first that has none."""
        while True:
            if node.uses:
                node.uses -= 1
            elif node is not self.end:
                return node
            node = node.next

    def begin_at(self, node: Node[K, V]) -> None:
        """Rotate the ring so that `node` is the oldest: all older nodes become the newest, in their order."""
        end = self.end
        end.previous.next = end.next
        end.next.previous = end.previous
        end.previous = node.previous
        end.next = node
        end.previous.next = node.previous = end


class Ghosts(Generic[K]):
    """Hashes of the keys evicted from S3-FIFO's small queue, oldest first, bounded in bytes and in number.

    Hashes, so that long keys cost no more than short ones; a collision only admits an object to the main queue early.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget  # bytes
        self._size = 0  # bytes
        self._sizes: OrderedDict[int, int] = OrderedDict()  # hash of key: bytes

    def remember(self, key: K, size: int, at_most: int) -> None:
        """Add `key`, of a value of `size` bytes, as the newest of `at_most` ghosts."""
        ghost = hash(key)
        if size <= self._budget and ghost not in self._sizes:
            self._sizes[ghost] = size
            self._size += size
        while self._size > self._budget or len(self._sizes) > at_most:
            self._size -= self._sizes.popitem(last=False)[1]

    def recall(self, key: K) -> bool:
        """Remove `key`, and return whether it was there."""
        size = self._sizes.pop(hash(key), None)
        self._size -= size or 0
        return size is not None
