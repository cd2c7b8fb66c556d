"""Certificates of sites: chosen by the name in the SNI, beside those of the listeners; renewed, checked, told."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from harness.certificates import Authority, Files
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, environment, running_pop
from harness.tls_client import secured

from edgecache.config.settings import load
from edgecache.config.sources import Source
from edgecache.semantics.errors import ConfigError
from edgecache.server.config_reload import Configuration, ended
from edgecache.telemetry.metrics import Registry

LISTEN = "127.0.0.1:0"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Signs all certificates of these tests."""
    return Authority(tmp_path)


def site(name: str, files: Files | None, url: str = "http://x", host: str = "") -> str:
    """A site with this certificate."""
    listed = "" if files is None else f'[{{ certificate = "{files.certificate}", key = "{files.key}" }}]'
    more = f"certificates = {listed}\n" if listed else ""
    return f'[[sites]]\nname = "{name}"\nhosts = ["{host or name + ".test"}"]\norigin = "{url}"\n{more}'


async def name_shown(pop: Pop, authority: Authority, name: str) -> set[str]:
    """The DNS names of the certificate that a client gets that asks for `name`."""
    context = authority.trusting()
    context.check_hostname = False
    async with secured(pop.tls_port, context, name) as client:
        return {value for kind, value in client.info("peercert")["subjectAltName"] if kind == "DNS"}


async def test_each_site_has_its_certificate(origin: OriginDouble, authority: Authority) -> None:
    """Those of the listeners come first; two sites with different certificates and origins."""
    text = site("a", authority.issue("a.test"), origin.url) + site("b", authority.issue("b.test"), origin.url)
    default = authority.issue("default.test")
    origin.otherwise(Reply(body=b"x"))
    async with running_pop(origin, tls_listen=LISTEN, tls_certificates=default.pair, sites=text) as pop:
        for name, shown in (("a.test", "a.test"), ("b.test", "b.test"), ("c.test", "default.test")):
            assert await name_shown(pop, authority, name) == {shown}
        async with secured(pop.tls_port, authority.trusting(), "a.test") as client:
            assert (await client.ask("/", "a.test")).status == 200
            assert (await client.ask("/", "b.test")).status == 421  # RFC 9110 §7.4
            assert (await client.ask("/", "a.test")).status == 200
    async with running_pop(origin, tls_listen=LISTEN, sites=text) as pop:  # the first is the default
        assert await name_shown(pop, authority, "c.test") == {"a.test"}


async def test_a_reload_renews_a_certificate_of_a_site(origin: OriginDouble, authority: Authority) -> None:
    """New handshakes get the new one; connections go on."""
    files = authority.issue("a.test")
    text = site("a", files, origin.url)
    origin.otherwise(Reply(body=b"x"))
    async with AsyncExitStack() as stack:
        pop = await stack.enter_async_context(running_pop(origin, tls_listen=LISTEN, sites=text))
        before = await stack.enter_async_context(secured(pop.tls_port, authority.trusting(), "a.test"))
        assert (await before.ask("/", "a.test")).status == 200
        files.replace_with(authority.issue("a.test", "www.a.test"))
        settings = {"tls_listen": LISTEN, "sites": text}
        await pop.worker.reload(load(environment(origin.url, settings.items())))
        assert await name_shown(pop, authority, "a.test") == {"a.test", "www.a.test"}
        assert (await before.ask("/2", "a.test")).status == 200


def test_workers_get_the_certificates_that_were_checked(authority: Authority, tmp_path: Path) -> None:
    """Copies, in the order of the listeners' and the sites'; a changed file is a change of the sites."""
    files = authority.issue("a.test")
    text = tmp_path / "sites.toml"
    text.write_text(site("a", files))
    default = authority.issue("default.test")
    settings = {"tls_listen": LISTEN, "tls_certificates": default.pair, "sites": text}
    environ = environment("http://x", settings.items())
    loaded = load(environ)
    assert [one.names for one in loaded.certificates] == [("default.test",), ("a.test",)]
    configuration = Configuration(Source(environ, ""), loaded, Registry())
    first = configuration.environ
    files.replace_with(authority.issue("a.test", "new.a.test"))
    change = configuration.read_again()
    assert "EDGECACHE_SITES" in change.live
    for told, names in ((first, ("a.test",)), (configuration.environ, ("a.test", "new.a.test"))):
        assert names in [one.names for one in load(told).certificates]


def test_a_reload_to_an_expired_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    """The last good one stays."""
    files, text = authority.issue("a.test"), tmp_path / "sites.toml"
    text.write_text(site("a", files))
    environ = environment("http://x", {"tls_listen": LISTEN, "sites": text}.items())
    configuration = Configuration(Source(environ, ""), load(environ), Registry())
    files.replace_with(authority.issue("a.test", days=-1))
    with pytest.raises(ConfigError, match="has expired"):
        configuration.read_again()


def test_an_expired_certificate_of_a_site_is_told(authority: Authority) -> None:
    """At start, as a warning."""
    old = authority.issue("a.test", days=-1)
    settings = load(environment("http://x", {"tls_listen": LISTEN, "sites": site("a", old)}.items()))
    assert ended(settings) == [str(old.certificate)]


def test_what_is_refused(authority: Authority) -> None:
    """In a sentence with its place."""
    good = authority.issue("a.test")
    other = authority.issue("a.test")
    mixed = Files(good.certificate, other.key)
    absent = Files(Path("/nowhere.crt"), Path("/nowhere.key"))
    for written, listen, words in (
        (site("a", mixed), LISTEN, r"sites\[1\]\.certificates\[1\]: names .* is not the key of"),
        (site("a", absent), LISTEN, "/nowhere.crt, which cannot be read"),
        (site("b", good), LISTEN, "is for a.test, which is not a host of the site"),
        (site("a", good), "", "EDGECACHE_TLS_LISTEN is not set"),
    ):
        with pytest.raises(ConfigError, match=words):
            load(environment("http://x", {"tls_listen": listen, "sites": written}.items()))
    for host in ("*", "*.test", "a.test"):
        load(environment("http://x", {"tls_listen": LISTEN, "sites": site("a", good, host=host)}.items()))
    wide = authority.issue("*.a.test")
    load(environment("http://x", {"tls_listen": LISTEN, "sites": site("a", wide, host="www.a.test")}.items()))
