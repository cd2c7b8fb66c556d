"""Each container stopped, killed and restarted in turn under load, and what clients saw of it."""

from __future__ import annotations

import hashlib
import http.client
import random
import re
import secrets
import threading
import time
from dataclasses import dataclass, field

from chain import EDGES, ORIGINS, Answer, Failed, ask, ask_on, connect, container, docker, is_well, wait_until

CLIENTS = 4  # for each edge
PAUSE = 0.02  # seconds between two requests of one client
BEFORE, DOWN, AFTER = 1.0, 3.0, 1.5  # seconds of load around a fault
PAGES = 30
ASSETS = (
    "/static/admin/css/base.css",
    "/static/admin/css/forms.css",
    "/static/admin/js/core.js",
    "/static/admin/img/icon-yes.svg",
)
ACTIONS = ("stop", "kill", "restart")


@dataclass
class Tally:
    """What the clients of one edge saw; each client adds to a tally of its own."""

    answers: int = 0
    moved: int = 0  # asked again at the other edge, because this one was gone
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    direct: int = 0  # answers that came to the edge without the shield

    def add(self, other: Tally) -> None:
        """Add what another client saw."""
        self.answers += other.answers
        self.moved += other.moved
        self.failures += other.failures
        self.slowest = max(self.slowest, other.slowest)
        self.direct += other.direct


class Site:
    """What the clients ask for, and what a right answer is: the origin's bytes, asked for beforehand."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}  # target: digest of the right body
        self.total = Tally()  # of all faults

    def learn(self) -> str:
        """Ask the origin for some of its pages and assets."""
        found = sorted(set(re.findall(r"/post/[a-z0-9-]+/", ask(ORIGINS[0], "/sitemap.xml").content.decode())))
        for target in (*ASSETS, *random.Random(7).sample(found, PAGES)):
            answer = ask(ORIGINS[0], target)
            if answer.status != 200:
                raise Failed(f"the origin answers {answer.status} for {target}")
            self.known[target] = _digest(answer)
        return f"{len(self.known)} pages and assets of the site, {CLIENTS} clients for each edge"

    def draw(self, chance: random.Random) -> str:
        """The next target: 7 in 10 known and cached, the others never asked for before, so that the origin must be."""
        known = chance.choice(tuple(self.known))
        return known if chance.random() < 0.7 else f"{known}?n={secrets.token_hex(8)}"

    def problem(self, target: str, answer: Answer) -> str:
        """What is wrong with an answer; empty if it is the origin's own."""
        if answer.status != 200:
            return f"{answer.status} for {target}: {answer.cache_status or answer.content[:80]!r}"
        right = self.known[target.partition("?")[0]]
        return "" if _digest(answer) == right else f"another body for {target}"


def _digest(answer: Answer) -> str:
    return hashlib.sha256(answer.content).hexdigest()


class Client(threading.Thread):
    """One client of one edge on a keep-alive connection; at `other`, if one is named, when its own edge is gone."""

    def __init__(self, site: Site, edge: str, other: str | None, seed: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.tally = Tally()
        self._site = site
        self.edge, self._other = edge, other
        self._chance = random.Random(seed)
        self._over = over
        self._began = 0.0

    def run(self) -> None:
        """Ask until it is over."""
        self._began = time.monotonic()
        connection = connect(self.edge)
        while not self._over.is_set():
            target = self._site.draw(self._chance)
            began = time.monotonic()
            try:
                self._judge(target, ask_on(connection, target))
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._move(target, error)
            self.tally.slowest = max(self.tally.slowest, time.monotonic() - began)
            self._over.wait(PAUSE)
        connection.close()

    def _judge(self, target: str, answer: Answer) -> None:
        self.tally.answers += 1
        self.tally.direct += "shield" not in answer.cache_status
        if problem := self._site.problem(target, answer):
            self._fail(problem)

    def _fail(self, words: str) -> None:
        self.tally.failures.append(f"{self.edge} after {time.monotonic() - self._began:.1f} s: {words}")

    def _move(self, target: str, error: Exception) -> None:
        """As a client does whose name has two addresses: ask at the next one."""
        if self._other is None:
            self._fail(f"no answer for {target}: {error or type(error).__name__}")
            return
        try:
            answer = ask(self._other, target)
        except (OSError, http.client.HTTPException) as again:
            self._fail(f"no answer at either edge for {target}: {again or type(again).__name__}")
            return
        self.tally.moved += 1
        self._judge(target, answer)


@dataclass(frozen=True)
class Outcome:
    """What one fault did: at the edges that it left alone, and to the clients of the one that it hit."""

    surviving: Tally
    hit: Tally
    back: float  # seconds from the start of the container until it was well


def fault(site: Site, service: str, action: str) -> Outcome:
    """Load on both edges while a container goes away and comes back."""
    over = threading.Event()
    clients = []
    for edge, another in zip(EDGES, reversed(EDGES), strict=True):
        other = another if edge == service else None
        clients += [Client(site, edge, other, seed, over) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        time.sleep(BEFORE)
        back = _disturb(service, action)
        time.sleep(AFTER)
    finally:
        over.set()
        for client in clients:
            client.join()
    surviving, hit = Tally(), Tally()
    for client in clients:
        (hit if client.edge == service else surviving).add(client.tally)
    return Outcome(surviving, hit, back)


def _disturb(service: str, action: str) -> float:
    """Do it, bring the container back, and wait until it is well; how long that took."""
    named = container(service)
    if action == "restart":
        docker("restart", named)
    else:
        docker(action, named)
        time.sleep(DOWN)
        docker("start", named)
    return wait_until(lambda: is_well(service), f"{service} does not come back after {action}")


def faulted(site: Site, service: str, action: str) -> str:
    """What happened, in words; Failed if a client was failed."""
    outcome = fault(site, service, action)
    survivors, hit = outcome.surviving, outcome.hit
    site.total.add(survivors)
    site.total.add(hit)
    failures = survivors.failures + hit.failures
    words = f"{survivors.answers} answers, {len(survivors.failures)} failed, slowest {survivors.slowest * 1000:.0f} ms"
    if service == "shield":
        words += f", {survivors.direct} past the shield"
    if service in EDGES:
        words += f"; its own {hit.answers}: {hit.moved} moved to the other edge, {len(hit.failures)} failed"
    words += f"; back in {outcome.back:.1f} s"
    if failures or not survivors.answers:
        raise Failed(f"{words}: {(failures or ['nothing was asked'])[0]}")
    return words


def failover(site: Site) -> str:
    """With the shield gone the edges go to the origins, and back to it when it is there again."""
    named = container("shield")
    docker("stop", named)
    try:
        words = [_fresh(site, edge) for edge in EDGES]
        if any("shield" in one for one in words):
            raise Failed(f"the shield is stopped, and answers: {words}")
    finally:
        docker("start", named)
    took = wait_until(lambda: all("shield" in _fresh(site, edge) for edge in EDGES), "the shield is not asked again")
    return f"{words[0]}; asked again {took:.1f} s after its start"


def warm(site: Site) -> str:
    """An edge that comes back has what its region has: nobody upstream is asked again."""
    known = list(site.known)
    for _ in range(2):  # a Valkey was restarted before: everything older is validated once, tier by tier
        for target in known:
            ask("edge-eu", target)
        time.sleep(1)
    docker("restart", container("edge-eu"))
    wait_until(lambda: is_well("edge-eu"), "edge-eu does not come back")
    found = [ask("edge-eu", target).cache_status for target in known]
    regional = sum("eu/regional; hit" in one for one in found)
    if regional < len(known) * 0.9:
        raise Failed(f"{regional} of {len(known)} pages from the regional tier, such as {found[0]}")
    return f"{regional} of {len(known)} pages from the regional tier after a restart"


def _fresh(site: Site, edge: str) -> str:
    """Cache-Status of a page that nobody has asked for before."""
    target = f"{ASSETS[0]}?n={secrets.token_hex(8)}"
    answer = ask(edge, target)
    if problem := site.problem(target, answer):
        raise Failed(f"{edge}: {problem}")
    return answer.cache_status
