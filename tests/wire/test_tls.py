"""TLS on the listeners: which certificate, which site, what is refused, what a connection costs who never finishes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import tracemalloc
from pathlib import Path

import pytest
from harness.certificates import Authority
from harness.client import TIMEOUT, let_others_run, request_bytes, until
from harness.observed import samples
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, environment, running_pop
from harness.tls_client import TlsClient, secured

from edgecache.config.certificates import KeyPair, described
from edgecache.config.settings import load
from edgecache.semantics.rope import MOST_COPIED, WHOLE
from edgecache.wire.body_buffer import SLICE
from edgecache.wire.tls.contexts import ServerSide, ServerTls, hush_names

SITE, OTHER = "www.example.test", "shop.example.test"
FRESH = [("Cache-Control", "max-age=60")]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that writes into the test's directory."""
    return Authority(tmp_path / "ca")


def over_tls(authority: Authority, *names: str, **settings: object) -> dict[str, object]:
    """The settings of a POP with a certificate for `names`, or the test's site."""
    files = authority.issue(*(names or (SITE,)))
    return {"tls_listen": "127.0.0.1:0", "tls_certificates": files.pair, **settings}


def names_of(client: TlsClient) -> set[str]:
    """The DNS names of the certificate that the client got."""
    return {name for kind, name in client.info("peercert")["subjectAltName"] if kind == "DNS"}


async def test_answers_over_tls_from_every_tier(origin: OriginDouble, authority: Authority) -> None:
    """Miss, hit, known head, pass and refusal; the origin is told https, and plain http has answers of its own."""
    origin.otherwise(origin.versioned)
    origin.on("/private", Reply(200, [("Cache-Control", "no-store")], b"mine"))
    async with running_pop(origin, **over_tls(authority)) as pop:
        async with secured(pop.tls_port, authority.trusting()) as client:
            for _ in range(4):
                assert (await client.ask("/", SITE)).body == b"version 1"
            for _ in range(3):
                assert (await client.ask("/private", SITE)).body == b"mine"
            assert (await client.ask("/", SITE, method="HEAD")).status == 200
        assert [request.get("X-Forwarded-Proto") for request in origin.requests] == ["https"] * 4
        origin.version = 2
        assert (await pop.get("/")).body == b"version 2"


async def test_a_head_is_known_for_its_scheme(origin: OriginDouble, authority: Authority) -> None:
    """The same bytes over http and https are two questions, however often they come."""
    origin.otherwise(lambda request: Reply(200, FRESH, (request.get("X-Forwarded-Proto") or "").encode()))
    async with running_pop(origin, **over_tls(authority)) as pop, pop.client() as plain:
        async with secured(pop.tls_port, authority.trusting()) as client:
            for _ in range(6):
                assert (await client.ask("/", SITE)).body == b"https"
                await plain.request("GET", "/", [("Host", SITE)])
                assert (await plain.response()).body == b"http"
        assert pop.worker.watch.requests.known_hits > 2


async def test_sni_chooses_the_certificate(origin: OriginDouble, authority: Authority) -> None:
    """Exact before wildcard, one label only, the first for all others and for who names none."""
    pairs = [authority.issue(name).pair for name in ("first.test", "www.example.test", "*.example.test")]
    settings = {"tls_listen": "127.0.0.1:0", "tls_certificates": ",".join(pairs)}
    expected = {
        "www.example.test": "www.example.test",
        "shop.example.test": "*.example.test",
        "WWW.example.test": "www.example.test",
        "a.shop.example.test": "first.test",
        "example.test": "first.test",
        "other.test": "first.test",
        None: "first.test",
    }
    async with running_pop(origin, **settings) as pop:
        for name, certificate in expected.items():
            context = authority.trusting()
            context.check_hostname = False
            async with secured(pop.tls_port, context, name) as client:
                assert names_of(client) == {certificate}, name


async def test_a_directory_of_certificates(origin: OriginDouble, authority: Authority, tmp_path: Path) -> None:
    """Pairs side by side, in one file, and as certbot lays them out; `default` is the first."""
    sites = Authority(tmp_path / "sites", "sites")
    sites.file.rename(tmp_path / "sites-ca.pem")
    sites.issue("b.test", file="b")
    sites.issue("d.test", file="default")
    joined = authority.issue("j.test")
    (tmp_path / "sites" / "joined.pem").write_bytes(joined.certificate.read_bytes() + joined.key.read_bytes())
    (tmp_path / "sites" / "c.test").mkdir()
    bot = authority.issue("c.test")
    (tmp_path / "sites" / "c.test" / "fullchain.pem").write_bytes(bot.certificate.read_bytes())
    (tmp_path / "sites" / "c.test" / "privkey.pem").write_bytes(bot.key.read_bytes())
    settings = {"tls_listen": "127.0.0.1:0", "tls_certificates": tmp_path / "sites"}
    async with running_pop(origin, **settings) as pop:
        for name, certificate in {
            "b.test": "b.test",
            "j.test": "j.test",
            "c.test": "c.test",
            "x.test": "d.test",
        }.items():
            context = authority.trusting()
            context.load_verify_locations(tmp_path / "sites-ca.pem")
            context.check_hostname = False
            async with secured(pop.tls_port, context, name) as client:
                assert names_of(client) == {certificate}


async def test_another_site_than_tls_was_asked_for_is_misdirected(origin: OriginDouble, authority: Authority) -> None:
    """421 (RFC 9110 §7.4), also where the head is known from a connection for that site; nothing reaches the origin."""
    origin.otherwise(origin.versioned)
    async with running_pop(origin, **over_tls(authority, SITE, OTHER)) as pop:
        async with secured(pop.tls_port, authority.trusting(), OTHER) as right:
            for _ in range(3):
                assert (await right.ask("/", OTHER)).status == 200
        asked = len(origin.requests)
        async with secured(pop.tls_port, authority.trusting(), SITE) as client:
            for _ in range(3):
                assert (await client.ask("/", OTHER)).status == 421
            for host in (SITE, SITE.upper(), f"{SITE}:8443"):
                assert (await client.ask(f"/{host}", host)).status == 200
        assert len(origin.requests) == asked + 3
        async with secured(pop.tls_port, authority.trusting(), None) as nameless:
            assert (await nameless.ask("/", OTHER)).status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_are_refused(origin: OriginDouble, authority: Authority, version: ssl.TLSVersion) -> None:
    """TLS 1.0 and 1.1 end in the handshake, and are counted."""
    async with running_pop(origin, **over_tls(authority)) as pop:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with secured(pop.tls_port, authority.trusting(version=version)):
                pass
        await until(lambda: failures(pop, "version") == 1)
        assert pop.worker.admission.count == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_versions_and_alpn(origin: OriginDouble, authority: Authority, version: ssl.TLSVersion) -> None:
    """TLS 1.2 and 1.3 with ciphers that keep past traffic secret; http/1.1 by ALPN."""
    origin.otherwise(origin.versioned)
    context = authority.trusting()
    context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with running_pop(origin, **over_tls(authority)) as pop, secured(pop.tls_port, context) as client:
        secret = client.info("ssl_object")
        assert secret.selected_alpn_protocol() == "http/1.1"
        assert "GCM" in secret.cipher()[0] or "CHACHA20" in secret.cipher()[0]
        assert version is ssl.TLSVersion.TLSv1_3 or secret.cipher()[0].startswith("ECDHE")
        assert (await client.ask("/", SITE)).status == 200


def failures(pop: Pop, reason: str) -> float:
    """How many handshakes have failed for this reason."""
    series = pop.worker.watch.registry.snapshot().get("edgecache_tls_handshake_failures", {"series": []})["series"]
    return sum(values[0] for labels, values in series if dict(labels)["reason"] == reason)


async def test_plain_http_on_the_tls_port_is_no_request(origin: OriginDouble, authority: Authority) -> None:
    """It is counted, and closed without an answer to be taken for one."""
    async with running_pop(origin, **over_tls(authority)) as pop:
        reader, writer = await asyncio.open_connection("127.0.0.1", pop.tls_port)
        writer.write(request_bytes("GET", "/"))
        async with asyncio.timeout(TIMEOUT):
            assert b"HTTP" not in await reader.read()
        writer.close()
        await until(lambda: failures(pop, "plain-http") == 1)
        assert origin.requests == []


async def test_a_handshake_that_never_ends_is_cut(origin: OriginDouble, authority: Authority) -> None:
    """Silent, or half a hello: after EDGECACHE_HEAD_TIMEOUT its place is free again; others are served all along."""
    origin.otherwise(origin.versioned)
    async with running_pop(origin, **over_tls(authority, head_timeout="300ms")) as pop:
        silent = [await asyncio.open_connection("127.0.0.1", pop.tls_port) for _ in range(5)]
        for _, writer in silent[1:]:
            writer.write(b"\x16\x03\x01\x02\x00\x01")
        await until(lambda: pop.worker.admission.count == 5)
        async with secured(pop.tls_port, authority.trusting()) as client:
            assert (await client.ask("/", SITE)).status == 200
        for reader, writer in silent:
            async with asyncio.timeout(TIMEOUT):
                assert await reader.read() == b""
            writer.close()
        await until(lambda: pop.worker.admission.count == 0)
        assert failures(pop, "timeout") == 5


async def test_unfinished_handshakes_count_as_connections(origin: OriginDouble, authority: Authority) -> None:
    """By address: who is over the bound is closed at once and counted; a place that is given back is taken."""
    origin.otherwise(origin.versioned)
    async with running_pop(origin, **over_tls(authority, max_connections_per_address=3)) as pop:
        held = [await asyncio.open_connection("127.0.0.1", pop.tls_port) for _ in range(3)]
        await until(lambda: pop.worker.admission.count == 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", pop.tls_port)
        async with asyncio.timeout(TIMEOUT):
            assert await reader.read() == b""
        writer.close()
        assert samples(pop.worker.snapshot())["edgecache_refused_total,too-many-from-address"] == 1
        held.pop()[1].close()
        await until(lambda: pop.worker.admission.count == 2)
        async with secured(pop.tls_port, authority.trusting()) as client:
            assert (await client.ask("/", SITE)).status == 200
        for _, writer in held:
            writer.close()
        await until(lambda: pop.worker.admission.count == 0)


async def test_bytes_sent_with_the_end_of_the_handshake_are_a_request(
    origin: OriginDouble, authority: Authority
) -> None:
    """Pipelined requests and a body over TLS, in many small pieces."""
    origin.otherwise(origin.echo)
    async with running_pop(origin, **over_tls(authority)) as pop, secured(pop.tls_port, authority.trusting()) as client:
        whole = request_bytes("POST", "/1", [("Host", SITE)], b"x" * 5000) + request_bytes(
            "GET", "/2", [("Host", SITE)]
        )
        for start in range(0, len(whole), 700):
            await client.send(whole[start : start + 700])
        assert (await client.response()).status == 200
        assert b"/2" in (await client.response()).body


async def test_large_bodies_and_slow_readers(origin: OriginDouble, authority: Authority) -> None:
    """8 MiB through TLS to a client that reads late, whole."""
    body = bytes(range(256)) * 32768
    origin.on("/large", Reply(200, FRESH, body))
    async with running_pop(origin, **over_tls(authority)) as pop, secured(pop.tls_port, authority.trusting()) as client:
        for _ in range(2):
            await client.send(request_bytes("GET", "/large", [("Host", SITE)]))
            await asyncio.sleep(0)
            assert (await client.response()).body == body


@pytest.mark.parametrize("at", range(0, SLICE, SLICE // 8))
async def test_little_waits_for_a_slow_reader(origin: OriginDouble, authority: Authority, at: int) -> None:
    """What is not yet sent to a client that reads nothing is no more than 256 KiB.

    That is what TLS has not encrypted or handed on yet, and what the socket below it has not taken, wherever it stops.
    """
    origin.on("/large", Reply(200, FRESH, bytes(8 * 1024 * 1024)))
    async with running_pop(origin, **over_tls(authority)) as pop, secured(pop.tls_port, authority.trusting()) as client:
        await client.ask("/large", SITE)
        tracemalloc.start()
        try:
            await client.send(request_bytes("GET", "/large", [("Host", SITE), ("Range", f"bytes={at}-")]))
            waiting = before = -1
            while waiting <= 0 or waiting != before:
                await let_others_run(200)
                before, waiting = waiting, sum(one.transport.get_write_buffer_size() for one in pop.worker.connections)
            not_ours = [tracemalloc.Filter(False, name) for name in ("*/tests/*", "*/asyncio/streams.py")]
            snapshot = tracemalloc.take_snapshot().filter_traces(not_ours)
        finally:
            tracemalloc.stop()

        held = waiting + sum(trace.size for trace in snapshot.traces)
        assert held <= SLICE
        client.writer.transport.abort()


# --- redirect and HSTS


async def test_http_is_redirected_to_https(origin: OriginDouble, authority: Authority) -> None:
    """301 for GET and HEAD, 308 for the rest, host and target kept; ACME challenges and https pass."""
    origin.otherwise(origin.versioned)
    async with running_pop(origin, **over_tls(authority, https_redirect="8443", hosts=f"{SITE}")) as pop:
        for method, status in {"GET": 301, "HEAD": 301, "POST": 308, "DELETE": 308}.items():
            answer = await pop.request(method, "/a?b=%2F", ("Host", f"{SITE}"))
            assert (answer.status, answer.get("Location")) == (status, f"https://{SITE}:8443/a?b=%2F")
        assert (await pop.get("/", ("Host", "evil.test"))).status == 421
        assert origin.requests == []
        assert (await pop.get("/.well-known/acme-challenge/token", ("Host", SITE))).status == 200
        async with secured(pop.tls_port, authority.trusting()) as client:
            assert (await client.ask("/", SITE)).status == 200


async def test_who_terminates_tls_before_us_is_not_redirected(origin: OriginDouble) -> None:
    """A trusted proxy's X-Forwarded-Proto counts, anybody else's does not; on means port 443."""
    origin.otherwise(origin.versioned)
    for trusted, status in {"127.0.0.1": 200, "10.0.0.1": 301}.items():
        async with running_pop(origin, https_redirect="on", trusted_proxies=trusted, hsts="max-age=60") as pop:
            answer = await pop.get("/", ("X-Forwarded-Proto", "https"), ("Host", SITE))
            assert answer.status == status
            assert answer.get("Location") == (None if status == 200 else f"https://{SITE}/")
            assert answer.all("Strict-Transport-Security") == (["max-age=60"] if status == 200 else [])


async def test_hsts_is_said_once_over_https_only(origin: OriginDouble, authority: Authority) -> None:
    """RFC 6797 §7.1, §7.2: on misses, hits, known heads, passes and errors; the origin's own stands alone."""
    said = "max-age=31536000; includeSubDomains"
    own = [("Strict-Transport-Security", "max-age=1")]
    origin.on("/hit", Reply(200, FRESH, b"x"))
    origin.on("/own", Reply(200, FRESH + own, b"x"))
    origin.on("/pass", Reply(200, [("Cache-Control", "no-store")], b"x"))
    origin.on("/pass-own", Reply(200, [("Cache-Control", "no-store"), *own], b"x"))
    async with running_pop(origin, **over_tls(authority, hsts=said)) as pop:
        async with secured(pop.tls_port, authority.trusting()) as client:
            for target in ("/hit", "/own", "/pass", "/pass-own"):
                for _ in range(5):
                    answer = await client.ask(target, SITE)
                    assert answer.all("Strict-Transport-Security") == (["max-age=1"] if "own" in target else [said])
            assert (await client.ask("/", OTHER)).all("Strict-Transport-Security") == [said]
        assert pop.worker.watch.requests.known_hits > 2
        for _ in range(3):
            assert (await pop.get("/hit")).get("Strict-Transport-Security") is None


# --- the PROXY protocol before TLS


async def test_a_proxy_header_comes_before_the_handshake(origin: OriginDouble, authority: Authority) -> None:
    """In one piece with the hello or not; its client is the client, also for the bound by address."""
    origin.otherwise(lambda request: Reply(200, [], (request.get("X-Forwarded-For") or "").encode()))
    settings = over_tls(authority, trusted_proxies="127.0.0.1", proxy_protocol="on")
    async with running_pop(origin, **settings) as pop:
        header = b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 443\r\n"
        async with secured(pop.tls_port, authority.trusting(), before=header) as client:
            assert (await client.ask("/", SITE)).body == b"192.0.2.7"
            assert set(pop.worker.admission.by_address) == {b"192.0.2.7"}
        reader, writer = await asyncio.open_connection("127.0.0.1", pop.tls_port)
        writer.write(b"PROXY NONSENSE\r\n")
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()
        assert samples(pop.worker.snapshot())["edgecache_refused_total,proxy-header"] == 1
        await until(lambda: pop.worker.admission.count == 0)


async def test_a_proxy_header_in_pieces(origin: OriginDouble, authority: Authority) -> None:
    """Byte by byte: no byte of the hello is taken for the header's, or lost."""
    origin.otherwise(lambda request: Reply(200, [], (request.get("X-Forwarded-For") or "").encode()))
    settings = over_tls(authority, trusted_proxies="127.0.0.1", proxy_protocol="on")
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 443\r\n"
    async with running_pop(origin, **settings) as pop:
        reader, writer = await asyncio.open_connection("127.0.0.1", pop.tls_port)
        for byte in header:
            writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        async with asyncio.timeout(TIMEOUT):
            await writer.start_tls(authority.trusting(), server_hostname=SITE)
        assert (await TlsClient(reader, writer).ask("/", SITE)).body == b"192.0.2.7"
        writer.close()


async def test_whom_to_believe_may_change_under_a_listener(origin: OriginDouble, authority: Authority) -> None:
    """After a reload, the PROXY header is read of those that are trusted now, and of nobody else."""
    origin.otherwise(lambda request: Reply(200, [], (request.get("X-Forwarded-For") or "").encode()))
    settings = over_tls(authority, trusted_proxies="10.0.0.0/8", proxy_protocol="on")
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 443\r\n"
    async with running_pop(origin, **settings) as pop:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with secured(pop.tls_port, authority.trusting(), before=header):
                pass
        changed = {**settings, "trusted_proxies": "127.0.0.1"}
        await pop.worker.reload(load(environment(origin.url, changed.items())))
        async with secured(pop.tls_port, authority.trusting(), before=header) as client:
            assert (await client.ask("/", SITE)).body == b"192.0.2.7"


async def test_a_drain_finishes_handshakes_and_answers(origin: OriginDouble, authority: Authority) -> None:
    """Who waits in the queue, or is in the middle of the handshake, is still answered, with Connection: close."""
    origin.otherwise(origin.versioned)
    async with running_pop(origin, **over_tls(authority, drain_grace="5s")) as pop:
        async with secured(pop.tls_port, authority.trusting()) as client:
            reader, writer = await asyncio.open_connection("127.0.0.1", pop.tls_port)
            await until(lambda: pop.worker.admission.count == 2)
            drained = asyncio.ensure_future(pop.worker.drain())  # noqa: TID251 (the test holds it)
            await asyncio.sleep(0)
            answer = await client.ask("/", SITE)
            assert (answer.status, answer.get("Connection")) == (200, "close")
            await writer.start_tls(authority.trusting(), server_hostname=SITE)
            late = await TlsClient(reader, writer).ask("/", SITE)
            assert (late.status, late.get("Connection")) == (200, "close")
            writer.close()
        await drained


@pytest.mark.parametrize("name", [b"\xff" * 9, b"\0" * 9, b"a\nb\x1b[31m", b"a\t\nGET /", b"a b  c  d", b"a/b:c@d?e"])
async def test_a_server_name_that_is_none(
    origin: OriginDouble, authority: Authority, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handshake ends, it is counted, and no traceback fills the log."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    logged: list[object] = []
    hush_names(logged.append)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = authority.trusting().wrap_bio(incoming, outgoing, server_hostname="x" * 9)
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    async with running_pop(origin, **over_tls(authority)) as pop:
        reader, writer = await asyncio.open_connection("127.0.0.1", pop.tls_port)
        writer.write(outgoing.read().replace(b"x" * 9, name[:9].ljust(9, b"x")))
        async with asyncio.timeout(TIMEOUT):
            assert not (await reader.read()).startswith(b"\x16")  # no hello in return, at most an alert
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        await until(lambda: failures(pop, "other") == 1)
        assert pop.worker.admission.count == 0
    assert logged == []


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "2130706433"])
def test_an_address_is_no_server_name(authority: Authority, name: str) -> None:
    """RFC 6066 §3: who sends one as SNI all the same is treated as if it had named none."""
    tls = ServerTls([described(KeyPair(*authority.issue(SITE).pair.split("|")))])
    secret = tls.public.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    assert isinstance(secret, ServerSide)
    tls._public._choose(secret, name, tls.public)
    assert secret.server_name == ""
    tls._public._choose(secret, SITE.upper() + ".", tls.public)
    assert secret.server_name == SITE


@pytest.mark.parametrize("length", [MOST_COPIED, MOST_COPIED + 1, WHOLE - 1, WHOLE, WHOLE + 1])
async def test_ranges_of_every_length_over_tls(origin: OriginDouble, authority: Authority, length: int) -> None:
    """Parts of a stored content are sealed as they are, copied or not."""
    content = bytes(range(256)) * 4 * 1024
    origin.on("/it", Reply(200, FRESH, content))
    async with running_pop(origin, **over_tls(authority)) as pop, secured(pop.tls_port, authority.trusting()) as client:
        assert (await client.ask("/it", SITE)).body == content
        for _ in range(3):
            part = await client.ask("/it", SITE, ("Range", f"bytes=1-{length}"))

            assert (part.status, part.body) == (206, content[1 : length + 1])
    assert len(origin.requests) == 1
