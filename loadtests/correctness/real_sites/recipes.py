"""A recipe of docs/sites.md before the software that it is for: its text, its visitors, and what they were given."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from loadtests import ROOT
from loadtests.correctness.real_sites.client import Answer
from loadtests.correctness.real_sites.processes import say
from loadtests.lab.processes import Missing, StartError

DOCS = ROOT / "docs" / "sites.md"
LEAST_HITS = 0.95  # of a second crawl by visitors
MOST_LINES = 20
DICE = random.Random(5)


def without_rule(text: str, name: str) -> str:
    """A recipe less one of its rules: what it was for must be found missing."""
    rule = re.compile(rf'^\[\[sites\.rules\]\]\nname = "{re.escape(name)}"\n.*?(?=^\[\[|\Z)', re.MULTILINE | re.DOTALL)
    less, found = rule.subn("", text)
    if found != 1:
        raise Missing(f"the recipe has no rule {name!r}")
    return less


def recipe(heading: str, origin: str) -> str:
    """The TOML under a heading, with the origin of the moment."""
    section = DOCS.read_text().partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    match = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert match is not None, f"{DOCS.name} has the recipe"
    return match[1].replace("http://10.0.0.7", origin)


def campaign(target: str) -> str:
    """`target` as an advertisement links to it."""
    given = {"utm_source": f"mail{DICE.getrandbits(16)}", "fbclid": f"{DICE.getrandbits(80):x}"}
    return f"{target}{'&' if '?' in target else '?'}{urlencode(given)}"


def statistics() -> str:
    """The cookies of a visitor."""
    return f"_ga=GA1.2.{DICE.getrandbits(30)}.{DICE.getrandbits(30)}; _gid=GA1.2.{DICE.getrandbits(30)}"


class Bound(NamedTuple):
    """The share of hits that a kind of requests must have."""

    least: float = 0.0
    most: float = 1.0

    def __str__(self) -> str:
        return "none" if self.most == 0 else f"≥ {self.least:.0%}" if self.least else "any"


SHARED, NEVER, ANY = Bound(least=LEAST_HITS), Bound(most=0.0), Bound()


class Figures:
    """What was asked by kind, what of that were hits, and wrong answers. Mutable state."""

    def __init__(self, bounds: Mapping[str, Bound]) -> None:
        self._bounds = bounds
        self._asked = dict.fromkeys(bounds, 0)
        self._hits = dict.fromkeys(bounds, 0)
        self.wrong: list[str] = []

    def note(self, kind: str, target: str, answer: Answer, problem: str = "") -> None:
        """Count an answer; `problem` is what is wrong with it."""
        problem = problem or answer.failure
        is_hit = "; hit" in (answer.field("cache-status") or "")
        self.count(kind, f"{target} (status {answer.status})", problem, is_hit=is_hit)

    def count(self, kind: str, what: str, problem: str = "", *, is_hit: bool = False) -> None:
        """Count something that was asked for; `problem` is what is wrong with it."""
        self._asked[kind] += 1
        self._hits[kind] += is_hit
        if problem:
            self.wrong.append(f"{kind}, {what}: {problem}")

    def _is_within(self, kind: str) -> bool:
        bound, asked = self._bounds[kind], self._asked[kind]
        return asked > 0 and bound.least <= self._hits[kind] / asked <= bound.most

    def print_table(self) -> int:
        """The table in Markdown; the exit code."""
        print("| requests | count | hits | bound | |\n| --- | --- | --- | --- | --- |")
        for kind, asked in self._asked.items():
            share = f"{self._hits[kind]} ({self._hits[kind] / max(1, asked):.1%})"
            print(f"| {kind} | {asked} | {share} | {self._bounds[kind]} | {_verdict(self._is_within(kind))} |")
        print(f"| wrong answers | {len(self.wrong)} | | none | {_verdict(not self.wrong)} |")
        for line in self.wrong[:MOST_LINES]:
            print(f"WRONG: {line}", file=sys.stderr)
        return int(bool(self.wrong) or not all(map(self._is_within, self._bounds)))


def _verdict(is_right: bool) -> str:
    return "ok" if is_right else "FAILED"


def told(run: Callable[[], int]) -> int:
    """The exit code of `run`; 2, and one sentence, where something that it needs is missing."""
    try:
        return run()
    except StartError as missing:
        say(str(missing))
        return 2
