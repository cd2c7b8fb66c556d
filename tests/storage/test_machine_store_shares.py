"""Whose records the machine's store keeps: shares of sites, and bodies that are admitted on their second use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecache.storage.machine import store_files
from edgecache.storage.machine.admission import Admission, announce, largest_body
from edgecache.storage.machine.schema import LEAST
from edgecache.storage.machine.site_shares import NONE, PARTS, part_number
from edgecache.storage.machine.store import Change, MachineStore
from edgecache.storage.machine.update import PARTS_KEY
from edgecache.storage.record import chunk_key, storage_key

IDENTITY = store_files.identity_of(b"test")
SHOP = part_number("shop")


@pytest.fixture(params=[True, False], ids=["mapped", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MachineStore]:
    """A store in which the site `shop` has four tenths."""
    store_files.prepare(str(tmp_path), LEAST, IDENTITY, mapped=request.param)
    opened = store_files.open_store(str(tmp_path), LEAST, IDENTITY, mapped=request.param)
    opened.shares.set([("shop", 0.4)], lambda url: "shop" if b"//shop/" in url else "")
    yield opened
    opened.close()


def put(store: MachineStore, url: bytes, size: int) -> bytes:
    """Store a record of `url`; its key."""
    key = storage_key(url)
    announce(store, key, url)
    store.apply([Change(key, bytes(size), store.shares.part_of(key))])
    return key


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1000, 1000), (1000, 120_000), (120_000, 1000), (20_000, 40_000)])
def test_a_site_keeps_its_share_whatever_others_store(store: MachineStore, sizes: tuple[int, int]) -> None:
    """Without a single hit, while five times the store passes; of any two sizes."""
    of_shop, of_others = sizes
    kept = [put(store, b"http://shop/%d" % number, of_shop) for number in range(int(0.3 * store.shape.main / of_shop))]
    for number in range(5 * LEAST // of_others):
        put(store, b"http://archive/%d" % number, of_others)

    assert [key for key in kept if not store.has(key)] == []
    assert store.verify()[1] == 0


@pytest.mark.slow
def test_a_site_above_its_share_evicts_its_own(store: MachineStore) -> None:
    """It has what others leave; what it stored beyond its share goes when others are used."""
    for number in range(2 * LEAST // 4000):
        put(store, b"http://shop/%d" % number, 4000)
    for number in range(2 * LEAST // 4000):
        store.get(put(store, b"http://archive/%d" % number, 4000))
    shop = sum(store.has(storage_key(b"http://shop/%d" % number)) for number in range(2 * LEAST // 4000)) * 4040
    archive = sum(store.has(storage_key(b"http://archive/%d" % number)) for number in range(2 * LEAST // 4000)) * 4040

    whole = store.shape.main + store.shape.small
    assert shop == pytest.approx(0.4 * whole, rel=0.15)
    assert archive == pytest.approx(0.6 * whole, rel=0.15)


@pytest.mark.slow
def test_a_share_is_the_same_in_all_processes_and_counts_what_lies_there(store: MachineStore) -> None:
    """Also what was replaced or dropped, until its turn comes."""
    assert SHOP == part_number("shop") != NONE
    chance = random.Random(1)
    for _ in range(4000):
        put(store, b"http://shop/%d" % chance.randrange(50), chance.randrange(20_000))
        put(store, b"http://archive/%d" % chance.randrange(50), chance.randrange(20_000))
    with store._env.begin(db=store._meta) as transaction:
        sizes = PARTS.unpack(bytes(transaction.get(PARTS_KEY) or b""))

    assert 0 < sizes[SHOP] <= store.used()
    assert sum(sizes) == sizes[SHOP]
    store.clear()
    with store._env.begin(db=store._meta) as transaction:
        assert transaction.get(PARTS_KEY) is None


def test_chunks_belong_to_the_site_of_their_body(store: MachineStore) -> None:
    """They are written before its record is."""
    base = storage_key(b"http://shop/film")
    announce(store, base, b"http://shop/film")

    assert store.shares.part_of(chunk_key(base, b"name", 7)) == SHOP
    assert store.shares.part_of(storage_key(b"http://shop/other")) == NONE


def test_a_large_body_that_would_evict_others_is_stored_on_its_second_use(store: MachineStore) -> None:
    """A small one, or one for which there is room, at once."""
    large, small = store.shape.total // 10, store.shape.total // 16
    announced = announce(store, storage_key(b"a"), b"a")
    assert announced(large)
    for number in range(2 * LEAST // 100_000):
        put(store, b"http://archive/%d" % number, 100_000)

    assert Admission(store, storage_key(b"b"))(small)
    first, second = Admission(store, storage_key(b"b")), Admission(store, storage_key(b"b"))
    assert [first(large), first(large), second(large), second(2 * large)] == [False, False, True, True]
    assert not Admission(store, storage_key(b"c"))(large)
    assert largest_body(store) == store.shape.total // 4


def test_marks_of_use_and_of_refusal_are_apart(store: MachineStore) -> None:
    """A body that was refused is not one that was used."""
    digest = bytes(16)
    assert not store.head.was_refused(digest)
    assert not store.head.was_touched(digest)
    assert store.head.use(digest, 0, 0)
    assert store.head.was_refused(digest)
    assert store.head.was_touched(digest)
    assert store.head.was_refused(digest)
