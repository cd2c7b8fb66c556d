"""The eviction policies: what all of them promise, what each is for, and that no byte is ever miscounted."""

import contextlib
import copy
import gc
import random
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cachetools
import pytest
from harness.often import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgecache.storage.eviction import LRU, POLICIES, EvictionPolicy, S3Fifo, Sieve

Cache = EvictionPolicy[Any, Any]


class Body:
    """A value that weakref can watch."""


def full_of(policy: type[Cache], count: int = 10) -> tuple[Cache, list[Any]]:
    """Return a full cache of the keys 0, 1, 2…, one byte each, and the list of keys that it will evict."""
    evicted: list[Any] = []
    cache = policy(count, on_evict=lambda key, _: evicted.append(key))
    cache.update((key, f"value {key}") for key in range(count))
    return cache, evicted


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Whatever is freed in the test is freed by reference counts alone."""
    gc.disable()
    yield
    gc.enable()


class Contract:
    """What every policy promises; each subclass names its policy."""

    policy: type[Cache]

    def test_is_a_cachetools_cache(self) -> None:
        """A policy can stand wherever a cachetools.Cache can."""
        assert isinstance(self.policy(1), cachetools.Cache)

    def test_starts_empty(self) -> None:
        """A new cache holds nothing, uses no bytes and says so in its repr."""
        cache = self.policy(7)

        assert (len(cache), cache.currsize, cache.maxsize, list(cache)) == (0, 0, 7, [])
        assert repr(cache) == f"{self.policy.__name__}({{}}, maxsize=7, currsize=0)"

    def test_returns_what_was_stored(self) -> None:
        """A stored value comes back by every way of reading."""
        cache = self.policy(2)
        cache["a"] = 1

        assert (cache["a"], cache.get("a"), cache.peek("a"), cache.setdefault("a", 2)) == (1, 1, 1, 1)
        assert "a" in cache
        assert cache == {"a": 1}

    def test_absent_key(self) -> None:
        """An absent key raises by index, is None to peek, the default to get, and no error to touch."""
        cache = self.policy(1)
        cache.touch("a")

        with pytest.raises(KeyError):
            cache["a"]
        assert (cache.peek("a"), cache.get("a"), cache.get("a", 3), "a" in cache) == (None, None, 3, False)
        assert len(cache) == 0

    def test_a_falsy_value_is_a_hit(self) -> None:
        """Empty and None values are values."""
        cache = self.policy(2)
        cache.update(a=b"", b=None)

        assert (cache.get("a", 1), cache.get("b", 1), len(cache)) == (b"", None, 2)

    def test_evicts_to_make_room(self) -> None:
        """A full cache evicts as many as needed, keeps the newcomer and never exceeds its budget."""
        cache, evicted = full_of(self.policy)
        cache["new"] = "value"

        assert "new" in cache
        assert (len(cache), cache.currsize, len(evicted)) == (10, 10, 1)

    def test_evicts_until_a_large_value_fits(self) -> None:
        """Sizes count: one large value takes the room of many small ones."""
        evicted: list[str] = []
        cache = self.policy(10, len, lambda key, _: evicted.append(key))
        cache.update((str(i), "x") for i in range(10))
        cache["large"] = "x" * 8

        assert (cache.currsize, len(cache), len(evicted)) == (10, 3, 8)
        assert "large" in cache

    def test_a_value_as_large_as_the_budget_fits(self) -> None:
        """The budget is inclusive: the largest value drives out all others."""
        cache = self.policy(3, len)
        cache.update(a="x", b="x", c="xxx")

        assert dict(cache.items()) == {"c": "xxx"}

    def test_replacement_is_accounted_anew(self) -> None:
        """A replacement in place changes value and size, not the number of entries."""
        cache = self.policy(10, len)
        cache.update(a="xxxx", b="x")
        cache["a"] = "yy"
        assert (cache["a"], cache.currsize, len(cache)) == ("yy", 3, 2)
        cache["a"] = "y" * 9

        assert (cache["a"], cache.currsize, len(cache)) == ("y" * 9, 10, 2)

    @pytest.mark.parametrize("hits", [0, 1, 2, 3])
    def test_growth_evicts_others_never_itself(self, hits: int) -> None:
        """A replacement that outgrows the budget evicts others, however little its own key is wanted."""
        evicted: list[str] = []
        cache = self.policy(4, len, lambda key, _: evicted.append(key))
        cache.update(a="x", b="x", c="x", d="x")
        for key in "bcd" * hits:
            cache.touch(key)
        cache["a"] = "xxx"

        assert cache.peek("a") == "xxx"
        assert (cache.currsize, len(evicted)) == (4, 2)
        assert "a" not in evicted

    def test_too_large_a_value_changes_nothing(self) -> None:
        """A value larger than the budget raises; what was stored under its key, and all else, stays."""
        evicted: list[str] = []
        cache = self.policy(3, len, lambda key, _: evicted.append(key))
        cache.update(a="x", b="yy")

        for key in ("a", "new"):
            with pytest.raises(ValueError, match="too large"):
                cache[key] = "zzzz"
        assert (dict(cache.items()), cache.currsize, evicted) == ({"a": "x", "b": "yy"}, 3, [])

    def test_negative_size_changes_nothing(self) -> None:
        """A negative size raises instead of lending bytes."""
        cache = self.policy(3, lambda value: value)
        cache["a"] = 2

        with pytest.raises(ValueError, match="non-negative"):
            cache["a"] = -1
        assert (cache["a"], cache.currsize) == (2, 2)

    def test_failing_getsizeof_changes_nothing(self) -> None:
        """An error of getsizeof is the caller's to see, and the old value stays."""
        cache = self.policy(3, len)
        cache["a"] = "x"

        with pytest.raises(TypeError):
            cache["a"] = 1
        assert (cache["a"], cache.currsize) == ("x", 1)

    def test_size_is_taken_once_when_set(self) -> None:
        """A value that changes its size later is accounted, and given back, as it was when it was set."""
        measured: list[Any] = []

        def measure(value: list[str]) -> int:
            measured.append(value)
            return len(value)

        cache = self.policy(9, measure)
        value = ["x", "x"]
        cache["a"] = value
        value.append("x")
        assert (cache["a"], cache.currsize, len(measured)) == (value, 2, 1)
        del cache["a"]

        assert (cache.currsize, len(measured)) == (0, 1)

    def test_getsizeof_may_be_a_method(self) -> None:
        """As in cachetools, a subclass may define how values are measured."""

        class Measured(self.policy):  # type: ignore[misc, name-defined]
            """Measures values by their length."""

            def getsizeof(self, value: str) -> int:
                """Return the length."""
                return len(value)

        cache = Measured(3)
        cache.update(a="xx", b="xx")

        assert (cache.currsize, len(cache)) == (2, 1)

    def test_values_without_size(self) -> None:
        """A cache without a byte of budget still holds what takes none."""
        cache = self.policy(0, len)
        cache["a"] = ""

        with pytest.raises(ValueError, match="too large"):
            cache["b"] = "x"
        assert (dict(cache.items()), cache.currsize) == ({"a": ""}, 0)

    def test_evicts_past_values_without_size(self) -> None:
        """Evicting what takes no room is not enough; it goes on until there is room."""
        cache = self.policy(2, len)
        cache.update(a="", b="xx", c="")
        cache["d"] = "yy"

        assert (cache.peek("d"), cache.peek("b"), cache.currsize) == ("yy", None, 2)

    def test_on_evict_sees_the_item_gone(self) -> None:
        """When on_evict is told, the item has left, its bytes are free and the newcomer is not yet in."""
        seen: list[tuple[Any, ...]] = []
        cache = self.policy(1, None, lambda k, v: seen.append((k, v, k in cache, "b" in cache, cache.currsize)))
        cache["a"] = 1
        cache["b"] = 2

        assert seen == [("a", 1, False, False, 0)]

    def test_on_evict_is_not_told_of_removals(self) -> None:
        """Deleting, popping, clearing and replacing in place are the caller's own doing."""
        cache, evicted = full_of(self.policy)
        del cache[0]
        cache.pop(1)
        cache.popitem()
        cache[5] = "new"
        cache.clear()

        assert evicted == []

    def test_on_evict_that_raises_fails_the_set(self) -> None:
        """If on_evict raises, the evicted item is gone, the new one is not in, and the account is exact."""

        def refuse(key: Any, value: Any) -> None:
            raise OSError(key)

        cache = self.policy(2, len, refuse)
        cache.update(a="x", b="x")

        with pytest.raises(OSError, match="a"):
            cache["c"] = "x"
        assert (dict(cache.items()), cache.currsize) == ({"b": "x"}, 1)
        cache.update(c="x", b="")
        with pytest.raises(OSError, match="c"):
            cache["b"] = "yy"
        assert (dict(cache.items()), cache.currsize) == ({}, 0)

    @pytest.mark.parametrize(
        "read",
        [
            lambda cache: cache[0],
            lambda cache: cache.get(0),
            lambda cache: cache.touch(0),
            lambda cache: cache.setdefault(0),
            lambda cache: cache.update({0: "replaced"}),
        ],
        ids=["index", "get", "touch", "setdefault", "replace"],
    )
    def test_hits_protect(self, read: Callable[[Cache], Any]) -> None:
        """The oldest key, read twice in a way that counts, outlives its neighbours."""
        cache, evicted = full_of(self.policy)
        read(cache)
        read(cache)
        cache["new"] = "value"

        assert evicted == [1]

    @pytest.mark.parametrize(
        "read",
        [
            lambda cache: cache.peek(0),
            lambda cache: 0 in cache,
            list,
            lambda cache: list(cache.items()),
            lambda cache: list(cache.values()),
            repr,
            lambda cache: cache == {},
        ],
        ids=["peek", "in", "iterate", "items", "values", "repr", "equality"],
    )
    def test_looking_does_not_protect(self, read: Callable[[Cache], Any]) -> None:
        """Looking without reading leaves the oldest key the next to go."""
        cache, evicted = full_of(self.policy)
        read(cache)
        read(cache)
        cache["new"] = "value"

        assert evicted == [0]

    def test_delete(self) -> None:
        """A deleted key is gone with its bytes; deleting it again raises."""
        cache = self.policy(5, len)
        cache.update(a="xx", b="xxx")
        del cache["a"]

        with pytest.raises(KeyError):
            del cache["a"]
        assert (list(cache), len(cache), cache.currsize) == (["b"], 1, 3)

    def test_pop(self) -> None:
        """Pop returns and removes; of an absent key, it returns the default or raises."""
        cache = self.policy(5, len)
        cache.update(a="xx", b="xxx")

        assert (cache.pop("a"), cache.pop("a", 7), cache.currsize) == ("xx", 7, 3)
        with pytest.raises(KeyError):
            cache.pop("a")

    def test_popitem_empties_the_cache(self) -> None:
        """Each item is popped once, with its own value, until the cache is empty and raises."""
        cache, _ = full_of(self.policy)
        for key in (3, 3, 4, 7, 7, 7, 7):
            cache.touch(key)

        assert dict(cache.popitem() for _ in range(10)) == {key: f"value {key}" for key in range(10)}
        with pytest.raises(KeyError, match=f"{self.policy.__name__} is empty"):
            cache.popitem()
        assert (len(cache), cache.currsize) == (0, 0)

    def test_popitem_takes_the_next_victim(self) -> None:
        """What popitem removes is what an insertion would have evicted."""
        popped, (evicting, evicted) = full_of(self.policy)[0], full_of(self.policy)
        for cache in (popped, evicting):
            for key in (0, 0, 1, 4):
                cache.touch(key)
        evicting["new"] = "value"

        assert [popped.popitem()[0]] == evicted

    def test_clear_forgets_everything(self) -> None:
        """A cleared cache behaves like a new one, ghosts and hands included."""

        def life(cache: Cache) -> list[Any]:
            evicted = []
            for key in (0, 0, 1, 2, 3, 0, 4, 5, 1, 2, 6, 0, 1, 1, 3, 7, 8, 2, 9, 0):
                before = set(cache)
                cache[key] = "value"
                evicted.append(before - set(cache))
            return evicted

        used = self.policy(4)
        life(used)
        used.clear()

        assert (len(used), used.currsize, list(used)) == (0, 0, [])
        assert life(used) == life(self.policy(4))

    @pytest.mark.usefixtures("no_collector")
    @pytest.mark.parametrize("remove", [lambda c: c.clear(), lambda c: c.pop(1), lambda c: c.update({3: 0, 4: 0})])
    def test_removed_values_are_freed_at_once(self, remove: Callable[[Cache], Any]) -> None:
        """A body that leaves gives its memory back now, not when the garbage collector comes by."""
        cache = self.policy(3)
        body = Body()
        watch = weakref.ref(body)
        cache.update({0: None, 1: body, 2: None})
        del body
        remove(cache)

        assert watch() is None

    def test_keys_may_be_hit_during_iteration(self) -> None:
        """Reading every key while walking them ends, and visits each once."""
        cache, _ = full_of(self.policy)

        assert [cache[key] for key in cache] == [f"value {key}" for key in range(10)]

    def test_items_may_be_deleted_during_iteration(self) -> None:
        """A purge can delete what it finds while it walks the items or values."""
        cache, _ = full_of(self.policy)
        for key, value in cache.items():
            if value.endswith(("1", "3", "5", "7", "9")):
                del cache[key]
        for value in cache.values():
            cache.pop(int(value.removeprefix("value ")))

        assert (len(cache), cache.currsize) == (0, 0)

    def test_missing_hook(self) -> None:
        """As in cachetools, a subclass may define __missing__, which only indexing calls."""

        class Squares(self.policy):  # type: ignore[misc, name-defined]
            """Computes what it lacks."""

            def __missing__(self, key: int) -> int:
                self[key] = key * key
                return key * key

        cache = Squares(2)

        assert (cache.get(3), cache.peek(3), cache[3], cache.get(3)) == (None, None, 9, 9)

    def test_equal_keys_are_one_key(self) -> None:
        """Keys are compared by value, as in a dict: another object, the same entry."""
        cache = self.policy(2)
        path = "/a"
        cache["GET", "/a"] = 1
        cache["GET", f"{path}"] = 2

        assert (len(cache), cache["GET", "".join(path)]) == (1, 2)

    def test_copy_is_refused(self) -> None:
        """A shallow copy would share the queue of the original, so there is none."""
        with pytest.raises(TypeError, match="cannot be copied"):
            copy.copy(self.policy(1))


class TestLRU(Contract):
    """The baseline: recency alone."""

    policy = LRU

    def test_evicts_the_least_recently_used(self) -> None:
        """Keys leave in the order of their last use."""
        cache, evicted = full_of(LRU, 3)
        cache[0]
        cache.touch(1)
        cache.update(a="", b="", c="")

        assert evicted == [2, 0, 1]


class TestSieve(Contract):
    """A queue, a visited bit and a hand."""

    policy = Sieve

    def test_worked_example(self) -> None:
        """In the manner of the paper's illustration: the hand spares the visited once and nothing is moved."""
        cache, evicted = full_of(Sieve, 7)  # oldest 0 … newest 6
        for key in (0, 1, 6):
            cache[key]

        cache["H"] = ""  # spares 0 and 1, takes 2
        assert evicted == [2]
        cache[0]
        cache[3]
        cache["I"] = ""  # goes on where it stopped: spares 3, takes 4
        assert evicted == [2, 4]
        cache[1]
        cache["J"] = ""  # takes 5, next to be judged is 6
        assert evicted == [2, 4, 5]
        cache.update(K="", L="", M="")  # spares 6, takes H, I, J: the unvisited newcomers, before 0, 1 and 3

        assert evicted == [2, 4, 5, "H", "I", "J"]
        cache.update(N="", O="", P="", Q="")  # takes K, L, M (N, O, P came in behind them), then N
        assert evicted[6:] == ["K", "L", "M", "N"]

    def test_hand_starts_again_from_the_oldest(self) -> None:
        """Past the newest the hand wraps round, and who was spared must have been asked for again."""
        cache, evicted = full_of(Sieve, 3)
        for key in range(3):
            cache[key]
        cache["a"] = ""  # spares all three, wraps round, takes 0

        assert evicted == [0]
        cache[1]
        cache["b"] = ""

        assert evicted == [0, 2]

    def test_hand_survives_deletion_under_it(self) -> None:
        """Deleting the object under the hand moves the hand on, even past the newest."""
        cache, evicted = full_of(Sieve, 3)
        cache[0]
        cache["a"] = ""  # spares 0, takes 1: the hand is at 2
        del cache[2]
        cache["b"] = ""
        cache["c"] = ""  # the hand went on to a

        assert evicted == [1, "a"]
        del cache["b"]
        del cache["c"]
        cache.update(d="", e="", f="")  # nothing left ahead of it: from the oldest again

        assert evicted == [1, "a", 0]

    def test_replacement_keeps_its_place(self) -> None:
        """A refreshed object is visited, not young: it is spared once and goes before newer ones."""
        cache, evicted = full_of(Sieve, 3)
        cache[0] = "refreshed"
        cache.update(a="", b="", c="")

        assert evicted == [1, 2, "a"]
        assert cache.peek(0) == "refreshed"

    def test_growth_keeps_its_credit(self) -> None:
        """An object that outgrew the budget is queued anew and still counts as visited."""
        evicted: list[str] = []
        cache: Sieve[str, str] = Sieve(4, len, lambda key, _: evicted.append(key))
        cache.update(a="x", b="x", c="x", d="x")
        cache["a"] = "xx"
        cache.update(e="x", f="x", g="x")

        assert evicted == ["b", "c", "d", "e"]
        assert cache.peek("a") == "xx"


class TestS3Fifo(Contract):
    """A small queue, a main queue and ghosts."""

    policy = S3Fifo

    @staticmethod
    def with_hot_main() -> tuple[S3Fifo[Any, Any], list[Any]]:
        """Return a cache of 100 with the hot keys 0…89 in the main queue, and what it will evict."""
        evicted: list[Any] = []
        cache: S3Fifo[Any, Any] = S3Fifo(100, on_evict=lambda key, _: evicted.append(key))
        for key in (*range(90), *range(90), *range(90)):
            cache[key] = ""
        cache.update((f"filler {i}", "") for i in range(100))
        assert all(key in cache for key in range(90))
        evicted.clear()
        return cache, evicted

    def test_one_hit_wonders_leave_by_the_small_queue(self) -> None:
        """Objects nobody asks for twice leave first in, first out, a tenth of the budget after they came."""
        cache, evicted = self.with_hot_main()
        cache.update((f"once {i}", "") for i in range(30))

        assert evicted == [*(f"filler {i}" for i in range(90, 100)), *(f"once {i}" for i in range(20))]

    def test_scan_resistance(self) -> None:
        """A scan of ten times the budget drives nothing out of the main queue, and everything out of an LRU."""
        cache, _ = self.with_hot_main()
        lru: LRU[Any, Any] = LRU(100)
        for key in (*range(90), *range(90)):
            lru[key] = ""
        for victim in (cache, lru):
            victim.update((f"scan {i}", "") for i in range(1000))

        assert sum(key in cache for key in range(90)) == 90
        assert sum(key in lru for key in range(90)) == 0

    @pytest.mark.parametrize(("hits", "stays"), [(0, False), (1, False), (2, True)])
    def test_more_than_one_hit_moves_to_main(self, hits: int, stays: bool) -> None:
        """Two hits in the small queue earn a place in the main queue; one does not."""
        cache, _ = self.with_hot_main()
        del cache[0]
        cache["guest"] = ""
        for _ in range(hits):
            cache["guest"]
        cache.update((f"once {i}", "") for i in range(50))

        assert ("guest" in cache) is stays

    def test_ghost_is_readmitted_into_main(self) -> None:
        """A key that left the small queue and is stored again goes to the main queue and outlives a scan."""
        cache, evicted = self.with_hot_main()
        del cache[0]
        cache["back"] = ""
        cache.update((f"once {i}", "") for i in range(20))
        assert "back" in evicted
        cache["back"] = ""
        cache.update((f"again {i}", "") for i in range(50))

        assert "back" in cache

    def test_ghosts_are_forgotten(self) -> None:
        """A key that left longer ago than the main queue is long is a stranger again."""
        cache, _ = self.with_hot_main()
        del cache[0]
        cache["back"] = ""
        cache.update((f"once {i}", "") for i in range(200))
        cache["back"] = ""
        cache.update((f"again {i}", "") for i in range(50))

        assert "back" not in cache

    def test_a_deleted_key_leaves_no_ghost(self) -> None:
        """A purged key comes back as a newcomer."""
        cache, _ = self.with_hot_main()
        cache["gone"] = ""
        del cache["gone"], cache[0]
        cache["gone"] = ""
        cache.update((f"once {i}", "") for i in range(50))

        assert "gone" not in cache

    def test_main_queue_goes_round_once_per_hit_up_to_three(self) -> None:
        """Credit in the main queue ends: a thousand hits are worth three, and three are more than two."""
        cache: S3Fifo[Any, Any] = S3Fifo(10)
        cache.update((key, "") for key in "abcdefghij")
        for key in "abcdefghij" * 2:
            cache.touch(key)
        cache["new"] = ""  # moves all ten to main; that is over its share, and gives up a
        for key in "b" * 1000 + "ccc" + "defghij" * 2:
            cache[key]

        assert [cache.popitem()[0] for _ in range(10)] == ["new", *"defghij", "b", "c"]

    def test_credit_is_not_carried_into_main(self) -> None:
        """Hits in the small queue buy the way into the main queue, and nothing there."""
        cache: S3Fifo[Any, Any] = S3Fifo(10)
        cache.update((key, "") for key in "abcdefghij")
        for key in "aaa" + "bcdefghij" * 2:
            cache[key]
        cache["new"] = ""

        assert "a" not in cache

    def test_ghosts_are_bounded_in_bytes(self) -> None:
        """Ghosts stand for no more bytes than main holds, whatever their sizes."""
        cache: S3Fifo[int, int] = S3Fifo(1000, lambda size: size)
        for key in range(1000):
            cache[key] = 100
        assert len(cache._ghosts._sizes) == 9
        for key in range(1000, 5000):
            cache[key] = 1

        assert len(cache._ghosts._sizes) == 900

    def test_ghosts_are_bounded_in_number(self) -> None:
        """Ghosts of values without size never outnumber the entries there have been at once."""
        cache: S3Fifo[int, int] = S3Fifo(10, lambda size: size)
        most = 0
        for key in range(5000):
            cache[key] = 0 if key % 50 else 10
            most = max(most, len(cache))

        assert len(cache._ghosts._sizes) == most == 99

    def test_one_large_object_does_not_make_it_forget(self) -> None:
        """The ghosts outlive a moment in which the cache held a single entry, and that entry's own leaving."""
        cache: S3Fifo[Any, int] = S3Fifo(1000, lambda size: size)
        cache.update((key, 1) for key in range(1500))
        cache["large"] = 1000
        assert len(cache) == 1
        cache["small"] = 1

        assert list(cache) == ["small"]
        assert len(cache._ghosts._sizes) == 900

    def test_small_queue_yields_when_an_object_is_larger_than_it(self) -> None:
        """An object above a tenth of the budget is kept, and does not cost the main queue its content."""
        evicted: list[Any] = []
        cache: S3Fifo[Any, int] = S3Fifo(100, lambda size: size, lambda key, _: evicted.append(key))
        for key in (*range(80), *range(80), *range(80)):
            cache[key] = 1
        cache.update((f"filler {i}", 1) for i in range(100))
        evicted.clear()
        cache["large"] = 15

        assert "large" in cache
        assert all(str(key).startswith("filler") for key in evicted)


def test_policies_by_name() -> None:
    """The settings name the policies so."""
    expected = {"lru": LRU, "sieve": Sieve, "s3fifo": S3Fifo}

    assert expected == POLICIES


# Against plain models: the same algorithms written with lists, as slow and as obvious as can be.


class PlainLRU(cachetools.LRUCache[int, int]):
    """Cachetools' own LRU, with a record of what it evicts."""

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize, lambda size: size)
        self.evicted: list[int] = []
        self.setting: int | None = None

    def __setitem__(self, key: int, size: int, *args: Any) -> None:
        self.setting = key
        super().__setitem__(key, size)

    def popitem(self) -> tuple[int, int]:
        """Evict; the old value of the key being set is replaced, not evicted."""
        key, size = super().popitem()
        if key != self.setting:
            self.evicted.append(key)
        return key, size


class PlainModel:
    """What the two plain queues share: sizes by key, credit by key, a record of evictions."""

    most_credit: int

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.sizes: dict[int, int] = {}
        self.credit: dict[int, int] = {}
        self.evicted: list[int] = []
        self.start()

    def start(self) -> None:
        """Create the queues."""
        raise NotImplementedError

    def forget(self, key: int) -> Any:
        """Take a key out of its queue, and return that if there are several."""
        raise NotImplementedError

    def enter(self, key: int, was_in: Any) -> None:
        """Put a key into its queue."""
        raise NotImplementedError

    def victim(self) -> int:
        """Choose the next to go."""
        raise NotImplementedError

    def __getitem__(self, key: int) -> int:
        size = self.sizes[key]
        self.credit[key] = min(self.credit[key] + 1, self.most_credit)
        return size

    def __delitem__(self, key: int) -> None:
        del self.sizes[key]
        self.forget(key)

    def __setitem__(self, key: int, size: int) -> None:
        if size > self.maxsize:
            raise ValueError(size)
        known = key in self.sizes
        if known and sum(self.sizes.values()) - self.sizes[key] + size <= self.maxsize:
            self.sizes[key] = size
        else:
            if not known:
                self.credit[key] = 0
            was_in = self.forget(key) if known else None
            self.sizes.pop(key, None)
            while sum(self.sizes.values()) + size > self.maxsize:
                self.evicted.append(self.victim())
                del self[self.evicted[-1]]
            self.sizes[key] = size
            self.enter(key, was_in)
        if known:
            self[key]


class PlainSieve(PlainModel):
    """SIEVE with a list, oldest first, and the hand an index into it."""

    most_credit = 1

    def start(self) -> None:
        """Create the queue."""
        self.queue: list[int] = []
        self.hand = 0

    def forget(self, key: int) -> None:
        """Close the gap; the hand stays with what it was about to judge."""
        index = self.queue.index(key)
        del self.queue[index]
        self.hand -= index < self.hand
        if self.hand == len(self.queue):
            self.hand = 0

    def enter(self, key: int, was_in: Any) -> None:
        """Join as the newest."""
        self.queue.append(key)

    def victim(self) -> int:
        """Let the hand walk to the first that is not visited."""
        while self.credit[self.queue[self.hand]]:
            self.credit[self.queue[self.hand]] = 0
            self.hand = (self.hand + 1) % len(self.queue)
        return self.queue[self.hand]


class PlainS3Fifo(PlainModel):
    """S3-FIFO with three lists, oldest first."""

    most_credit = 3

    def start(self) -> None:
        """Create the queues."""
        self.small: list[int] = []
        self.main: list[int] = []
        self.ghosts: OrderedDict[int, int] = OrderedDict()
        self.most = 0

    def forget(self, key: int) -> Any:
        """Leave whichever queue it is in, and return that."""
        queue = self.small if key in self.small else self.main
        queue.remove(key)
        return queue

    def enter(self, key: int, was_in: Any) -> None:
        """Join main if remembered, else small; what grew goes back to where it was."""
        if was_in is None:
            was_in = self.main if self.ghosts.pop(key, None) is not None else self.small
        was_in.append(key)

    def victim(self) -> int:
        """Evict from main if that is over nine tenths, else from small, moving on who has earned it."""
        self.most = max(self.most, len(self.sizes))
        main_budget = self.maxsize - self.maxsize // 10
        while True:
            if not self.small or sum(self.sizes[key] for key in self.main) > main_budget:
                if not self.credit[self.main[0]]:
                    return self.main[0]
                self.credit[self.main[0]] -= 1
                self.main.append(self.main.pop(0))
            elif self.credit[self.small[0]] > 1:
                self.credit[self.small[0]] = 0
                self.main.append(self.small.pop(0))
            else:
                if self.sizes[self.small[0]] <= main_budget:
                    self.ghosts[self.small[0]] = self.sizes[self.small[0]]
                while sum(self.ghosts.values()) > main_budget or len(self.ghosts) > self.most:
                    self.ghosts.popitem(last=False)
                return self.small[0]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 15), st.integers(0, 6)),
        st.tuples(st.just("get"), st.integers(0, 15), st.integers(1, 4)),
        st.tuples(st.just("delete"), st.integers(0, 15), st.just(1)),
    ),
    min_size=20,
    max_size=120,
)


def perform(cache: Any, name: str, key: int, number: int) -> None:
    """Set a key to a size, hit it a number of times, or delete it; what cannot be done is not."""
    with contextlib.suppress(KeyError, ValueError):
        if name == "set":
            cache[key] = number
        elif name == "delete":
            del cache[key]
        else:
            for _ in range(number):
                cache[key]


@pytest.mark.parametrize(("policy", "model"), [(LRU, PlainLRU), (Sieve, PlainSieve), (S3Fifo, PlainS3Fifo)])
@given(maxsize=st.integers(0, 30), operations=OPERATIONS)
@examples(40)
def test_agrees_with_the_plain_model(
    policy: type[Cache], model: Any, maxsize: int, operations: list[tuple[str, int, int]]
) -> None:
    """Whatever is done to both, the policy and its plain model evict the same keys in the same order."""
    evicted: list[int] = []
    cache, plain = policy(maxsize, lambda size: size, lambda key, _: evicted.append(key)), model(maxsize)
    for operation in operations:
        perform(cache, *operation)
        perform(plain, *operation)
        assert evicted == plain.evicted


@pytest.mark.parametrize(("policy", "model"), [(LRU, PlainLRU), (Sieve, PlainSieve), (S3Fifo, PlainS3Fifo)])
@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_the_plain_model_for_long(policy: type[Cache], model: Any, seed: int) -> None:
    """So it does over thousands of skewed requests, long after every queue has turned over."""
    dice = random.Random(seed)
    evicted: list[int] = []
    maxsize = dice.choice((9, 20, 40))
    cache, plain = policy(maxsize, lambda size: size, lambda key, _: evicted.append(key)), model(maxsize)
    for _ in range(1500):
        name = dice.choices(("set", "get", "delete"), (4, 5, 1))[0]
        operation = name, int(dice.paretovariate(0.7)) % 40, dice.choice((1, 1, 2, 3, dice.randrange(maxsize)))
        perform(cache, *operation)
        perform(plain, *operation)
        assert evicted == plain.evicted
    assert len(evicted) > 100


# The account: every byte in is in, every item out was deleted, replaced or reported, once.


class Item(NamedTuple):
    """A value that is like no other and knows its size."""

    serial: int
    size: int


KEYS = st.integers(-2, 13)  # hash(-1) == hash(-2): the ghosts of these two are one


class Account(RuleBasedStateMachine):
    """Keeps a ledger beside a cache, written only from what the cache tells its callers."""

    policy: type[Cache]

    def __init__(self) -> None:
        super().__init__()
        self.cache: EvictionPolicy[int, Item] = self.policy(30, lambda item: item.size, self.evicted)
        self.ledger: dict[int, Item] = {}
        self.serial = 0
        self.setting: int | None = None

    def evicted(self, key: int, item: Item) -> None:
        """Strike the item from the ledger: it must be there, be the very item, and not be the one being set."""
        assert key != self.setting
        assert self.ledger.pop(key) is item

    @rule(key=KEYS, size=st.integers(-1, 32))
    def store(self, key: int, size: int) -> None:
        """Store a value, new or in place of another, that may not fit at all."""
        self.serial += 1
        self.setting = key
        item = Item(self.serial, size)
        try:
            self.cache[key] = item
        except ValueError:
            assert not 0 <= size <= 30
        else:
            assert 0 <= size <= 30
            self.ledger[key] = item

    @rule(key=KEYS, times=st.integers(1, 4))
    def read(self, key: int, times: int) -> None:
        """Hit a key, or miss it, in each of the three ways."""
        for _ in range(times):
            assert self.cache.get(key) is self.ledger.get(key) is self.cache.peek(key)
            self.cache.touch(key)

    @rule(key=KEYS)
    def delete(self, key: int) -> None:
        """Delete a key that is there."""
        if key in self.ledger:
            del self.cache[key]
            del self.ledger[key]

    @rule(key=KEYS)
    def pop(self, key: int) -> None:
        """Pop a key, there or not."""
        assert self.cache.pop(key, None) is self.ledger.pop(key, None)

    @rule()
    def popitem(self) -> None:
        """Pop whatever the policy would evict."""
        if self.ledger:
            key, item = self.cache.popitem()
            assert self.ledger.pop(key) is item

    @rule()
    def clear(self) -> None:
        """Remove everything."""
        self.cache.clear()
        self.ledger.clear()

    @invariant()
    def account_is_exact(self) -> None:
        """The cache holds what the ledger says, and its bytes are theirs, within the budget."""
        assert dict(self.cache.items()) == self.ledger
        assert set(self.cache) == set(self.ledger)
        assert len(self.cache) == len(self.ledger)
        assert self.cache.currsize == sum(item.size for item in self.ledger.values()) <= 30


class LRUAccount(Account):
    """The account of LRU."""

    policy = LRU

    @invariant()
    def order_is_complete(self) -> None:
        """Every key has its place in the order, and nothing else has."""
        assert isinstance(self.cache, LRU)
        assert set(self.cache._order) == set(self.ledger)


class SieveAccount(Account):
    """The account of SIEVE."""

    policy = Sieve

    @invariant()
    def queue_is_complete(self) -> None:
        """The queue holds every node once, its bytes are theirs, and the hand is on it."""
        assert isinstance(self.cache, Sieve)
        queue = self.cache._queue
        nodes = walk(queue)
        assert sorted(node.key for node in nodes) == sorted(self.ledger)
        assert queue.size == self.cache.currsize
        assert self.cache._hand is queue.end or self.cache._hand in nodes


class S3FifoAccount(Account):
    """The account of S3-FIFO."""

    policy = S3Fifo

    @invariant()
    def queues_are_complete(self) -> None:
        """Every node is in one queue, each queue and the ghosts know their bytes, and what is here is no ghost."""
        assert isinstance(self.cache, S3Fifo)
        small, main, ghosts = self.cache._small, self.cache._main, self.cache._ghosts
        assert sorted(node.key for node in walk(small) + walk(main)) == sorted(self.ledger)
        assert small.size == sum(node.size for node in walk(small))
        assert main.size == sum(node.size for node in walk(main))
        assert not any(key in ghosts._sizes for key in self.ledger if key >= 0)
        assert ghosts._size == sum(ghosts._sizes.values()) <= 27


def walk(queue: Any) -> list[Any]:
    """Return the nodes of a queue, oldest first, having checked that both directions agree."""
    nodes, node = [], queue.end.next
    while node is not queue.end:
        assert node.previous.next is node is node.next.previous
        assert node.queue is queue
        nodes.append(node)
        node = node.next
    return nodes


for machine in (LRUAccount, SieveAccount, S3FifoAccount):
    machine.TestCase.settings = examples(30, stateful_step_count=50)
TestLRUAccount = LRUAccount.TestCase
TestSieveAccount = SieveAccount.TestCase
TestS3FifoAccount = S3FifoAccount.TestCase
