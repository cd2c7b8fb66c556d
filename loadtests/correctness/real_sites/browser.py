"""A page of the site through edgecache in headless Chromium, and the proof that its parts came through the POP."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from html import unescape
from pathlib import Path
from typing import Any

from loadtests.correctness.real_sites.processes import say
from loadtests.correctness.real_sites.site import Site
from loadtests.correctness.real_sites.tally import Tally
from loadtests.lab.processes import Missing, Pop, last_line, probe

CHROMIUM = "/usr/bin/chromium"
PATIENCE = 90
LOG_SECONDS = 5.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1200,900",
    "--timeout=20000",
)


def available() -> bool:
    """Whether there is a Chromium here."""
    return Path(CHROMIUM).exists()


def is_used(wanted: bool | None) -> bool:
    """Whether Chromium takes part; says so in one line if not."""
    if wanted is False:
        say("browser: left out")
    elif not available():
        if wanted:
            raise Missing(f"{CHROMIUM} is not installed (Debian: apt-get install chromium)")
        say(f"browser: skipped, there is no {CHROMIUM}")
    else:
        return True
    return False


def load_page(site: Site, pop: Pop, folder: Path, tally: Tally, keep: Path | None) -> None:
    """Load the site's page, look into its document, and find its parts in the access log."""
    say(f"{site.name}: {site.page.target} in Chromium")
    picture = folder / f"{site.name}.png"
    profile = folder / f"chromium-{site.name}"
    names = f"MAP {site.host}:80 127.0.0.1:{pop.port}, MAP * ~NOTFOUND"
    before = len(_log(pop))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--host-resolver-rules={names}"]
    command += ["--dump-dom", f"--screenshot={picture}", f"http://{site.host}{site.page.target}"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE, cwd=folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        tally.check("Chromium", site.page.target, f"it did not finish: {error}")
        return
    document = unescape(done.stdout.decode(errors="replace"))
    document = " ".join(document.split())
    found = [f"the document lacks {text!r}" for text in site.page.texts if text not in document]
    if not picture.exists() or picture.stat().st_size < 2000:
        found.append(f"no screenshot: {last_line(done.stderr)}")
    elif keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, keep)
    tally.check("Chromium: document and screenshot", site.page.target, *found)
    _sub_resources(site, pop, tally, before)


def _sub_resources(site: Site, pop: Pop, tally: Tally, before: int) -> None:
    """The page and what it loads stand in the access log, answered, under Chromium's name."""
    wanted = [site.page.target, *site.page.loads]
    deadline = time.monotonic() + LOG_SECONDS
    while True:
        seen = [line for line in _log(pop)[before:] if "HeadlessChrome" in line["user_agent"]]
        missing = [name for name in wanted if not any(line["target"].startswith(name) for line in seen)]
        if not missing or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    answered = {line["target"]: f"{line['status']} {line['cache']}" for line in seen}
    say(f"{site.name}: Chromium asked the POP for {answered}")
    tally.notes["Chromium: requests through the POP"] += len(seen)
    tally.notes["Chromium: of them hits"] += sum(line["cache"] == "hit" for line in seen)
    failed = [
        f"{name}: {how}" for name, how in answered.items() if how[0] not in "23" and not _as_origin(site, name, how)
    ]
    tally.check("Chromium: loads through the POP", site.page.target, *[f"{m} was not asked" for m in missing], *failed)


def _as_origin(site: Site, target: str, how: str) -> bool:
    """Whether the origin itself gives this status: pages name things that are not there."""
    return how.startswith(str(probe(site.server.port, "GET", target, host=site.host).status))


def _log(pop: Pop) -> list[dict[str, Any]]:
    """The access log's whole lines so far."""
    lines = []
    for line in pop.process.written.read_bytes().split(b"\n")[:-1]:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
