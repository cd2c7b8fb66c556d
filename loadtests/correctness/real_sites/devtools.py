"""Headless Chromium, driven by its DevTools protocol: tabs with cookies of their own, and clicks on links."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import aiohttp

from edgecache.tasks import spawn
from loadtests.correctness.real_sites.browser import CHROMIUM
from loadtests.lab.processes import Missing, StartError

WITHIN: Final = 30.0  # seconds for Chromium to start, or for a page to show what is waited for
LOOK: Final = 0.05  # seconds
FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
    "--remote-debugging-port=0",
)


class Refused(Exception):
    """Chromium has refused a command."""


class DevTools:
    """One connection to Chromium. Mutable state: the commands without a reply."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read(self) -> None:
        """Take replies, as long as there are any; events are not needed."""
        async for message in self._socket:
            reply = json.loads(message.data)
            asked = self._asked.pop(reply.get("id", 0), None)
            if asked is not None and not asked.done():
                asked.set_result(reply)

    async def command(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json({**message, "sessionId": session} if session else message)
        reply = await asyncio.wait_for(asked, WITHIN)
        if "error" in reply:
            raise Refused(f"{method}: {reply['error']}")
        result: dict[str, Any] = reply["result"]
        return result

    async def tab(self) -> Tab:
        """A new tab, with cookies and a cache of its own."""
        context = (await self.command("Target.createBrowserContext"))["browserContextId"]
        target = await self.command("Target.createTarget", url="about:blank", browserContextId=context)
        session = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(self, session["sessionId"])
        await tab.command("Page.enable")
        await tab.command("Network.enable")
        return tab


class Tab:
    """One tab."""

    def __init__(self, tools: DevTools, session: str) -> None:
        self._tools = tools
        self._session = session

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command to this tab."""
        return await self._tools.command(method, self._session, **parameters)

    async def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript; None while a page is being replaced."""
        with suppress(Refused):
            return (await self.command("Runtime.evaluate", expression=expression))["result"].get("value")
        return None

    async def until(self, expression: str) -> bool:
        """Wait until an expression is true; False if that takes too long."""
        deadline = time.monotonic() + WITHIN
        while await self.value(expression) is not True:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK)
        return True

    async def open(self, url: str) -> None:
        """Load a page, as if its address had been typed."""
        await self.command("Page.navigate", url=url)

    async def set_cookie(self, url: str, name: str, value: str) -> None:
        """Set a cookie, or remove it if `value` is empty."""
        if value:
            await self.command("Network.setCookie", url=url, name=name, value=value)
        else:
            await self.command("Network.deleteCookies", url=url, name=name)


@asynccontextmanager
async def running_chromium(folder: Path, host: str, port: int) -> AsyncIterator[DevTools]:
    """Chromium, for which `host` is that port of this machine, and no other host exists; StartError."""
    process = _started(folder, f"MAP {host}:80 127.0.0.1:{port}, MAP * ~NOTFOUND")
    try:
        place = await asyncio.to_thread(_place, folder / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session, session.ws_connect(place, max_msg_size=0) as socket:
            tools = DevTools(socket)
            reading = spawn(tools.read(), "read what Chromium says")
            yield tools
            reading.cancel()
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


def _started(folder: Path, names: str) -> subprocess.Popen[bytes]:
    if not Path(CHROMIUM).exists():
        raise Missing(f"{CHROMIUM} is not installed (Debian: apt-get install chromium)")
    folder.mkdir(parents=True, exist_ok=True)
    command = (CHROMIUM, *FLAGS, f"--user-data-dir={folder}", f"--host-resolver-rules={names}", "about:blank")
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def _place(file: Path) -> str:
    """Where Chromium listens, which it writes into a file."""
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            lines = file.read_text().splitlines()
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(LOOK)
    raise StartError("Chromium does not start")
