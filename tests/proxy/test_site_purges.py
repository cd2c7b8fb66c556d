"""Purge tokens of sites: what each may purge, and what it may not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness.clock import FakeClock
from harness.origin import Reply, running_origin
from harness.pop import environment, running_pop

from edgecache.config.settings import load
from edgecache.config.sites.parser import SitesError, written
from edgecache.invalidation import scopes
from edgecache.invalidation.ledger import visible_to
from edgecache.invalidation.purge_auth import PurgeRefused, callers_of
from edgecache.invalidation.purge_request import purge_of_json

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
    """Tags and everything are those of listed hosts; where a wildcard covers more, they are refused."""
    callers = {one.name: one for one in callers_of(load({"EDGECACHE_SITES": sites(tmp_path)}))}
    a, b, rest = callers["a/cms"], callers["b/cms"], callers["rest/cms"]

    assert purge_of_json({"tags": ["x"]}, a).scopes == (scopes.site_tag(b"a.test", b"x"),)
    assert purge_of_json({"hosts": ["z.a.test"]}, b).scopes == (scopes.site(b"z.a.test"),)
    for caller, value in (
        (a, {"everything": True}),
        (rest, {"everything": True}),
        (b, {"tags": ["x"]}),
        (rest, {"tags": ["x"]}),
        (rest, {"prefixes": ["a.test/x"]}),
        (b, {"urls": ["http://a.test/x"]}),
    ):
        with pytest.raises(PurgeRefused) as refusal:
            purge_of_json(value, caller)
        assert refusal.value.status == 403
    everything, of_a = scopes.EVERYTHING, scopes.site(b"a.test")
    assert visible_to(rest, (everything, of_a, scopes.tag(b"x"))) == ()
    assert visible_to(a, (everything, of_a)) == (of_a,)
    assert not any(secret in repr(callers) for secret in SECRETS.values())


def test_one_token_for_two_sites_is_refused(tmp_path: Path) -> None:
    """It could not be known which is meant."""
    text = sites(tmp_path)
    (tmp_path / "b").write_text(SECRETS["a"])
    with pytest.raises(SitesError, match=r"line 10: sites\[2\].purge_tokens.cms: is the token of a/cms, too"):
        written(text)
