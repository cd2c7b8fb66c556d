"""Purge tokens of sites: what each may purge, and what it may not."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from harness.clock import FakeClock
from harness.often import examples
from harness.origin import Reply, running_origin
from harness.pop import Pop, environment, running_pop
from harness.tiers import pops
from harness.valkey import running_valkey
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config.settings import load
from edgecache.config.sites.parser import SitesError, written
from edgecache.invalidation import scopes
from edgecache.invalidation.ledger import visible_to
from edgecache.invalidation.purge_auth import PurgeRefused, callers_of
from edgecache.invalidation.purge_request import purge_of_json
from edgecache.semantics.cache_tags import MARK, MOST_TAGS, TooManyTags, between_pops, tags_of
from edgecache.semantics.message import Fields

SECRETS = {"a": "secret-of-a-0123456789", "b": "secret-of-b-0123456789", "rest": "secret-of-rest-0123456789"}
HOSTS = {"a": '"a.test"', "b": '"b.test", "*.a.test"', "rest": '"*"'}


def sites(tmp_path: Path, origin: str = "http://192.0.2.1") -> str:
    """Three sites, each with a token of its own: one of a name, one of a name and a wildcard, one of all others."""
    text = ""
    for name, secret in SECRETS.items():
        (tmp_path / name).write_text(secret + "\n")
        text += f'[[sites]]\nname = "{name}"\nhosts = [{HOSTS[name]}]\norigin = "{origin}"\n'
        text += f'purge_tokens = {{ cms = "{tmp_path / name}" }}\n'
    return text


async def test_a_token_purges_its_site_alone(tmp_path: Path) -> None:
    """By PURGE: its names, and hosts that fall to its wildcards; all other hosts are refused, and stay stored."""
    clock = FakeClock()
    async with running_origin(clock) as origin:
        origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=b"1"))
        async with running_pop(origin, clock, sites=sites(tmp_path, origin.url)) as pop:
            for host, owner in (("a.test", "a"), ("b.test", "b"), ("x.a.test", "b"), ("y.test", "rest")):
                for caller, secret in SECRETS.items():
                    await pop.get("/p", ("Host", host))
                    async with pop.client() as client:
                        await client.request("PURGE", "/p", [("Host", host), ("Authorization", f"Bearer {secret}")])
                        answer = await client.response()
                    assert answer.status == (200 if caller == owner else 403), (host, caller)
                    hit = "; hit" in ((await pop.get("/p", ("Host", host))).get("cache-status") or "")
                    assert hit is (caller != owner), (host, caller)


async def test_tokens_are_those_of_the_last_reload(tmp_path: Path) -> None:
    """One that was taken away purges nothing any more."""
    clock = FakeClock()
    async with running_origin(clock) as origin:
        text = sites(tmp_path, origin.url)
        async with running_pop(origin, clock, sites=text) as pop:
            for more, status in ((text, 200), (re.sub("purge_tokens.*\n", "", text), 405)):
                await pop.worker.reload(load(environment(origin.url, {"sites": more}.items())))
                async with pop.client() as client:
                    fields = [("Host", "a.test"), ("Authorization", f"Bearer {SECRETS['a']}")]
                    await client.request("PURGE", "/p", fields)
                    assert (await client.response()).status == status


def test_what_the_api_takes_of_a_token(tmp_path: Path) -> None:
    """Tags are those of its hosts and wildcards; everything, and other sites, are refused."""
    callers = {one.name: one for one in callers_of(load({"EDGECACHE_SITES": sites(tmp_path)}))}
    a, b, rest = callers["a/cms"], callers["b/cms"], callers["rest/cms"]

    assert purge_of_json({"tags": ["x"]}, a).scopes == (scopes.site_tag(b"a.test", b"x"),)
    assert purge_of_json({"hosts": ["z.a.test"]}, b).scopes == (scopes.site(b"z.a.test"),)
    of_b = (scopes.site_tag(b"b.test", b"x"), scopes.site_tag(b"*.a.test", b"x"))
    assert purge_of_json({"tags": ["x"]}, b).scopes == of_b
    assert purge_of_json({"tags": ["x"]}, rest).scopes == (scopes.site_tag(b"*", b"x"),)
    for caller, value, status in (
        (a, {"everything": True}, 403),
        (rest, {"everything": True}, 403),
        (rest, {"prefixes": ["a.test/x"]}, 403),
        (b, {"urls": ["http://a.test/x"]}, 403),
        (b, {"hosts": ["*.a.test"]}, 400),
        (b, {"hosts": ["*"]}, 400),
        (b, {"prefixes": ["*.a.test/x"]}, 400),
        (b, {"urls": ["http://*.a.test/x"]}, 400),
    ):
        with pytest.raises(PurgeRefused) as refusal:
            purge_of_json(value, caller)
        assert refusal.value.status == status, (caller, value)
    everything, of_a = scopes.EVERYTHING, scopes.site(b"a.test")
    assert visible_to(rest, (everything, of_a, scopes.tag(b"x"))) == ()
    assert visible_to(a, (everything, of_a)) == (of_a,)
    assert [visible_to(one, of_b) for one in (a, b, rest)] == [(), of_b, ()]
    assert not any(secret in repr(callers) for secret in SECRETS.values())


HOST_POOL = ("a.test", "b.test", "x.a.test", "y.x.a.test", "z.y.x.a.test", "c.test", "x.c.test", "d.test:8080")
WILDCARDS = ("*.a.test", "*.x.a.test", "*.c.test", "*.test", "*")


@examples(25)
@given(st.data())
def test_tags_of_a_site_are_purged_and_never_those_of_another(data: st.DataObject) -> None:
    """Over random owners of hosts and wildcards: a purge by a tag reaches exactly the responses of the token's site."""
    names = data.draw(st.lists(st.sampled_from((*HOST_POOL[:-1], *WILDCARDS)), min_size=3, unique=True))
    owners = {host: data.draw(st.integers(0, 2)) for host in names}
    soft = data.draw(st.booleans())
    with TemporaryDirectory() as directory:
        asyncio.run(_purge_by_each_token(Path(directory), owners, soft=soft))


async def _purge_by_each_token(directory: Path, owners: dict[str, int], *, soft: bool) -> None:
    """Store a response of each host with two tags, purge one of the tags by each token, and look at all of them."""
    clock = FakeClock()
    async with running_origin(clock) as origin:
        fields = [("Cache-Control", "max-age=60"), ("Cache-Tag", "wanted, other"), ("ETag", '"1"')]
        origin.otherwise(Reply(fields=fields, body=b"1"))
        text = ""
        for number in sorted(set(owners.values())):
            secret = directory / f"s{number}"
            secret.write_text(f"the-secret-of-site-{number}")
            hosts = [host for host, owner in owners.items() if owner == number]
            text += f'[[sites]]\nname = "s{number}"\nhosts = {hosts!r}\norigin = "{origin.url}"\n'
            text += f'purge_tokens = {{ cms = "{secret}" }}\n'
        async with running_pop(origin, clock, sites=text) as pop:
            served = [host for host in HOST_POOL if (await pop.get("/p", ("Host", host))).status == 200]
            for number in sorted(set(owners.values())):
                owned = [host for host in (*HOST_POOL, "q.test") if owner_is(pop, host, number)]
                if not owned:
                    continue
                assert {await state(pop, host) for host in served} == {"hit"}
                purging = [("Authorization", f"Bearer the-secret-of-site-{number}"), ("Surrogate-Key", "wanted")]
                purging += [("Fastly-Soft-Purge", "1")] if soft else []
                answer = await pop.request("PURGE", "/", ("Host", owned[0]), *purging)
                assert answer.status == 200, answer.body
                for host in served:
                    expected = "gone" if host in owned else "hit"
                    assert await state(pop, host) == expected, (host, number, owners)


def owner_is(pop: Pop, host: str, number: int) -> bool:
    """Whether that site has this host."""
    site = pop.worker._sites.site_of(host.encode())
    return site is not None and site.name == f"s{number}"


async def state(pop: Pop, host: str) -> str:
    """`hit`, or `gone`; what was gone is stored again."""
    answer = await pop.get("/p", ("Host", host))
    return "hit" if "; hit" in (answer.get("cache-status") or "") else "gone"


async def test_all_of_a_site_with_a_wildcard_is_purged(tmp_path: Path) -> None:
    """Its names, and all hosts that fall to its wildcards; a path of hosts that have no names is refused."""
    clock = FakeClock()
    async with running_origin(clock) as origin:
        origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=b"1"))
        async with running_pop(origin, clock, sites=sites(tmp_path, origin.url)) as pop:
            for host in ("a.test", "b.test", "x.a.test", "y.test"):
                await pop.get("/p", ("Host", host))
            bearer = ("Authorization", f"Bearer {SECRETS['b']}")
            assert (await pop.request("BAN", "/", ("Host", "b.test"), bearer, ("X-Host", ".*"))).status == 200
            found = {host: await state(pop, host) for host in ("a.test", "b.test", "x.a.test", "y.test")}
            assert found == {"a.test": "hit", "b.test": "gone", "x.a.test": "gone", "y.test": "hit"}
            assert (await pop.request("BAN", "/", ("Host", "b.test"), bearer, ("X-Url", "^/p/"))).status == 403


def test_a_mark_is_not_counted_among_the_tags_of_a_response() -> None:
    """It is a tag that no origin can send."""
    told = Fields([(b"Edgecache-Tags", between_pops([*(b"%d" % n for n in range(MOST_TAGS)), MARK + b"*.a.test"]))])
    assert tags_of(told)[-1] == MARK + b"*.a.test"
    with pytest.raises(TooManyTags):
        tags_of(Fields([(b"Edgecache-Tags", between_pops([b"%d" % n for n in range(MOST_TAGS + 1)]))]))


def test_one_token_for_two_sites_is_refused(tmp_path: Path) -> None:
    """It could not be known which is meant."""
    text = sites(tmp_path)
    (tmp_path / "b").write_text(SECRETS["a"])
    with pytest.raises(SitesError, match=r"line 10: sites\[2\].purge_tokens.cms: is the token of a/cms, too"):
        written(text)


async def test_a_wildcard_is_purged_through_the_regional_tier(tmp_path: Path) -> None:
    """Two POPs of a region: what one has stored, and the other has read, is purged by a tag in both and in between."""
    with running_valkey() as valkey:
        async with running_origin(FakeClock()) as origin:
            origin.otherwise(Reply(fields=[("Cache-Control", "max-age=600"), ("Cache-Tag", "x")], body=b"1"))
            async with pops(origin, "regional", valkey.url, sites=sites(tmp_path, origin.url)) as (one, two):
                for host in ("x.a.test", "y.test"):
                    await one.get("/p", ("Host", host))
                    await one.written()
                    await two.get("/p", ("Host", host))
                assert len(origin.requests) == 2
                bearer = ("Authorization", f"Bearer {SECRETS['b']}")
                answer = await two.request("PURGE", "/", ("Host", "b.test"), bearer, ("Surrogate-Key", "x"))
                assert answer.status == 200, answer.body
                assert [await state(pop, "y.test") for pop in (one, two)] == ["hit", "hit"]
                assert await state(one, "x.a.test") == "gone"
                assert len(origin.requests) == 3
                await one.written()
                assert (await two.get("/p", ("Host", "x.a.test"))).status == 200
                assert len(origin.requests) == 3  # of the region, which has it again


TWO_WILDCARDS = ('"*.test"', '"*.test", "*.a.test", "n.a.test"', '"*.a.test", "x.a.test"')  # of the site b, in turn


@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize("after", range(3))
@pytest.mark.parametrize("moved", ["in memory", "in the region"])
async def test_a_tag_is_purged_whatever_wildcard_its_responses_were_stored_under(
    tmp_path: Path, moved: str, before: int, after: int
) -> None:
    """The hosts of a site are those of its last reload; what another site stored since is not touched."""
    clock, texts = FakeClock(), []
    (tmp_path / "b").write_text(SECRETS["b"])
    async with running_origin(clock) as origin:
        origin.otherwise(Reply(fields=[("Cache-Control", "max-age=600"), ("Cache-Tag", "x")], body=b"1"))
        for hosts in (TWO_WILDCARDS[before], TWO_WILDCARDS[after]):
            text = f'[[sites]]\nname = "b"\nhosts = [{hosts}]\norigin = "{origin.url}"\n'
            text += f'purge_tokens = {{ cms = "{tmp_path / "b"}" }}\n'
            text += f'[[sites]]\nname = "rest"\nhosts = ["*"]\norigin = "{origin.url}"\n'
            texts.append(text)
        bearer = ("Authorization", f"Bearer {SECRETS['b']}")
        purging = (("Host", "x.a.test"), bearer, ("Surrogate-Key", "x"))
        if moved == "in memory":
            async with running_pop(origin, clock, sites=texts[0]) as pop:
                assert await state(pop, "x.a.test") == await state(pop, "y.rest") == "gone"
                await pop.worker.reload(load(environment(origin.url, {"sites": texts[1]}.items())))
                assert [await state(pop, host) for host in ("x.a.test", "y.rest")] == ["hit", "hit"]
                assert (await pop.request("PURGE", "/", *purging)).status == 200
                assert [await state(pop, host) for host in ("x.a.test", "y.rest")] == ["gone", "hit"]
            return
        with running_valkey() as valkey:
            async with running_pop(origin, clock, sites=texts[0], regional=valkey.url, regional_timeout="2s") as pop:
                await pop.caught_up()
                assert await state(pop, "x.a.test") == await state(pop, "y.rest") == "gone"
                await pop.written()
            async with running_pop(origin, clock, sites=texts[1], regional=valkey.url, regional_timeout="2s") as pop:
                await pop.caught_up()
                assert (await pop.request("PURGE", "/", *purging)).status == 200
                assert [await state(pop, host) for host in ("x.a.test", "y.rest")] == ["gone", "hit"]
