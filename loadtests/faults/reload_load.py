"""Certificates renewed, the configuration reloaded and the workers relieved, all under load: no request may fail.

    python -m loadtests reload-load [--requests 100000] [--reloads 100] [--rolls 10] [--clients 24]

Clients on kept connections, half of them over TLS, ask for objects that are cached and for ones that never are, and
check status, length, every byte and whose certificate they got; nothing is tried again. Meanwhile the configuration's
file changes and is reloaded, each fifth time with a new certificate, each seventh with another origin, each tenth after
one of the mistakes that operators make, and every few reloads all workers are relieved. On 127.0.0.1. Exit code: 0 if
nothing failed, else 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from harness.certificates import Authority, Files

from loadtests import ROOT
from loadtests.bench.tiny_origin import SMALL
from loadtests.lab.processes import SERVE, free_port

SITE = "www.example.test"
WITHIN = 20.0  # seconds for an answer, or for what the POP is to say: past it, that has failed
LONGEST = 540.0  # seconds for all of it
RECONNECT_EVERY = 60  # requests on one connection, so that new handshakes go on all the time
MISTAKES = ("EDGECACHE_HOSTS=a b", "EDGECACHE_NO_SUCH_SETTING=1", "nonsense", "EDGECACHE_TLS_CERTIFICATES=/nowhere")


@dataclass
class Tally:
    """What the clients saw."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    cache: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    certificates: set[str] = field(default_factory=set)
    handshakes: int = 0
    connections: int = 0

    @property
    def requests(self) -> int:
        """All that were asked."""
        return sum(self.answered.values()) + sum(self.failed.values())


class Client:
    """One client: a kept connection, and another one when that has been used for a while or was announced to close."""

    def __init__(self, tally: Tally, port: int, context: ssl.SSLContext | None, over: Callable[[], bool]) -> None:
        self._tally = tally
        self._port = port
        self._context = context
        self._over = over
        self._chance = random.Random(id(self))
        self._left = 0  # requests until the connection is given up
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Ask until it is over."""
        while not self._over():
            kind, target = self._choose()
            label = f"{'tls' if self._context else 'plain'} {kind}"
            began = time.perf_counter()
            try:
                async with asyncio.timeout(WITHIN):
                    status = await self._ask(target)
            except (OSError, EOFError, ValueError, asyncio.IncompleteReadError) as error:
                self._tally.failed[f"{label}: {type(error).__name__} {str(error)[:80]}"] += 1
                self._leave()
                await asyncio.sleep(0.01)
                continue
            self._tally.cache[f"{label}: {status}"] += 1
            self._tally.answered[label] += 1
            self._tally.seconds.setdefault(label, []).append(time.perf_counter() - began)
        self._leave()

    def _choose(self) -> tuple[str, str]:
        number = self._chance.randrange(200)
        return ("hit", f"/o/{number}") if self._chance.random() < 0.8 else ("pass", f"/p/{number}")

    async def _ask(self, target: str) -> str:
        if self._writer is None:
            await self._connect()
        assert self._reader is not None
        assert self._writer is not None
        self._writer.write(f"GET {target} HTTP/1.1\r\nHost: {SITE}\r\nUser-Agent: reload-load\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, _, lines = head.partition("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines.split("\r\n") if line)
        body = await self._reader.readexactly(int(fields["content-length"]))
        if not status.startswith("HTTP/1.1 200") or body != SMALL:
            raise ValueError(f"{status} with {len(body)} bytes")
        self._left -= 1
        if self._left <= 0 or "close" in fields.get("connection", ""):
            self._leave()
        cache = fields.get("cache-status", "")
        return "hit" if "; hit" in cache else "forwarded"

    async def _connect(self) -> None:
        named = {"server_hostname": SITE} if self._context is not None else {}
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._context, **named)
        self._left = self._chance.randrange(1, 2 * RECONNECT_EVERY)
        self._tally.connections += 1
        if self._context is not None:
            self._tally.handshakes += 1
            self._tally.certificates.add(self._writer.get_extra_info("peercert")["serialNumber"])

    def _leave(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Pop:
    """`edgecache serve` with two workers, its configuration in a file, and what its log has said."""

    def __init__(self, directory: Path, origins: list[str], files: Files) -> None:
        self._origins = origins
        self.file = directory / "edgecache.env"
        self.files = files
        self.plain_port, self.tls_port = free_port(), free_port()
        self._settings = {
            "EDGECACHE_LISTEN": f"127.0.0.1:{self.plain_port}",
            "EDGECACHE_ADMIN_LISTEN": "127.0.0.1:0",
            "EDGECACHE_TLS_LISTEN": f"127.0.0.1:{self.tls_port}",
            "EDGECACHE_TLS_CERTIFICATES": files.pair,
            "EDGECACHE_WORKERS": "2",
            "EDGECACHE_ACCESS_LOG": "off",
        }
        self._process: asyncio.subprocess.Process | None = None
        self._said: Counter[str] = Counter()
        self._more = asyncio.Condition()
        self.log: list[str] = []
        self.serial = 0

    async def start(self) -> None:
        """Start it, and wait until both workers are ready."""
        self.write()
        self._process = await asyncio.create_subprocess_exec(
            *(*SERVE, "--config", str(self.file)),
            env={"PATH": os.environ["PATH"]},
            cwd=ROOT,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        self._listening = asyncio.get_running_loop().create_task(self._listen())
        await self.says("worker ready", 2)

    async def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            line = raw.decode(errors="replace").rstrip()
            self.log.append(line)
            async with self._more:
                for words in ("worker ready", "configuration reloaded", "reload refused", "worker died"):
                    self._said[words] += words in line
                self._more.notify_all()

    def count(self, words: str) -> int:
        """How often the log has said it."""
        return self._said[words]

    async def says(self, words: str, count: int) -> None:
        """Wait until the log has said it so often in all."""
        async with asyncio.timeout(WITHIN), self._more:
            await self._more.wait_for(lambda: self._said[words] >= count)

    def write(self, line: str = "") -> None:
        """Write the configuration anew: a number in it is another one each time, or a mistake is made."""
        self.serial += 1
        changing = {
            "EDGECACHE_ORIGIN": self._origins[self.serial // 7 % len(self._origins)],
            "EDGECACHE_NEGATIVE_TTL": f"{1 + self.serial}ms",
            "EDGECACHE_HOSTS": f"{SITE},site-{self.serial}.test",
            "EDGECACHE_HSTS": f"max-age={self.serial}",
        }
        lines = [f"{name}={value}" for name, value in {**self._settings, **changing}.items()]
        lines = [one for one in lines if not line or not line.startswith(one.partition("=")[0] + "=")]
        fresh = self.file.with_suffix(".new")
        fresh.write_text("\n".join([*lines, line]) + "\n")
        fresh.replace(self.file)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self) -> int:
        """Drain it; its exit code."""
        assert self._process is not None
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self._process.wait(), WITHIN + 30)
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()


@dataclass
class Done:
    """What was done to the POP."""

    reloads: int = 0
    renewals: int = 0
    mistakes: int = 0
    rolls: int = 0


async def disturb(pop: Pop, authority: Authority, options: argparse.Namespace, done: Done) -> None:
    """Reload, renew, make mistakes, relieve."""
    every = max(1, options.reloads // max(1, options.rolls))
    for number in range(1, options.reloads + 1):
        if number % 5 == 0:
            pop.files.replace_with(authority.issue(SITE))
            done.renewals += 1
        if number % 10 == 0:
            before = pop.count("reload refused")
            pop.write(MISTAKES[done.mistakes % len(MISTAKES)])
            pop.signal(signal.SIGHUP)
            await pop.says("reload refused", before + 1)
            done.mistakes += 1
        before = pop.count("configuration reloaded")
        pop.write()
        pop.signal(signal.SIGHUP)
        await pop.says("configuration reloaded", before + 1)
        done.reloads += 1
        if number % every == 0 and done.rolls < options.rolls:
            before = pop.count("worker ready")
            pop.signal(signal.SIGUSR2)
            await pop.says("worker ready", before + 2)
            done.rolls += 1


async def run(options: argparse.Namespace, directory: Path) -> int:
    """The whole of it; the exit code."""
    authority = Authority(directory / "ca")
    big = directory / "big"
    big.write_bytes(b"x")
    places = [free_port(), free_port()]
    program = str(ROOT / "loadtests/bench/tiny_origin.py")
    origins = [await asyncio.create_subprocess_exec(sys.executable, program, str(port), str(big)) for port in places]
    pop = Pop(directory, [f"http://127.0.0.1:{port}" for port in places], authority.issue(SITE))
    tally, done, began = Tally(), Done(), time.monotonic()
    try:
        await pop.start()
        disturbed = asyncio.get_running_loop().create_task(disturb(pop, authority, options, done))

        def over() -> bool:
            late = time.monotonic() - began > LONGEST
            return late or (disturbed.done() and tally.requests >= options.requests)

        contexts = [authority.trusting() if number % 2 else None for number in range(options.clients)]
        ports = [pop.tls_port if context else pop.plain_port for context in contexts]
        clients = [Client(tally, *where, over) for where in zip(ports, contexts, strict=True)]
        await asyncio.gather(*(client.run() for client in clients))
        trouble = [] if disturbed.done() else ["it took too long"]
        if disturbed.done() and (error := disturbed.exception()) is not None:
            trouble.append(f"{type(error).__name__}: {error}")
        disturbed.cancel()
        code = await pop.stop()
    finally:
        for origin in origins:
            with suppress(ProcessLookupError):
                origin.kill()
            await origin.wait()
    trouble += judged(options, tally, done, pop, code)
    report(tally, done, pop, time.monotonic() - began)
    for line in trouble:
        print(f"FAILED: {line}")
    return 1 if trouble else 0


def judged(options: argparse.Namespace, tally: Tally, done: Done, pop: Pop, code: int) -> list[str]:
    """What is not as it must be."""
    wrong = [f"{count} × {what}" for what, count in tally.failed.most_common(10)]
    if tally.requests < options.requests:
        wrong.append(f"only {tally.requests} requests")
    if (done.reloads, done.rolls) != (options.reloads, options.rolls):
        wrong.append(f"only {done.reloads} reloads and {done.rolls} times relieved")
    if len(tally.certificates) < min(done.renewals, 2):
        wrong.append(f"clients have seen {len(tally.certificates)} certificates, of {done.renewals + 1}")
    if pop.count("worker died"):
        wrong.append(f"{pop.count('worker died')} workers died")
    if code != 0:
        wrong.append(f"the drain ended with exit code {code}")
    if wrong:
        wrong += [f"log: {line}" for line in pop.log if "ERROR" in line and "refused" not in line][:10]
    return wrong


def report(tally: Tally, done: Done, pop: Pop, took: float) -> None:
    """The table."""
    print(f"| {'requests':<12} | {'answered':>9} | {'p50 ms':>7} | {'p99 ms':>7} | {'p99.9 ms':>8} | {'most ms':>7} |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for label in sorted(tally.seconds):
        times = sorted(tally.seconds[label])
        p50, p99, p999 = (1000 * times[int(len(times) * share)] for share in (0.5, 0.99, 0.999))
        row = f"{p50:7.2f} | {p99:7.2f} | {p999:8.2f} | {1000 * times[-1]:7.1f}"
        print(f"| {label:<12} | {tally.answered[label]:>9} | {row} |")
    lines = {
        "requests": tally.requests,
        "failed": sum(tally.failed.values()),
        "connections": tally.connections,
        "of them TLS handshakes": tally.handshakes,
        "reloads asked for and applied": done.reloads,
        "reloads applied, by file change too": pop.count("configuration reloaded"),
        "reloads refused (mistakes made on purpose)": f"{pop.count('reload refused')} ({done.mistakes})",
        "certificates renewed, and seen by clients": f"{done.renewals}, {len(tally.certificates)}",
        "times that all workers were relieved": done.rolls,
        "cache hits among the cacheable": f"{100 * hits(tally):.1f} %",
        "seconds": f"{took:.0f}",
    }
    print()
    for words, value in lines.items():
        print(f"{words:<44} {value}")


def hits(tally: Tally) -> float:
    """The share of requests for what may be cached that were hits."""
    asked = sum(count for label, count in tally.answered.items() if label.endswith("hit"))
    return sum(count for label, count in tally.cache.items() if label.endswith("hit: hit")) / max(1, asked)


def main() -> int:
    """Parse, run in a temporary directory, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--rolls", type=int, default=10)
    parser.add_argument("--clients", type=int, default=24)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgecache-reload-") as directory:
        return uvloop.run(run(options, Path(directory)))
