"""Load tests for locust: `locust -f loadtests/locustfile.py --class-picker`, or all at once with a chain: `make load`.

Four classes of users, one per scenario: Zipf, Flash, Purge, Write. Headless, with the web page, or distributed
(`--master`, `--worker`, `--processes 4`): what the processes saw is added up. Where the edges are is said by options or
by the environment (`--help`, the names that begin with LOAD_). It ends with a table, and with exit code 1 on any error
or old answer.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtests.locust import report
from loadtests.locust.scenarios import Flash, Purge, Write, Zipf
from loadtests.locust.tally import Tally
from loadtests.locust.visitor import Load

MOST_AT_ONCE = 2  # GETs of one user
__all__ = ["Flash", "Purge", "Write", "Zipf"]


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Where everything is, and how much is asked."""

    def add(name: str, default: Any, words: str, *, shown: bool = True) -> None:
        variable = "LOAD_" + name.upper().replace("-", "_")
        parser.add_argument(
            f"--{name}", env_var=variable, default=default, type=type(default), help=words, include_in_web_ui=shown
        )

    add("edges", "http://127.0.0.1:8080", "addresses of the edges, parted by commas", shown=False)
    add("admins", "http://127.0.0.1:9900", "their admin addresses", shown=False)
    add("admin-token", "", "EDGECACHE_ADMIN_TOKEN of all of them", shown=False)
    add("object-origin", "", "address of the origin itself, which makes new versions and counts questions", shown=False)
    add("site", "www.example.org", "Host of every request")
    add("rate", 400.0, "tasks per second of all users together; 0 is as fast as they can")
    add("trace", "", "file of id,size lines, gzipped or not; without it Zipf's law")
    add("trace-requests", 200_000, "at most so many requests of it")
    add("objects", 5_000, "objects of the synthetic trace")
    add("alpha", 1.0, "its exponent")
    add("largest", 1 << 20, "objects are cut to so many bytes")
    add("bound", 1.0, "seconds after which a write is to be seen everywhere without a token")
    add("write-ack", "region", "EDGECACHE_WRITE_ACK of the edges")


@events.init.add_listener
def share_load(environment: Environment, **_: Any) -> None:
    """What visitors share; a worker's tally goes to the master with each of its reports."""
    load = environment.load = Load(environment)  # type: ignore[attr-defined]

    @environment.events.report_to_master.add_listener
    def give(client_id: str, data: dict[str, Any]) -> None:
        data["tally"] = load.tally.document()
        load.tally = Tally()

    @environment.events.worker_report.add_listener
    def take(client_id: str, data: dict[str, Any]) -> None:
        load.tally.merge(Tally.from_document(data["tally"]))

    conductor = Conductor(environment, load)
    environment.events.test_start.add_listener(conductor.begin)
    environment.events.test_stop.add_listener(conductor.stop)
    environment.events.quitting.add_listener(conductor.judge)
    environment.events.quit.add_listener(conductor.publish)


class Conductor:
    """Looks at the origin's counters before and after, and prints the table at the end."""

    def __init__(self, environment: Environment, load: Load) -> None:
        self._environment = environment
        self._load = load
        self._before: dict[str, int] = {}
        self._began = 0.0
        self._ended = 0.0
        self._text = ""

    @property
    def _concerned(self) -> bool:
        return not isinstance(self._environment.runner, WorkerRunner)

    def begin(self, **_: Any) -> None:
        """A run begins: everything at zero."""
        self._load.tally = Tally()
        self._began, self._ended = time.monotonic(), 0.0
        if self._concerned:
            self._before = self._counts("/_origin/counts")
        if not isinstance(self._environment.runner, MasterRunner) and Zipf in self._environment.user_classes:
            try:
                Zipf.prepare(self._load)
            except (OSError, EOFError, ValueError) as error:
                self._load.tally.error(f"no trace: {error}")

    def stop(self, **_: Any) -> None:
        """A run has ended; on the web page, others may follow."""
        self._ended = time.monotonic()
        if self._concerned and self._environment.web_ui is not None:
            print(self._table(), flush=True)

    def judge(self, **_: Any) -> None:
        """The exit code; every report of a worker is in by now."""
        if self._concerned:
            for raised in self._environment.runner.exceptions.values() if self._environment.runner else ():
                self._load.tally.error(f"the load test itself: {raised['msg']} × {raised['count']}")
            missing, users = report.under_way(self._load.tally), self._environment.parsed_options.num_users or 0
            if self._environment.web_ui is None and missing > MOST_AT_ONCE * users:
                self._load.tally.error(f"{missing} answers are missing: a worker's report was lost")
            self._text = self._table()
            self._environment.process_exit_code = 0 if self._load.tally.well else 1

    def publish(self, **_: Any) -> None:
        """The table, after everything that locust itself prints."""
        if self._concerned and self._environment.web_ui is None:
            print(self._text, flush=True)

    def _table(self) -> str:
        after = self._counts("/_origin/counts")
        grown = {name: count - self._before.get(name, 0) for name, count in after.items()}
        names = [each.__name__ for each in self._environment.user_classes]
        crowds = self._counts("/_origin/asked?tag=crowd") if "Flash" in names else {}
        seconds = (self._ended or time.monotonic()) - self._began  # who is interrupted tells the table before the end
        title = f"{', '.join(names).lower()}: {seconds:.0f} s, {len(self._load.edges)} edges"
        if "Zipf" in names:
            title += f", trace {self._load.options.trace or 'synthetic'}"
        return report.table(report.Run(title, seconds, grown, crowds), self._load.tally)

    def _counts(self, path: str) -> dict[str, int]:
        """Counters of the origin; none if it is not known or does not answer."""
        if not self._load.options.object_origin:
            return {}
        try:
            with urllib.request.urlopen(self._load.options.object_origin + path, timeout=10) as answer:
                counts: dict[str, int] = json.load(answer)
        except (OSError, ValueError, urllib.error.URLError) as error:
            print(f"load: the origin's counters: {error}", file=sys.stderr)
            return {}
        return counts
