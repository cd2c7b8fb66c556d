"""Compare edgecache with nginx, HAProxy and varnish here: CPU per request, requests/s, latency, memory.

    python -m loadtests bench [--rounds 5] [--seconds 3] [--only hit,pass] [--peers nginx] [--json FILE]

The server under test has core 0 to itself; wrk, the origin and this program share core 1. Everything happens
on 127.0.0.1 and in a temporary directory. Tables go to stdout, progress and proofs to stderr. Exit code: 0;
1 when a row FAILED, or exceeds its bound on a quiet machine; 2 when nothing could be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.bench import memory, peers, regional, report, sites, wrk
from loadtests.bench.origin import Origin, origin
from loadtests.bench.peers import Contestant
from loadtests.bench.processes import LOAD_CORE, SERVER_CORE, probe
from loadtests.bench.rounds import Standing, contest, say
from loadtests.bench.scenarios import LIMITED, LOG, SCENARIOS, TRACES, Scenario
from loadtests.lab.processes import StartError, free_port

SITES = [sites.HIT.name, sites.VARIED.name, sites.JWT]
REGIONAL = [regional.HIT.name, regional.SCALE.name, regional.DEAD.name]
NAMES = [*(scenario.name for scenario in SCENARIOS), LOG.name, TRACES.name, LIMITED.name, *SITES, "memory", *REGIONAL]
DESCRIPTORS = 16_384
COMMAND_HELP = "measure another build of edgecache; it starts in a temporary directory: absolute paths"
PEERS_HELP = f"of: {','.join(peers.PEERS)} (usually {','.join(peers.USUAL)})"


class Bench:
    """One run: who takes part, for how long, and what came out."""

    def __init__(self, options: argparse.Namespace, directory: Path, upstream: Origin) -> None:
        self._options = options
        self._directory = directory
        self._origin = upstream
        self.failed = False
        self.results: dict[str, Any] = {}

    def run(self, contestants: Sequence[Contestant]) -> None:
        """Every scenario that was asked for."""
        for scenario in SCENARIOS:
            if scenario.name in self._options.only:
                self.compare(scenario, contestants, "nginx")
        if self._options.peers_only:
            return
        self._measure_features()
        if "memory" in self._options.only:
            self.measure_memory()
        if regional.HIT.name in self._options.only:
            self.measure_regional(contestants)
        if regional.SCALE.name in self._options.only:
            self.measure_scale()
        if regional.DEAD.name in self._options.only:
            self.measure_dead()

    def _measure_features(self) -> None:
        """Scenarios that compare edgecache with itself, without what it is asked to do beside."""
        if LOG.name in self._options.only:
            self.measure_log()
        if TRACES.name in self._options.only:
            self.measure_traces()
        if LIMITED.name in self._options.only:
            self.measure_limited()
        for scenario in (sites.HIT, sites.VARIED):
            if scenario.name in self._options.only:
                self.measure_sites(scenario)
        if sites.JWT in self._options.only:
            self.measure_tokens()

    def compare(self, scenario: Scenario, contestants: Sequence[Contestant], base: str) -> list[Standing]:
        """One scenario: measure, print, remember."""
        options = self._options
        standings = contest(scenario, contestants, self._origin, self._directory, options.rounds, options.seconds)
        self._publish(report.table(scenario, standings, base), standings)
        self.failed = self.failed or bool(report.exceeded(scenario, standings))
        self.results[scenario.name] = report.as_json(scenario, standings, base)
        return standings

    def measure_log(self) -> None:
        """What the access log costs edgecache."""
        problem = self._log_problem()
        if problem:
            say(f"log: FAILED: {problem}")
            standing = Standing("edgecache json", failures=[problem])
            self._publish(report.table(LOG, [standing], "edgecache"), [standing])
            return
        contestants = [edgecache(self._options), edgecache(self._options, "edgecache json", log="json")]
        self.compare(LOG, contestants, "edgecache")

    def measure_traces(self) -> None:
        """What traces cost edgecache: their spans are made, sent to the supervisor and lost there."""
        contestants = [edgecache(self._options)]
        for fraction in ("0", "0.01"):
            given = {"EDGECACHE_OTLP_ENDPOINT": "http://127.0.0.1:9", "EDGECACHE_TRACE_SAMPLE": fraction}
            contestants.append(edgecache(self._options, f"edgecache traced {fraction}", more=given))
        self.compare(TRACES, contestants, "edgecache")

    def measure_limited(self) -> None:
        """What a limit costs a hit that it counts, in each worker alone and with leases of the region's tokens."""
        site = (
            f'sites = [{{ name = "a", hosts = ["*"], origin = "http://127.0.0.1:{self._origin.port}", rules = [%s] }}]'
        )
        rule = '{ name = "rate", limits = [{ rate = "1000000/s" }] }'
        with regional.valkey(self._directory / "valkey-limits") as server:
            shared = {"EDGECACHE_REGIONAL": regional.url_of(server)}
            kinds: dict[str, tuple[str, dict[str, str]]] = {
                "edgecache unlimited": ("", {}),
                "edgecache limited": (rule, {}),
                "edgecache unlimited, regional": ("", shared),
                "edgecache limited, regional": (rule, shared),
            }
            contestants = [
                edgecache(self._options, name, more={"EDGECACHE_SITES": site % rules, **more})
                for name, (rules, more) in kinds.items()
            ]
            self.compare(LIMITED, contestants, contestants[0].name)

    def measure_sites(self, scenario: Scenario) -> None:
        """What sites and rules cost edgecache."""
        given = {"EDGECACHE_SITES": sites.text(f"http://127.0.0.1:{self._origin.port}")}
        ours = [edgecache(self._options), edgecache(self._options, "edgecache with sites", more=given)]
        self.compare(scenario, ours, "edgecache")

    def measure_tokens(self) -> None:
        """What it costs to check the token of each request."""
        keys = self._directory / "bench.pem"
        scenario, origin = sites.with_tokens(keys), f"http://127.0.0.1:{self._origin.port}"
        plain, checked = sites.text_with_tokens(origin, None), sites.text_with_tokens(origin, keys)
        ours = [
            edgecache(self._options, more={"EDGECACHE_SITES": plain}),
            edgecache(self._options, sites.CHECKED, more={"EDGECACHE_SITES": checked}),
        ]
        with ours[1].command(self._directory / "token-proof", self._origin.port) as server:
            status = probe(server.port, "GET", "/o/0").status
        say(f"{sites.JWT}: without a token: {status}")
        if status != 401:
            problem = f"a request without a token gets {status} instead of 401"
            standing = Standing(sites.CHECKED, failures=[problem])
            self._publish(report.table(scenario, [standing], "edgecache"), [standing])
            return
        self.compare(scenario, ours, "edgecache")

    def _log_problem(self) -> str | None:
        """Prove that the setting makes edgecache log to stdout, which is /dev/null when it is measured."""
        written = self._directory / "access.log"
        contestant = edgecache(self._options, "edgecache json", log="json", output=written)
        own = self._directory / "log-proof"
        try:
            with contestant.command(own, self._origin.port) as server:
                probe(server.port, "GET", "/o/0")
                time.sleep(1.5)
        except (StartError, OSError) as error:
            return f"did not start: {error}"
        lines = [line for line in written.read_text().splitlines() if "/o/0" in line]
        if not lines:
            return "EDGECACHE_ACCESS_LOG=json wrote no line about a request to stdout"
        say(f"log: verified: {lines[0][:160]}")
        return None

    def measure_memory(self) -> None:
        """What objects and connections cost edgecache."""
        figures = [
            memory.objects(edgecache(self._options), self._origin, self._directory),
            memory.connections(edgecache(self._options), self._origin, self._directory),
        ]
        self._publish(report.memory_table(figures), figures)
        self.results["memory"] = [vars(figure) for figure in figures]

    def measure_regional(self, contestants: Sequence[Contestant]) -> None:
        """A hit in the regional tier, beside nginx's hit in its memory and beside the plain way to use redis-py."""
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(regional.valkey(self._directory / "valkey"))
            regional.fill_baseline(server)
            ours = [self._ours("edgecache", regional.url_of(server), regional.NOTHING_IN_MEMORY)]
            if self._options.against:  # it may store records of another form
                other = stack.enter_context(regional.valkey(self._directory / "valkey-before"))
                more = {**regional.NOTHING_IN_MEMORY, "PYTHONPATH": self._options.against}
                ours.insert(0, self._ours("before", regional.url_of(other), more))
            nginx = [contestant for contestant in contestants if contestant.name == "nginx"]
            self.compare(regional.HIT, [*nginx, *ours, regional.baseline(server.port)], "nginx")

    def measure_scale(self) -> None:
        """Whether a hit costs more when more is stored."""
        many = regional.how_many(self._options.objects)
        sizes = {f"{regional.FEW:,} objects": (regional.FEW, 0), f"{many:,} objects": (many, 0)}
        sizes[f"{regional.FEW:,} objects of {regional.TAGS} tags"] = (regional.FEW, regional.TAGS)
        with contextlib.ExitStack() as stack:
            ours = []
            for number, (name, (count, tags)) in enumerate(sizes.items()):
                server = stack.enter_context(regional.valkey(self._directory / f"valkey-{number}"))
                regional.fill(server, count, tags)
                ours.append(self._ours(name, regional.url_of(server), regional.NOTHING_IN_MEMORY))
            self.compare(regional.SCALE, ours, ours[0].name)

    def measure_dead(self) -> None:
        """What a Valkey that does not answer adds to the latency of requests that would have asked it."""
        with regional.valkey(self._directory / "valkey-dead") as server, regional.frozen(server):
            urls = {
                "no tier": "off",
                "Valkey is silent": regional.url_of(server),
                "Valkey refuses": f"valkey://127.0.0.1:{free_port()}",
            }
            ours = [self._ours(name, url, regional.SMALL_MEMORY) for name, url in urls.items()]
            standings = self.compare(regional.DEAD, ours, ours[0].name)
            print(regional.added_p99(standings), end="\n\n", flush=True)

    def _ours(self, name: str, url: str, more: dict[str, str]) -> Contestant:
        """The project's server with a regional tier."""
        settings = dict(pair.split("=", 1) for pair in self._options.edgecache_env)
        settings = {"EDGECACHE_ACCESS_LOG": "off", **more, **settings}
        return regional.edgecache(name, self._options.edgecache_command, settings, url)

    def _publish(self, text: str, parts: Sequence[Standing | memory.Figure]) -> None:
        print(text, end="\n\n", flush=True)
        self.failed = self.failed or any(part.failures for part in parts)


def edgecache(
    options: argparse.Namespace,
    name: str = "edgecache",
    log: str = "off",
    output: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> Contestant:
    """The project's server as the options want it."""
    settings = dict(pair.split("=", 1) for pair in options.edgecache_env)
    settings |= {"EDGECACHE_ACCESS_LOG": log, **(more or {})}
    return peers.edgecache(options.edgecache_command, settings, name, output)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=_positive, default=5, help="alternating rounds (5)")
    parser.add_argument("--seconds", type=_positive, default=3, help="each server's share of a round (3)")
    parser.add_argument("--only", type=_names(NAMES), default=NAMES, help=f"of: {','.join(NAMES)}")
    parser.add_argument("--peers", type=_names(list(peers.PEERS)), default=peers.USUAL, help=PEERS_HELP)
    parser.add_argument("--peers-only", action="store_true", help="leave edgecache out")
    parser.add_argument("--objects", type=_positive, default=regional.MANY, help="of regional-scale (1,000,000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round there")
    parser.add_argument("--against", default="", metavar="DIR", help="another checkout of edgecache, to compare with")
    parser.add_argument("--edgecache-command", metavar="COMMAND", help=COMMAND_HELP)
    parser.add_argument(
        "--edgecache-env", action="append", default=[], metavar="NAME=VALUE", type=_setting, help="repeatable"
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number, at least 1")
    return int(text)


def _setting(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError("NAME=VALUE")
    return text


def _names(known: list[str]) -> Any:
    """A type for argparse: a comma-separated choice out of `known`."""

    def choose(text: str) -> list[str]:
        chosen = [name for name in text.split(",") if name]
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return chosen

    return choose


def main() -> int:
    """Measure what the command line asks for."""
    options = parse()
    if not wrk.available():
        say("bench: wrk is not installed (Debian: apt-get install wrk); nothing can be measured")
        return 2
    if not {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        say("bench: needs cores 0 and 1: the server under test has the first to itself")
        return 2
    present, missing = peers.installed(options.peers)
    for name in missing:
        say(f"bench: {name} is not installed; left out")
    before = [edgecache(options, "before", more={"PYTHONPATH": options.against})] if options.against else []
    contestants = present if options.peers_only else [*before, *present, edgecache(options)]
    if not contestants:
        say("bench: nobody to measure")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every `finally` still runs
    os.sched_setaffinity(0, {LOAD_CORE})
    memory.allow_descriptors(DESCRIPTORS)
    return _measure(options, contestants)


def _measure(options: argparse.Namespace, contestants: Sequence[Contestant]) -> int:
    """Run in a temporary directory, in memory where the machine has one, so that caches on disk are not."""
    shared = Path("/dev/shm")
    parent = shared if os.access(shared, os.W_OK) else None
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgecache-bench-", dir=parent) as name:
        try:
            with origin(Path(name) / "origin") as upstream:
                bench = Bench(options, Path(name), upstream)
                print(_heading(options, contestants), end="\n\n", flush=True)
                bench.run(contestants)
        except StartError as error:
            say(f"bench: the origin did not start: {error}")
            return 2
    say(f"bench: {time.monotonic() - began:.0f} s")
    if options.json:
        document = {"machine": _machine(), "rounds": options.rounds, "seconds": options.seconds}
        options.json.write_text(json.dumps({**document, "results": bench.results}, indent=1) + "\n")
    return 1 if bench.failed else 0


def _heading(options: argparse.Namespace, contestants: Sequence[Contestant]) -> str:
    programs = [peers.PEERS[each.name][0] for each in contestants if each.name in peers.PEERS]
    versions = "; ".join(peers.version(program) for program in dict.fromkeys([*programs, "wrk"]))
    rounds = f"{options.rounds} alternating rounds of {options.seconds} s, medians; CPU of all processes"
    return f"{_machine()}; {rounds} and threads of a server, own core\n\n{versions}"


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
