"""Hits in the machine's store by the fast path: what the long way would answer, byte for byte, and what memory would.

Two POPs are told the same, one of which knows only the long way (`hostile/twins.py`); what they have lies in their
stores, and not in their memory.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from harness.client import until
from harness.often import one_in, share, slow
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop
from hostile.heads import FRESH, OVER_TLS, PROXY, SETTINGS, a_head, fill, head, reads, request, something_happens
from hostile.twins import PEER, Twins

from edgecache.invalidation.in_process_log import written_scopes
from edgecache.storage.machine import store_files
from edgecache.storage.machine.purge_entry import PurgeEntries
from edgecache.storage.machine.schema import LEAST, RECORD
from edgecache.storage.machine.store import Change, MachineStore, digest_of
from edgecache.storage.record import chunk_key, storage_key
from edgecache.storage.regional import INLINE
from edgecache.storage.regional_chunks import CHUNK

IDENTITY = store_files.identity_of(b"own", b"", b"")
IN_STORE = {"store": "memory", "store_size": "16MiB"}
OUTCOME = re.compile(rb"Cache-Status: [^\r]*\r\n")


def new_twins(*, rises: bool = False, **settings: str) -> Twins:
    """Twins that have what is stored in their stores; nothing of it goes into memory, unless it `rises`."""
    twins = Twins(**IN_STORE | settings)
    for twin in twins.both:
        twin.worker.edge.memory.largest = 1024 if rises else -1
    return twins


@asynccontextmanager
async def twins_of(*, rises: bool = False, **settings: str) -> AsyncIterator[Twins]:
    """The same with what `fill` stores."""
    twins = new_twins(rises=rises, **settings)
    fill(twins)
    try:
        yield twins
    finally:
        await twins.end()


def store_of(twin: Any) -> MachineStore:
    """Its store."""
    store: MachineStore = twin.worker.edge.region.tier.reads._store
    return store


@pytest.mark.parametrize("seed", [1, slow(2), slow(3)])
@pytest.mark.parametrize("rises", [False, slow(True)], ids=["nothing rises", "what is read again rises"])
@pytest.mark.parametrize("name", one_in(2, SETTINGS))
async def test_every_answer_is_that_of_the_long_way(name: str, seed: int, *, rises: bool) -> None:
    """Over generated heads, contents of the store, purges, passing time and clients of all kinds."""
    dice = random.Random(f"{name} {seed}")
    clients = [(PEER, b"http", b""), (PROXY, b"http", b""), ("192.0.2.8", b"http", b"")] + 2 * [
        (PEER, b"https", OVER_TLS)
    ]
    async with twins_of(rises=rises, **SETTINGS[name]) as twins:
        for number in range(share(2000, 4)):
            if number % 40 == 0:
                something_happens(dice, twins)
            if number % 60 == 0:
                twins.tell(*dice.choice(clients))
            if rises:
                await agree_but_for_the_tier(twins, *reads(dice, a_head(dice)))
            else:
                await twins.agree(*reads(dice, a_head(dice)))
        if not rises:
            assert twins.quick.logged == twins.long.logged
            assert twins.quick.counted == twins.long.counted
        assert twins.quick.near > 5, "the short way was not tried"


async def agree_but_for_the_tier(twins: Twins, *pieces: bytes) -> None:
    """Both answer the same, wherever they have it from: when it rises to memory may differ."""
    one, other = await twins.quick.send(*pieces), await twins.long.send(*pieces)
    assert OUTCOME.sub(b"", one) == OUTCOME.sub(b"", other), pieces
    assert twins.quick.upstream == twins.long.upstream, pieces
    if twins.quick.transport.ended:
        twins.tell(twins.quick.connection.peer, twins.quick.connection.scheme, twins.quick.connection.tag)


async def test_what_the_store_answers_is_what_memory_answers() -> None:
    """But for Cache-Status, which says where it was; known heads and new ones."""
    memory = Twins()
    fill(memory)
    async with twins_of() as twins:
        for target in (b"/a", b"/b", b"/c", b"/d", b"/e", b"/h", b"/j", b"/n", b"/o?x=1"):
            for number in range(9):
                lines = (b"Cookie: %d" % (number % 5), b"Accept-Encoding: gzip", b"User-Agent: one")
                one = head(target, *lines, b"Accept-Language: en, de;q=0.5")
                told, stored = await memory.agree(one), await twins.agree(one)
                assert OUTCOME.sub(b"", told) == OUTCOME.sub(b"", stored), one
                assert b"test; hit" in told or b"Asked" in told
                assert b"test/store; hit" in stored or b"Asked" in stored
        assert twins.quick.near > 20
    await memory.end()


async def test_bodies_of_less_than_a_chunk_lie_in_their_records() -> None:
    """They are answered by the fast path; with a region, as that has them."""
    twins = new_twins()
    for size in (INLINE, INLINE + 1, CHUNK - 1):
        content = random.Random(size).randbytes(size)
        twins.store(request(b"/%d" % size), [FRESH], content)
        for number in range(9):
            assert (await twins.agree(head(b"/%d" % size, b"Cookie: %d" % number))).endswith(content)
    assert twins.quick.near > 9
    await twins.end()


async def known_head() -> tuple[Any, bytes]:
    """A twin that knows a head whose response lies in its store, and the head."""
    twins = new_twins()
    fill(twins)
    one = head(b"/a", b"Cookie: the same")
    for _ in range(6):
        await twins.quick.send(one)
    assert twins.quick.near >= 2
    await twins.long.worker.stop()
    return twins.quick, one


async def test_a_purge_of_another_worker_is_seen_at_once() -> None:
    """It lies in the store, and nobody has told this worker of it."""
    twin, one = await known_head()
    assert b"test/store; hit" in await twin.send(one)

    purge = orjson.dumps({"id": "other.1", **written_scopes([b"tt"], soft=False)})
    assert PurgeEntries(store_of(twin)).append("other.1", purge)

    assert b"Asked" in await twin.send(one)
    await twin.worker.stop()


async def test_a_response_that_was_replaced_is_not_given_again() -> None:
    """The place of the old one is known, and left."""
    twin, one = await known_head()
    for number in range(5):
        twin.store(request(b"/a"), [FRESH], b"new %d" % number)
        for _ in range(2):
            assert (await twin.send(one)).endswith(b"\r\n\r\nnew %d" % number)
    await twin.worker.stop()


async def test_bytes_that_were_overwritten_are_never_given() -> None:
    """The logs are gone through several times; what answers by a known head is its own record, or nothing."""
    twin, one = await known_head()
    store, hits = store_of(twin), 0
    for number in range(60):
        hits += (await twin.send(one)).endswith(b"\r\n\r\na http")
        for part in range(20):
            put(store, b"another %d %d" % (number, part), os.urandom(30_000))
    assert hits
    last = await twin.send(one)
    assert last.endswith(b"\r\n\r\na http") or b"Asked" in last
    await twin.worker.stop()


def put(store: MachineStore, key: bytes, value: bytes) -> None:
    """Store it."""
    assert store.apply([Change(key, value)]) == [True]


async def test_nothing_is_trusted_while_a_change_is_made() -> None:
    """Nor after a process was killed in that: the index is asked, until the next change is complete."""
    twin, one = await known_head()
    store, asked = store_of(twin), []
    begin = store._begin
    store._begin = lambda **of: asked.append(1) or begin(**of)  # type: ignore[func-returns-value]

    await twin.send(one)
    assert not asked, "its place is known"
    store.head["generation"] |= 1
    for _ in range(3):
        assert b"test/store; hit" in await twin.send(one)
    assert len(asked) == 3
    put(store, b"another", b"value")
    assert store.head["generation"] % 2 == 0
    for _ in range(3):
        assert b"test/store; hit" in await twin.send(one)
    assert len(asked) == 4
    await twin.worker.stop()


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_a_record_that_is_damaged_is_never_given(kind: str, tmp_path: Path) -> None:
    """It is dropped, and fetched anew."""
    if kind == "disk":
        assert store_files.prepare(str(tmp_path), LEAST, IDENTITY, mapped=False)
    twins = new_twins(store=kind if kind == "memory" else f"disk:{tmp_path}")
    twin = twins.quick
    twin.store(request(b"/b"), [FRESH], b"b")
    await there(twin, b"/b")
    for number in range(9):  # the template is learnt
        await twin.send(head(b"/b", b"Cookie: %d" % number, b"Accept-Encoding: gzip"))
    assert twin.near
    twin.store(request(b"/a"), [FRESH], b"to be damaged")
    store, found = store_of(twin), await there(twin, b"/a")
    log = store.logs[found.log]
    os.pwrite(log.fd, b"X", found.position % log.size + RECORD.size + found.length - 5)

    assert b"Asked" in await twin.send(head(b"/a", b"Cookie: new", b"Accept-Encoding: gzip"))

    await until(lambda: store.find_by(DIGEST_OF_A) is None)
    await twins.end()


DIGEST_OF_A = digest_of(storage_key(b"http://www.example.test/a"))


async def there(twin: Any, target: bytes) -> Any:
    """Where a response lies, once it was written."""
    digest = digest_of(storage_key(b"http://www.example.test" + target))
    await until(lambda: store_of(twin).find_by(digest) is not None)
    return store_of(twin).find_by(digest)


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_a_body_in_chunks_is_read_by_each_client_alone(origin: OriginDouble, kind: str, tmp_path: Path) -> None:
    """The origin is asked once; every byte is right, of wholes and of ranges, also where a chunk is damaged."""
    content = random.Random(7).randbytes(9 * CHUNK + 17)
    origin.on("/it", Reply(200, [("Cache-Control", "max-age=60"), ("ETag", '"1"')], content))
    if kind == "disk":
        assert store_files.prepare(str(tmp_path), 4 * LEAST, IDENTITY, mapped=False)
    place = kind if kind == "memory" else f"disk:{tmp_path}"
    async with running_pop(origin, store=place, store_size="64MiB", memory="128MiB", max_object_memory="1KiB") as pop:
        await pop.get("/it")
        answers = await asyncio.gather(*[pop.get("/it") for _ in range(20)])
        for answer in answers:
            assert answer.body == content
            assert (answer.get("Cache-Status") or "").startswith("test/store; hit")
        part = await pop.get("/it", ("Range", f"bytes={CHUNK - 3}-{3 * CHUNK}"))
        assert (part.status, part.body) == (206, content[CHUNK - 3 : 3 * CHUNK + 1])
        assert len(origin.requests) == 1
        if kind == "disk":  # what lies in memory is checked once
            damage_a_chunk(pop)
            assert (await pop.get("/it")).body == content
            assert len(origin.requests) == 2


def damage_a_chunk(pop: Any) -> None:
    """Change one byte of the third chunk."""
    tier = pop.worker.edge.region.tier
    store, url = tier.reads._store, b"http://www.example.test/it"
    base = storage_key(url)
    value = store.get(base)
    assert value is not None
    record = tier.codec.decode(base, url, value)
    found = store.find_by(digest_of(chunk_key(base, record.chunks, 2)))
    assert found is not None
    log = store.logs[found.log]
    at = found.position % log.size + RECORD.size + 5000
    os.pwrite(log.fd, bytes([os.pread(log.fd, 1, at)[0] ^ 255]), at)
