"""Certificates that prove something: POPs to us, and we to origins and to Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from harness.certificates import Authority, Files
from harness.client import request_bytes, until
from harness.origin import OriginDouble, Reply, running_origin
from harness.pop import Pop, environment, running_pop
from harness.tls_client import secured
from harness.valkey import Server

from edgecache.config.settings import load

SITE = "www.example.test"


@pytest.fixture
def sites(tmp_path: Path) -> Authority:
    """Who signs what the listeners show."""
    return Authority(tmp_path / "sites", "sites")


@pytest.fixture
def pops(tmp_path: Path) -> Authority:
    """Who signs what POPs show."""
    return Authority(tmp_path / "pops", "pops")


def for_pops(sites: Authority, pops: Authority, **settings: object) -> dict[str, object]:
    """The settings of a POP with a listener for POPs."""
    pair = sites.issue(SITE).pair
    return {"pop_listen": "127.0.0.1:0", "pop_ca": pops.file, "tls_certificates": pair, **settings}


def peers(pop: Pop) -> list[bytes]:
    """Who is connected, by the POP that it has proved to be."""
    return [one.peer_pop for one in pop.worker.connections if one.scheme == b"https"]


async def test_a_pop_is_known_by_its_certificate(origin: OriginDouble, sites: Authority, pops: Authority) -> None:
    """The name in the URI of what the authority has signed; each connection has its own."""
    origin.otherwise(origin.versioned)
    async with running_pop(origin, **for_pops(sites, pops)) as pop, contextlib.AsyncExitStack() as stack:
        for name in ("eu-1", "us-2"):  # it opens TLS for the POP's name, and asks for any site
            context = sites.trusting(pops.issue("any", uris=[f"edgecache:pop:{name}"]))
            client = await stack.enter_async_context(secured(pop.pop_port, context))
            for site in (SITE, "other.test", SITE, "other.test"):
                assert (await client.ask("/", site)).status == 200
        assert sorted(peers(pop)) == [b"eu-1", b"us-2"]


def bad_certificates(pops: Authority, others: Authority) -> Iterator[tuple[str, Files | None, str]]:
    """What is shown, and the reason that is counted."""
    uri = "edgecache:pop:eu-1"
    yield "none", None, "no-certificate"
    yield "wrong authority", others.issue("x", uris=[uri]), "bad-certificate"
    yield "expired", pops.issue("x", uris=[uri], days=-1), "bad-certificate"
    yield "not for clients", pops.issue("x", uris=[uri], client=False), "bad-certificate"
    yield "no role", pops.issue("eu-1"), "not-a-pop"
    yield "another role", pops.issue("x", uris=["edgecache:operator:eu-1", "https://edgecache/pop/eu-1"]), "not-a-pop"
    yield "no name", pops.issue("x", uris=["edgecache:pop:"]), "not-a-pop"
    yield "two names", pops.issue("x", uris=[uri, "edgecache:pop:us-1"]), "not-a-pop"
    yield "a name with more", pops.issue("x", uris=[uri + "%0d%0aX: 1"]), "not-a-pop"


async def test_who_is_no_pop_is_refused_before_any_byte(
    origin: OriginDouble, sites: Authority, pops: Authority, tmp_path: Path
) -> None:
    """Nothing is answered, nothing reaches the origin, the reason is counted, its place is free again."""
    origin.otherwise(origin.versioned)
    others = Authority(tmp_path / "others", "others")
    async with running_pop(origin, **for_pops(sites, pops)) as pop:
        for case, files, reason in bad_certificates(pops, others):
            before = failures(pop, reason)
            assert await bytes_got(pop.pop_port, sites.trusting(files)) == b"", case
            await until(lambda reason=reason, before=before: failures(pop, reason) == before + 1)
        for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2):
            good = pops.issue("x", uris=["edgecache:pop:eu-1"])
            assert await bytes_got(pop.pop_port, sites.trusting(good, version=version)) == b""
        assert failures(pop, "version") == 2
        await until(lambda: pop.worker.admission.count == 0)
        assert origin.requests == []
        assert pop.worker.connections == set()


async def bytes_got(port: int, context: ssl.SSLContext) -> bytes:
    """What a request gets that is sent as soon as the client holds the handshake to be over."""
    try:
        async with secured(port, context) as client:
            await client.send(request_bytes("GET", "/", [("Host", SITE)]))
            return await client.ended()
    except (ssl.SSLError, ConnectionError):
        return b""


def failures(pop: Pop, reason: str) -> float:
    """How many handshakes have failed for this reason."""
    series = pop.worker.watch.registry.snapshot().get("edgecache_tls_handshake_failures", {"series": []})["series"]
    return sum(values[0] for labels, values in series if dict(labels)["reason"] == reason)


async def test_the_public_listener_asks_nobody(origin: OriginDouble, sites: Authority, pops: Authority) -> None:
    """A POP's certificate is not asked for where browsers are served: there, nobody is a POP."""
    origin.otherwise(origin.versioned)
    settings = for_pops(sites, pops, tls_listen="127.0.0.1:0")
    context = sites.trusting(pops.issue("x", uris=["edgecache:pop:eu-1"]))
    async with running_pop(origin, **settings) as pop, secured(pop.tls_port, context) as client:
        assert (await client.ask("/", SITE)).status == 200
        assert peers(pop) == [b""]


async def test_a_pop_proves_itself_on_each_connection(origin: OriginDouble, sites: Authority, pops: Authority) -> None:
    """No session is resumed, so that a certificate that has ended or was replaced does not live on in a ticket."""
    origin.otherwise(origin.versioned)
    context = sites.trusting(pops.issue("x", uris=["edgecache:pop:eu-1"]))
    async with running_pop(origin, **for_pops(sites, pops)) as pop, secured(pop.pop_port, context) as client:
        await client.ask("/", SITE)
        assert client.info("ssl_object").session is None or not client.info("ssl_object").session.has_ticket


async def test_the_authority_of_pops_is_replaced(
    origin: OriginDouble, sites: Authority, pops: Authority, tmp_path: Path
) -> None:
    """Connections live on; new ones need what the new one has signed; a POP's renewed certificate is as good."""
    origin.otherwise(origin.versioned)
    uri, second = ["edgecache:pop:eu-1"], Authority(tmp_path / "second", "second")
    settings = for_pops(sites, pops)
    async with running_pop(origin, **settings) as pop:
        old = sites.trusting(pops.issue("x", uris=uri))
        async with secured(pop.pop_port, old) as kept:
            assert (await kept.ask("/", SITE)).status == 200
            async with secured(pop.pop_port, sites.trusting(pops.issue("x", uris=uri))) as renewed:
                assert (await renewed.ask("/", SITE)).status == 200
            await pop.worker.reload(load(environment(origin.url, {**settings, "pop_ca": second.file}.items())))
            assert (await kept.ask("/", SITE)).status == 200
            assert await bytes_got(pop.pop_port, old) == b""
            async with secured(pop.pop_port, sites.trusting(second.issue("x", uris=uri))) as new:
                assert (await new.ask("/", SITE)).status == 200
        await until(lambda: failures(pop, "bad-certificate") == 1)


# --- our own certificate, for origins


def server_context(authority: Authority, clients: Authority) -> ssl.SSLContext:
    """An origin that asks for a certificate."""
    files = authority.issue("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(clients.file))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files.certificate, files.key)
    return context


async def test_origins_that_ask_for_our_certificate(sites: Authority, pops: Authority) -> None:
    """With it they answer; without it, or with one of another authority, 502, and the origin has seen no request."""
    async with running_origin(tls=server_context(sites, pops)) as origin:
        origin.otherwise(Reply(200, [("Cache-Control", "no-store")], b"for you"))
        url = f"https://localhost:{origin.port}"
        ours, wrong, late = pops.issue("pop"), sites.issue("pop"), pops.issue("pop", days=-1)
        for files, status in ((None, 502), (wrong, 502), (late, 502), (ours, 200)):
            own = {"origin_certificate": files.certificate, "origin_certificate_key": files.key} if files else {}
            async with running_pop(url, origin_ca=sites.file, **own) as pop:
                assert (await pop.get("/")).status == status
        assert len(origin.requests) == 1


async def test_our_certificate_for_origins_is_renewed(sites: Authority, pops: Authority) -> None:
    """What has changed is taken over for new connections; what is broken leaves the last good in use."""
    ours, serials = pops.issue("pop"), []
    context = server_context(sites, pops)
    async with running_origin(tls=context) as origin:
        origin.otherwise(Reply(200, [("Cache-Control", "no-store"), ("Connection", "close")]))
        url = f"https://localhost:{origin.port}"
        own = {"origin_certificate": ours.certificate, "origin_certificate_key": ours.key}
        async with running_pop(url, origin_ca=sites.file, **own) as pop:
            pool = pop.worker.pool
            now = time.monotonic()
            for change in (None, pops.issue("pop"), None, "broken"):
                if isinstance(change, str):
                    ours.key.write_text(change)
                elif change is not None:
                    ours.replace_with(change)
                for _ in range(2):  # the second finds that the files are at rest
                    now += 60.0
                    pool._tls.look(now)
                assert (await pop.get("/")).status == 200
                serials.append(pool._tls.context)
    first, second, third, last = serials
    assert first is not second
    assert second is third
    assert third is last


# --- our own certificate, for Valkey


@asynccontextmanager
async def over_tls(port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port on which TLS is spoken in front of another: Debian's and the wheel's Valkey have none built in."""
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, inner))
        await asyncio.gather(pump(reader, inner), pump(inner_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def test_valkey_that_asks_for_our_certificate(
    origin: OriginDouble, valkey: Server, sites: Authority, pops: Authority
) -> None:
    """With it objects are stored there; without it requests are answered all the same."""
    origin.otherwise(origin.versioned)
    ours = pops.issue("pop")
    async with over_tls(valkey.port, server_context(sites, pops)) as port:
        common = {"regional": f"valkeys://localhost:{port}", "regional_ca": sites.file, "regional_timeout": "2s"}
        async with running_pop(origin, **common) as pop:
            assert (await pop.get("/without")).status == 200
            assert valkey.keys() == []
        own = {"regional_certificate": ours.certificate, "regional_certificate_key": ours.key}
        async with running_pop(origin, **common, **own) as pop:
            assert (await pop.get("/with")).status == 200
            await until(lambda: len(valkey.keys()) == 1)
