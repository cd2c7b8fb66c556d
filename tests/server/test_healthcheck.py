"""`edgecache healthcheck`: what an orchestrator learns by its exit code."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from harness.admin import FakePop

from edgecache.config.settings import Settings, load
from edgecache.server import healthcheck
from edgecache.server.admin.app import application
from edgecache.server.cli import main


@pytest.mark.parametrize(("state", "ready"), [("ready", True), ("starting", False), ("draining", False)])
@pytest.mark.parametrize("listens_on", ["127.0.0.1", "0.0.0.0"])
async def test_it_says_what_the_pop_says(state: str, ready: bool, listens_on: str) -> None:
    """Ready is ready; a POP that listens on every address is asked at the loopback one, without the token."""
    async with TestServer(application(FakePop(state), "a token")) as server:
        assert server.port is not None
        where = healthcheck.admin_address({"EDGECACHE_ADMIN_LISTEN": f"{listens_on}:{server.port}"})
        found = await asyncio.to_thread(healthcheck.ask, *where)

    assert found == (ready, state)


async def test_an_answer_of_somebody_else_is_not_ready() -> None:
    """A listener that closes each connection is no POP."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        ready, words = await asyncio.to_thread(healthcheck.ask, "127.0.0.1", port)

    assert not ready
    assert words.startswith(f"127.0.0.1:{port} does not tell")


def test_nobody_there_is_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says so in one line."""
    monkeypatch.setenv("EDGECACHE_ORIGIN", "http://origin.example")
    monkeypatch.setenv("EDGECACHE_ADMIN_LISTEN", "127.0.0.1:1")

    assert main(["healthcheck"]) == 1
    assert capsys.readouterr().out.startswith("127.0.0.1:1 does not tell: ")


CHEAP = {
    f"edgecache{name}"
    for name in (
        "",
        ".config",
        ".config.secret_files",
        ".config.sources",
        ".semantics",
        ".semantics.errors",
        ".server",
        ".server.cli",
        ".server.healthcheck",
        ".server.signals",
    )
}
DEAR = {"argparse", "asyncio", "cryptography", "dataclasses", "http.client", "redis", "ssl"}
RUN = (
    "import sys; from edgecache.server.cli import main; code = main(sys.argv[1:]); print(*sys.modules); sys.exit(code)"
)


@pytest.mark.parametrize("arguments", [(), ("--config", "FILE")])
def test_it_loads_next_to_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Beside a busy POP it costs little more than an interpreter: none of what a POP is made of is loaded."""
    file = tmp_path / "edgecache.conf"
    file.write_text("EDGECACHE_ADMIN_LISTEN=127.0.0.1:1\n")
    words = [str(file) if word == "FILE" else word for word in arguments]
    environ = {"PATH": os.environ["PATH"], "EDGECACHE_ORIGIN": "http://origin.example"}
    command = [sys.executable, "-c", RUN, "healthcheck", *words]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    loaded = set(ended.stdout.splitlines()[-1].split())

    assert ended.returncode == 1, ended.stderr
    assert {name for name in loaded if name.startswith("edgecache")} == CHEAP
    assert loaded & DEAR == set()


@pytest.mark.parametrize("said", ["", "[::1]:9901", "localhost:1", "0.0.0.0:80", "[::]:8", " 127.0.0.1:5 "])
def test_it_asks_where_the_pop_listens(said: str) -> None:
    """What it reads of the settings by itself is what `serve` reads, and the default is the same."""
    environ = {"EDGECACHE_ORIGIN": "http://origin.example", "EDGECACHE_ADMIN_LISTEN": said}
    settings: Settings = load(environ)
    listen = settings.admin_listen

    assert healthcheck.admin_address(environ) == (healthcheck.ANY.get(listen.host, listen.host), listen.port)


@pytest.mark.parametrize("said", ["9900", "a:b", "127.0.0.1:", ":9900", "127.0.0.1:99999", "a:-1"])
def test_a_bad_address_is_exit_2(
    said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `serve` refuses it: one line that names the variable."""
    monkeypatch.setenv("EDGECACHE_ADMIN_LISTEN", said)

    assert main(["healthcheck"]) == 2
    assert capsys.readouterr().err == f'EDGECACHE_ADMIN_LISTEN: "{said}" is not host:port\n'


def test_the_configuration_file_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --config, however it is written, the file's address is asked."""
    file = tmp_path / "edgecache.conf"
    file.write_text("EDGECACHE_ADMIN_LISTEN=127.0.0.1:1\n")

    for words in (["--config", str(file)], [f"--config={file}"]):
        assert main(["healthcheck", *words]) == 1
        assert capsys.readouterr().out.startswith("127.0.0.1:1 does not tell: ")
    assert main(["healthcheck", "--config", str(tmp_path / "none")]) == 2
