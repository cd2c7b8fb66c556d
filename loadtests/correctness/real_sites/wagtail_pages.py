"""Wagtail with a page for each of some articles, one page for members and a form, served by gunicorn from SQLite."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.correctness.real_sites import sessions
from loadtests.correctness.real_sites.environment import private_python, versions
from loadtests.lab.processes import Missing, Process, last_line

HOST = "www.example.org"
HERE = Path(__file__).parent
PACKAGES = ("wagtail>=7,<9", "gunicorn", "whitenoise")
EDITOR, MEMBER = "editor", "member"
ARTICLES = 60


class Wagtail(NamedTuple):
    """A site that can be started, and what there is to ask for."""

    about: str
    server: Process
    targets: list[str]
    ids: list[int]  # of the pages, in the order of the targets


def site(folder: Path, environments: Path, port: int, purges: str) -> Wagtail:
    """A site that listens on `port` and sends its purges to the URL `purges`."""
    python = private_python(environments / "wagtail-site", *PACKAGES)
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "WAGTAIL_FOLDER": str(folder),
        "WAGTAIL_HOST": HOST,
        "WAGTAIL_SECRET": secrets.token_hex(32),
        "WAGTAIL_PURGES": purges,
        "DJANGO_SETTINGS_MODULE": "wagtail_site.settings",
        "PYTHONPATH": str(HERE),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    made = _fill(python, environment)
    serve = [str(python), "-m", "gunicorn", "wagtail_site.wsgi", "--bind", f"127.0.0.1:{port}", "--no-control-socket"]
    serve += ["--worker-class", "gthread", "--workers", "2", "--threads", "4"]
    server = Process("gunicorn", serve, port, "/contact/", folder, environment, status=499)
    about = f"{versions(python, 'wagtail', 'django', 'gunicorn')}, {ARTICLES} articles"
    return Wagtail(about, server, made["targets"], made["ids"])


def _fill(python: Path, environment: dict[str, str]) -> dict[str, Any]:
    given = {"editor": EDITOR, "member": MEMBER, "password": sessions.PASSWORD, "host": HOST, "articles": ARTICLES}
    done = subprocess.run(
        [str(python), "-m", "wagtail_site.fill"],
        env={**os.environ, **environment},
        input=json.dumps(given).encode(),
        capture_output=True,
        check=False,
        timeout=180,
    )
    if done.returncode:
        raise Missing(f"Wagtail's database cannot be made: {last_line(done.stderr)}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
