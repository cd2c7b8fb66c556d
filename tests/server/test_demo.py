"""The demo origin: pages that are cached, aged and never stored."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from edgecache.server.demo import ASSETS, PAGES, application


async def test_pages_say_how_long_the_pop_may_keep_them() -> None:
    """Each page is fresh for the POP as announced, and browsers always ask."""
    async with TestClient(TestServer(application(lambda: 0.0))) as client:
        fresh = {path: (await client.get(path)).headers for path in ("/", "/time", "/private")}

        assert fresh["/"]["CDN-Cache-Control"] == "max-age=60"
        assert fresh["/time"]["CDN-Cache-Control"] == "max-age=5, stale-while-revalidate=30"
        assert fresh["/private"]["CDN-Cache-Control"] == "no-store"
        assert fresh["/private"]["Cache-Control"] == "private, no-store"
        assert {fresh[path]["Cache-Control"] for path in ("/", "/time")} == {"max-age=0"}


async def test_the_home_page_leads_everywhere() -> None:
    """The home page links every page and uses every asset, and each asset is there."""
    async with TestClient(TestServer(application(lambda: 0.0))) as client:
        home = await (await client.get("/")).text()
        assets = {path: await client.get(path) for path in ASSETS}

        assert all(f'href="{path}"' in home for path in PAGES)
        assert all(path in home for path in ASSETS)
        assert {asset.headers["Cache-Control"] for asset in assets.values()} == {"max-age=60"}


async def test_the_clock_is_the_origins() -> None:
    """The time page shows the time at which the origin made it, and how many pages it made."""
    async with TestClient(TestServer(application(lambda: 3661.0))) as client:
        await client.get("/time")
        text = await (await client.get("/time")).text()

        assert "01:01:01 UTC" in text
        assert "Page number 2 " in text


@pytest.mark.parametrize("target", ["run", "test", "load"])
def test_make_says_what_it_is_about_to_do(tmp_path: Path, target: str) -> None:
    """Before each step that takes a while, a line says which; who runs the demo sees pip's own lines, too."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", "--dry-run", f"VENV={tmp_path}/venv", target]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    steps = re.findall(r"^(?:\S*(echo) '|.* -m (venv) |.* -m (pip) (install .*))", done.stdout, re.M)
    names = ["".join(step[:3]) for step in steps]

    assert names[:4] == ["echo", "venv", "echo", "pip"]
    assert ("-q" in steps[3][3]) is (target != "run")
