"""A visitor of the edges who verifies every answer, the base of all scenarios. Imports locust, which patches."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from random import choice, random
from typing import Any, Final
from urllib.parse import quote

from locust import FastHttpUser
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment

from loadtests.locust import tiers, verify
from loadtests.locust.floors import Floors
from loadtests.locust.report import BEGUN
from loadtests.locust.tally import Tally

HEADS: Final = ("content-length", "etag", "age")


class Load:
    """What the visitors of one process share."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.tally = Tally()
        self.floors = Floors()
        self.name = secrets.token_hex(3)  # of what only this process purges and writes

    @property
    def options(self) -> Any:
        """The command line, or what the web page says."""
        return self.environment.parsed_options

    @property
    def edges(self) -> list[str]:
        """The addresses of the edges."""
        return [edge for edge in self.options.edges.split(",") if edge]

    @property
    def admins(self) -> list[str]:
        """The addresses where they are administered."""
        return [admin for admin in self.options.admins.split(",") if admin]

    @property
    def place(self) -> tuple[int, int]:
        """Which of how many load generators this is."""
        runner = self.environment.runner
        processes = max(1, int(self.options.expect_workers or 1)) if hasattr(runner, "worker_index") else 1
        return getattr(runner, "worker_index", 0) % processes, processes

    def interval(self) -> float:
        """Seconds between two tasks of one visitor, so that all together keep to the rate; 0 is without a pause."""
        rate = float(self.options.rate)
        users = getattr(self.environment.runner, "target_user_count", 1)
        return users * self.place[1] / rate if rate > 0 else 0.0


class Visitor(FastHttpUser):
    """Asks any edge, verifies what comes, and tallies it by tier."""

    abstract = True
    host = "http://127.0.0.1"  # unused: each request names its edge
    network_timeout = 30.0
    connection_timeout = 10.0

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.load: Load = environment.load  # type: ignore[attr-defined]
        self._due = 0.0

    def wait_time(self) -> float:
        """Until the next task is due: the first at random, so that visitors do not come in step."""
        now, interval = time.monotonic(), self.load.interval()
        self._due = max(now, self._due + interval) if self._due else now + random() * interval
        return self._due - now

    def read(
        self, edge: str, target: str, least: int = 1, *, language: str = "en", more: Mapping[str, str] | None = None
    ) -> int:
        """GET `target` of an edge and verify it; its version, 0 if it is not one. Older than `least` is too old."""
        fields = {"Host": self.load.options.site, "Accept-Language": language, **(more or {})}
        self.load.tally.counts[BEGUN] += 1
        with self.client.get(edge + target, headers=fields, catch_response=True, name="?") as response:
            tier = tiers.tier_of(field_of(response, "cache-status"))
            response.request_meta["name"] = tier
            heads = {name: value for name in HEADS if (value := field_of(response, name))}
            seen = verify.check(target, language, response.status_code, heads, response.content)
            tally = self.load.tally  # the one of now: while we waited, another may have gone to the master
            tally.counts["bytes"] += len(response.content or b"")
            tally.time(tier, response.request_meta["response_time"])
            if seen.problem:
                words = f"{seen.problem} ({error})" if (error := getattr(response, "error", None)) else seen.problem
                tally.error(words)
                response.failure(words)
            elif seen.version < least:
                tally.older(f"from {tier}")
                response.failure(f"version {seen.version}, but {least} was acknowledged before")
            elif verify.is_expired(target, heads):
                tally.older(f"from {tier}, past its freshness")
                response.failure("past its freshness")
        return 0 if seen.problem else seen.version

    def ask(self, what: str, method: str, url: str, good: Sequence[int], **how: Any) -> ResponseContextManager | None:
        """Any other request, tallied as `what`; None if its status is none of `good`."""
        with self.client.request(method, url, catch_response=True, name=what, **how) as response:
            if response.status_code in good:
                self.load.tally.time(what, response.request_meta["response_time"])
                response.success()
                return response
            problem = (
                f"{what}: status {response.status_code} {(response.content or b'')[:80].decode('latin-1')}".strip()
            )
            self.load.tally.error(problem)
            response.failure(problem)
        return None

    def any_edge(self) -> str:
        """One of the edges, drawn."""
        return choice(self.load.edges)

    def bump(self, tag: str) -> int:
        """Have the origin make a new version of every object of a tag; which."""
        url = f"{self.load.options.object_origin}/_origin/bump?tag={quote(tag)}"
        response = self.ask("new version at the origin", "POST", url, (200,))
        return int(response.json()["version"]) if response is not None else 0


def field_of(response: ResponseContextManager, name: str) -> str:
    """The value of a field, its lines joined; empty if it is not there."""
    value = response.headers.get(name, "") if response.headers is not None else ""
    return value if isinstance(value, str) else ", ".join(value)
