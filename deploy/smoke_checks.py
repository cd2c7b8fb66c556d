"""What the chain has to show while everything is up: hits, tiers, private pages, geography, writes, purges."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from functools import partial
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from chain import (
    EDGES,
    ORIGINS,
    POPS,
    SERVICES,
    Answer,
    Failed,
    administer,
    ask,
    container,
    docker,
    environment,
    inspect,
    is_there,
    is_well,
    wait_until,
)

TURNS = 40  # requests until every worker of a POP has seen a page
GERMANY, STATES = "198.51.100.7", "203.0.113.7"  # EDGECACHE_GEO_OVERRIDES
CSRF = re.compile(rb'name="csrfmiddlewaretoken" value="([^"]+)"')
HIT = re.compile(r"; hit(;|,|$)")  # a member of Cache-Status; a pass may bear detail=hit-for-miss
SECRET = re.compile(rb"secret ([0-9a-f]{64})")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def expect(true: bool, words: str) -> None:
    """Raise Failed if it is not so."""
    if not true:
        raise Failed(words)


def get(service: str, target: str, **fields: str) -> Answer:
    """A GET that has to be answered with 200."""
    answer = ask(service, target, fields=fields)
    expect(answer.status == 200, f"{service} {target}: status {answer.status}")
    return answer


def all_well() -> str:
    """Every container runs and is healthy."""
    waited = [wait_until(lambda service=service: is_well(service), f"{service} is not well") for service in SERVICES]
    return f"{len(SERVICES)} containers, waited {sum(waited):.1f} s"


def hardened() -> str:
    """No container runs as root, writes to its own file system, holds a capability or is open to the network."""
    for service in SERVICES:
        found = inspect(service)
        host, user = found["HostConfig"], found["Config"]["User"]
        expect(user.split(":")[0] not in ("", "0", "root"), f"{service} runs as {user or 'root'}")
        expect(host["ReadonlyRootfs"], f"{service} can write to its file system")
        expect(host["CapDrop"] == ["ALL"] and not host["Privileged"], f"{service} keeps capabilities")
        expect("no-new-privileges:true" in host["SecurityOpt"], f"{service} can gain privileges")
        expect(host["Memory"] > 0, f"{service} has no memory limit")
        ports = [bound for bindings in (host["PortBindings"] or {}).values() for bound in bindings]
        expect(all(bound["HostIp"] == "127.0.0.1" for bound in ports), f"{service} is published beyond 127.0.0.1")
    return "not root, read-only, no capabilities, limited, on 127.0.0.1"


def hit() -> str:
    """A page comes through every tier once, and then out of the edge's own memory."""
    page = f"/post/csv/?hit={secrets.token_hex(8)}"
    first = get("edge-eu", page).cache_status
    expect(bool(re.match(r"shield; fwd=uri-miss.*, edge-eu; fwd=uri-miss.*stored", first)), f"first: {first}")
    seen = [get("edge-eu", page).cache_status for _ in range(TURNS)]
    last = seen[-1].rpartition(", ")[2]
    expect(last.startswith("edge-eu; hit"), f"last: {seen[-1]}")
    regional = sum("eu/regional; hit" in one for one in seen)
    return f"{first} → {last.partition('; ttl')[0]} ({regional} from the regional tier)"


def tiers() -> str:
    """What one region has fetched, the shield has for the other; the bytes are the origin's."""
    page = f"/post/csv/?tiers={secrets.token_hex(8)}"
    answers = [get("edge-eu", page), get("edge-us", page), get("origin-eu", page), get("origin-us", page)]
    digests = {hashlib.sha256(answer.content).hexdigest() for answer in answers}
    expect(len(digests) == 1, "the edges and the origins disagree on the page")
    second = answers[1].cache_status
    from_shield = re.match(r"shield(/regional)?; hit.*edge-us; fwd=", second)
    expect(from_shield is not None, f"edge-us: {second}")
    return f"edge-us: {second}"


def private() -> str:
    """Two users log in, one in each region: each sees their own page, a stranger none, and nothing of it is kept."""
    found = {}
    for edge, name in zip(EDGES, ("alice", "bob"), strict=True):
        cookies = log_in(edge, name)
        for _ in range(3):
            page = get(edge, "/account/", Cookie=cookies)
            expect(HIT.search(page.cache_status) is None, f"a private page came from a cache: {page.cache_status}")
            secret = SECRET.search(page.content)
            expect(secret is not None, "the page of a user does not show their secret")
            assert secret is not None
            found.setdefault(name, set()).add(secret[1])
        stranger = ask(edge, "/account/")
        expect(stranger.status == 302, f"a stranger gets {stranger.status} for a private page")
    expect(len(found["alice"]) == len(found["bob"]) == 1 and found["alice"] != found["bob"], "users saw other users")
    return "two users, their own pages only"


def log_in(edge: str, name: str) -> str:
    """The cookies of a user who has logged in through an edge."""
    jar: SimpleCookie = SimpleCookie()
    form = ask(edge, "/login/")
    _take_cookies(jar, form)
    token = CSRF.search(form.content)
    expect(token is not None, "the login page has no form")
    assert token is not None
    given = {"csrfmiddlewaretoken": token[1].decode(), "username": name, "password": environment()["BLOG_PASSWORD"]}
    done = ask(edge, "/login/", "POST", urlencode(given), {**FORM, "Cookie": _cookies(jar)})
    _take_cookies(jar, done)
    expect(done.status == 302 and "sessionid" in jar, f"the login of {name} is answered with {done.status}")
    return _cookies(jar)


def _take_cookies(jar: SimpleCookie, answer: Answer) -> None:
    for line in answer.values("set-cookie"):
        jar.load(line)


def _cookies(jar: SimpleCookie) -> str:
    return "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items())


def geography() -> str:
    """A client's country chooses the origin and the stored variant, behind proxies that are trusted."""
    page = f"/here/?geography={secrets.token_hex(8)}"
    shown = []
    for edge in EDGES:
        for address, country, origin in ((GERMANY, "DE", "origin-eu"), (STATES, "US", "origin-us")):
            for _ in range(4):
                place = get(edge, page, Forwarded=f"for={address}").json()
                expect((place["country"], place["origin"]) == (country, origin), f"{address} at {edge}: {place}")
            shown.append(f"{edge} {country}→{origin}")
    return ", ".join(shown)


def write_through() -> str:
    """Who writes through one edge reads what they wrote there, and the other region shows it too."""
    cookies = log_in("edge-eu", "alice")
    page, words = "/post/json/comments/", f"smoke {secrets.token_hex(8)}"
    for edge in EDGES:
        for _ in range(TURNS // 2):
            get(edge, page)
    jar = SimpleCookie(cookies)
    given = {"csrfmiddlewaretoken": jar["csrftoken"].value, "text": words}
    done = ask("edge-eu", page, "POST", urlencode(given), {**FORM, "Cookie": cookies})
    expect(done.status == 302, f"the write is answered with {done.status}")
    for _ in range(TURNS):
        expect(words.encode() in get("edge-eu", page).content, "an old page after a write, at the same edge")
    took = _until_all_show("edge-us", page, words)
    return f"at edge-eu at once, at edge-us after {took * 1000:.0f} ms"


def _until_all_show(edge: str, page: str, words: str) -> float:
    """Seconds until every one of many answers in a row shows the words."""

    def shown() -> bool:
        return all(words.encode() in get(edge, page).content for _ in range(TURNS // 2))

    return wait_until(shown, f"{edge} still shows an old {page}", 15.0)


def purge() -> str:
    """An editor changes a post at the origin; one call with its tag at one edge, and no region shows the old one."""
    return _purge({"tags": ["post-json"]}, "edge-eu")


def purge_elsewhere() -> str:
    """The same from the other region, with the URL."""
    return _purge({"urls": ["http://blog.test/api/posts/json"]}, "edge-us")


def _purge(what: dict[str, list[str]], where: str) -> str:
    page, words = "/api/posts/json", f"smoke {secrets.token_hex(8)}"
    for edge in EDGES:
        for _ in range(TURNS):
            before = get(edge, page)
    change(words)
    for edge in EDGES:
        expect(words not in before.content.decode(), "the new text before the change")
        expect(words.encode() not in get(edge, page).content, f"{edge} did not answer from its cache")
    done = administer(where, "/purges?wait=all", "POST", what)
    expect(done.status == 201, f"the purge is answered with {done.status} {done.content[:200].decode()}")
    for edge in EDGES:
        for _ in range(TURNS):
            expect(words.encode() in get(edge, page).content, f"{edge} shows the old text after the purge")
    return f"{what} at {where}: {len(EDGES) * TURNS} answers, all new"


def change(words: str) -> None:
    """Change a post at an origin, behind the back of every POP."""
    fields = {"Authorization": f"Bearer {environment()['EDITOR_TOKEN']}", "Content-Type": "application/json"}
    done = ask(ORIGINS[0], "/api/posts/json", "PUT", f'{{"text": "{words}"}}', fields)
    expect(done.status == 200, f"the origin answers an editor with {done.status}")


def metrics() -> str:
    """Each POP counts what it answered; Prometheus, where it runs, reaches all three."""
    for service in POPS:
        answer = administer(service, "/metrics")
        expect(re.search(rb"^edgecache_requests_total\{[^}]*\} [1-9]", answer.content, re.M) is not None, service)
        expect(administer(service, "/metrics", token="").status == 401, f"{service} shows its metrics to anybody")
    if not is_there("prometheus"):
        return f"{len(POPS)} POPs; no Prometheus runs (make deploy-up OBSERVE=1)"
    wait_until(lambda: scraped() == set(POPS), "Prometheus does not reach every POP")
    return f"{len(POPS)} POPs, scraped by Prometheus"


def scraped() -> set[str]:
    """The POPs that Prometheus reaches."""
    found = ask("prometheus", "/api/v1/query?query=up%7Bjob%3D%22edgecache%22%7D%3D%3D1").json()["data"]["result"]
    return {one["metric"]["instance"].partition(":")[0] for one in found}


def purged_while_away(service: str) -> str:
    """A purge that edge-us cannot hear of, because a container is stopped, is heard of when that is back."""
    page, words = "/api/posts/json", f"smoke {secrets.token_hex(8)}"
    for edge in EDGES * TURNS:
        get(edge, page)
    named = container(service)
    docker("stop", named)
    try:
        change(words)
        done = administer("edge-eu", "/purges", "POST", {"tags": ["post-json"]})
        expect(done.status == 201, f"the purge is answered with {done.status} {done.content[:200].decode()}")
    finally:
        docker("start", named)
    wait_until(lambda: is_well(service), f"{service} does not come back")
    took = _until_all_show("edge-us", page, words)
    return f"every answer is new {took:.1f} s after {service} is well again"


CHECKS: dict[str, Callable[[], str]] = {
    "hardened": hardened,
    "hit": hit,
    "tiers": tiers,
    "private pages": private,
    "geography": geography,
    "metrics": metrics,
    "write-through": write_through,
    "purge by tag": purge,
    "purge by URL": purge_elsewhere,
    "purge, POP away": partial(purged_while_away, "edge-us"),
    "purge, log away": partial(purged_while_away, "valkey-us"),
}
