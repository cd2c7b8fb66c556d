"""A log whose entries are sealed: who has the Valkey and not the key can delay nothing, hide nothing, name nothing."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from harness.client import until
from harness.origin import OriginDouble
from harness.pop import Pop, running_pop
from harness.purging import BEARER, TOKEN
from harness.valkey import Server
from harness.versions import VersionedPage

from edgecache.config.settings import load
from edgecache.invalidation import version_vector
from edgecache.invalidation.log_entry import Draft, decode_entry, decode_place
from edgecache.invalidation.log_seal import LogPlace, seal, unseal
from edgecache.invalidation.purge_log import Applied, EntryKind, PurgeLog
from edgecache.invalidation.region_log import own_region_store
from edgecache.invalidation.stream_store import stream_key
from edgecache.storage.record import Codec

KEY = "00112233445566778899aabbccddeeff" * 2
STREAM = stream_key("eu")
DRAFT = Draft(EntryKind.PURGE, (b"uhttp://a/\xff",), soft=True, author="cms")
PLACE = LogPlace(STREAM, b"000000000100000007", b"5-0", b"6-0")
CODEC = Codec(AESGCM(bytes.fromhex(KEY)), os.urandom)


def fields_at(place: LogPlace, content: bytes) -> dict[bytes, bytes]:
    """An entry as it lies in a stream."""
    return {b"i": place.incarnation, b"p": place.previous, b"e": content}


def test_what_is_sealed_is_read_as_it_was() -> None:
    """All fields, and nothing of them in the clear."""
    content = seal(CODEC, PLACE, DRAFT)
    fields = unseal(CODEC, STREAM, PLACE.id, fields_at(PLACE, content))

    assert fields is not None
    entry = decode_entry(PLACE.id, fields)
    assert (entry.kind, entry.scopes, entry.soft) == (EntryKind.PURGE, DRAFT.scopes, True)
    assert b"http" not in content


@pytest.mark.parametrize(
    ("name", "stream", "place"),
    [
        ("another log", stream_key("us"), PLACE),
        ("another ID", STREAM, PLACE._replace(id=b"7-0")),
        ("after another entry", STREAM, PLACE._replace(previous=b"4-0")),
        ("another incarnation", STREAM, PLACE._replace(incarnation=b"000000000200000007")),
    ],
)
def test_what_is_moved_is_not_believed(name: str, stream: bytes, place: LogPlace) -> None:
    """It was sealed for one place."""
    assert unseal(CODEC, stream, place.id, fields_at(place, seal(CODEC, PLACE, DRAFT))) is None, name


def test_what_is_altered_or_of_another_key_is_not_believed() -> None:
    """Every byte counts; what is no base64, nothing, or in the clear, is not sealed."""
    content = seal(CODEC, PLACE, DRAFT)
    for at in range(0, len(content), 7):
        changed = content[:at] + (b"A" if content[at : at + 1] != b"A" else b"B") + content[at + 1 :]
        assert unseal(CODEC, STREAM, PLACE.id, fields_at(PLACE, changed)) is None
    for other in (b"", b"\xff", content[:-8]):
        assert unseal(CODEC, STREAM, PLACE.id, fields_at(PLACE, other)) is None
    plain = dict(zip(DRAFT.fields()[::2], DRAFT.fields()[1::2], strict=True))
    assert unseal(CODEC, STREAM, PLACE.id, {**fields_at(PLACE, b""), **plain}) is None
    assert unseal(Codec(AESGCM(bytes(32)), os.urandom), STREAM, PLACE.id, fields_at(PLACE, content)) is None


async def test_many_append_at_once_and_each_has_its_place(valkey: Server) -> None:
    """Processes that do not know of each other: one chain without gaps, in which every entry is believed."""
    settings = load(
        {"EDGECACHE_ORIGIN": "http://127.0.0.1:1", "EDGECACHE_REGIONAL": valkey.url, "EDGECACHE_REGIONAL_KEY": KEY}
    )
    stores = [own_region_store(settings) for _ in range(4)]
    marks = await asyncio.gather(
        *(store.append("eu", Draft(scopes=(b"t%d" % n,)), 0) for n in range(8) for store in stores)
    )
    log = PurgeLog()
    relations = []
    for id_, fields in valkey.db.xrange(STREAM):
        plain, _ = stores[0].unseal("eu", id_, fields)
        relations.append(log.apply("eu", decode_entry(id_, plain), 0.0))

    assert len(set(marks)) == 32
    assert relations == [Applied.OPENED, *[Applied.NEXT] * 32]
    assert len(log) == 8
    for store in stores:
        await store.link.close()


def options(valkey: Server, **more: object) -> dict[str, Any]:
    """The settings of a POP with a key."""
    named = {"regional": valkey.url, "region": "eu", "regional_timeout": "2s", "purge_tokens": f"cms={TOKEN}"}
    return {**named, "regional_key": KEY, **more}


async def page(pop: Pop) -> bytes:
    """The page, by one POP."""
    return (await pop.get("/page")).body


async def test_purges_and_writes_are_sealed_and_known(origin: OriginDouble, valkey: Server) -> None:
    """At another POP, in the ledger, and to the writer; who reads the Valkey learns no URL."""
    site = VersionedPage()
    origin.otherwise(site.reply)
    async with (
        running_pop(origin, origin.clock, pop="a", **options(valkey)) as a,
        running_pop(origin, origin.clock, pop="b", **options(valkey)) as b,
    ):
        await a.caught_up()
        await b.caught_up()
        assert await page(a) == await page(b) == b"v1"
        site.version = 2
        answer = await a.request("PURGE", "/page", BEARER)
        assert answer.status == 200
        top = version_vector.decode_mark(json.loads(answer.body)["id"].partition(":")[2])
        await until(lambda: b.worker.edge.log.applied("eu") >= top)
        assert await page(b) == b"v2"
        written = await b.request("POST", "/page", body=b"x")
        assert written.get("Edgecache-Invalidation") == "region"
        recent = await a.worker.logs.writer.store.recent("eu", 10)
        assert any(b"/page" in fields.get(b"s", b"") for _, fields in recent)
        rows = valkey.db.xrange(STREAM)
        assert not any(b"page" in b"".join(fields.values()) for _, fields in rows)
        assert a.worker.edge.log.floor["eu"] <= decode_place(*rows[0])[0]  # the opening's: nothing rose since


async def test_what_somebody_else_writes_there_names_nothing_and_hides_nothing(
    origin: OriginDouble, valkey: Server
) -> None:
    """A forged entry has everything validated, once; a purge that is taken out of the log is missed by nobody."""
    site = VersionedPage()
    origin.otherwise(site.reply)
    async with running_pop(origin, origin.clock, pop="a", **options(valkey)) as pop:
        await pop.caught_up()
        assert await page(pop) == b"v1"
        last, fields = valkey.db.xrevrange(STREAM, count=1)[0]
        forged = {"i": fields[b"i"], "p": last, "k": "purge", "s": '["uhttp://www.example.test/page"]'}
        id_ = valkey.db.xadd(STREAM, forged)
        await until(lambda: pop.worker.edge.log.applied("eu") >= decode_place(id_, {b"i": fields[b"i"], b"p": last})[0])
        asked = len(origin.requests)
        assert await page(pop) == b"v1"
        assert origin.requests[-1].get("If-None-Match") == '"1"'  # validated: it is still there
        assert await page(pop) == b"v1"
        assert len(origin.requests) == asked + 1
        await pop.written()
        site.version = 2
        assert (await pop.request("PURGE", "/page", BEARER)).status == 200
        hidden, _ = valkey.db.xrevrange(STREAM, count=1)[0]
        assert (await pop.request("PURGE", "/else", BEARER)).status == 200
        valkey.db.xdel(STREAM, hidden)
    async with running_pop(origin, origin.clock, pop="b", **options(valkey)) as pop:
        await pop.caught_up()
        assert await page(pop) == b"v2"


async def test_a_log_from_before_the_key(origin: OriginDouble, valkey: Server) -> None:
    """What was stored before its entries is validated; what is appended from now on is sealed, and is believed."""
    site = VersionedPage()
    origin.otherwise(site.reply)
    async with running_pop(origin, origin.clock, **options(valkey, regional_key="")) as pop:
        await pop.caught_up()
        assert (await pop.request("PURGE", "/else", BEARER)).status == 200
    async with running_pop(origin, origin.clock, **options(valkey)) as pop:
        await pop.caught_up()
        assert await page(pop) == b"v1"
        assert (await pop.request("PURGE", "/else", BEARER)).status == 200
        asked = len(origin.requests)
        assert await page(pop) == b"v1"
        assert len(origin.requests) == asked
        floor = pop.worker.edge.log.floor["eu"]
        assert floor < pop.worker.edge.log.applied("eu")
