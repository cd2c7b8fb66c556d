"""A Django blog with users, sessions, an admin and a post for each package of this machine, served by gunicorn."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadtests.correctness.real_sites import data, sessions
from loadtests.correctness.real_sites.crawls import spread
from loadtests.correctness.real_sites.environment import private_python, versions
from loadtests.correctness.real_sites.rules import Moving
from loadtests.correctness.real_sites.site import Page, Site
from loadtests.lab.processes import Missing, Process, free_port, last_line

HOST = "blog.test"
HERE = Path(__file__).parent
PACKAGES = ("django>=5,<6", "gunicorn", "whitenoise")
MOVING = (
    Moving("the CSRF token of a form", r'name="csrfmiddlewaretoken" value="[A-Za-z0-9]{64}"'),
    Moving("the CSRF cookie, the visitor's cookie", r"^(?:csrftoken|visitor)=[A-Za-z0-9]+", "set-cookie"),
    Moving("the end of a cookie's life", r"(?<=; )expires=[^;]+", "set-cookie"),
)
UNASKED = ("header", "shared", "Perl")
WORDS = ("library", "python", "compiler", "fonts", "runtime", "documentation", "XML", "kernel", "nowhere-to-be-found")


def site(folder: Path, environments: Path, count: int) -> Site:
    """The blog, ready to be started with at least `count` targets."""
    python = private_python(environments / "django", *PACKAGES)
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "BLOG_FOLDER": str(folder),
        "BLOG_HOST": HOST,
        "BLOG_SECRET": secrets.token_hex(32),
        "DJANGO_SETTINGS_MODULE": "blog_site.settings",
        "PYTHONPATH": str(HERE),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    made = fill(python, environment)
    port = free_port()
    serve = [str(python), "-m", "gunicorn", "blog_site.wsgi", "--bind", f"127.0.0.1:{port}", "--no-control-socket"]
    serve += ["--worker-class", "gthread", "--workers", "2", "--threads", "8"]
    about = f"{versions(python, 'django', 'gunicorn', 'whitenoise')}; {len(made['posts'])} posts, admin, sessions, CSRF"
    return Site(
        name="django",
        host=HOST,
        about=about,
        server=Process("gunicorn", serve, port, "/about/", folder, environment, status=499),
        targets=list(dict.fromkeys(targets(made, count))),
        page=Page("/", ["Latest posts", "Packages, a blog"], ["/static/admin/css/base.css", "/static/admin/img/"]),
        moving=MOVING,
        herds=[f"/search/?q={word}" for word in UNASKED],
        further=(sessions.private_pages, sessions.writes, sessions.languages, sessions.uploads),
    )


def fill(python: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Make the database; what there is to ask for."""
    given = {
        "users": sessions.USERS,
        "password": sessions.PASSWORD,
        "packages": [package._asdict() for package in data.packages()],
    }
    command = [str(python), "-m", "blog_site.fill"]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        input=json.dumps(given).encode(),
        capture_output=True,
        check=False,
        timeout=180,
    )
    if done.returncode:
        raise Missing(f"the blog's database cannot be made: {last_line(done.stderr)}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def targets(made: dict[str, Any], count: int) -> Iterator[str]:
    """Posts and comments, lists, feeds, static files, pages of one user, redirects, and what is not there."""
    posts = made["posts"]
    yield from (
        "/",
        "/about/",
        "/feed/",
        "/sitemap.xml",
        "/export.csv",
        "/login/",
        "/greeting/",
        "/account/",
        "/offer/",
    )
    yield from ("/basket/", "/profile/")
    yield from ("/admin/", "/admin/login/?next=/admin/", "/admin/blog/post/", "/digest/", "/robots.txt", "/favicon.ico")
    yield from (f"/?page={number}" for number in range(2, len(posts) // 10 + 2))
    yield from (f"/section/{name}/" for name in made["sections"])
    yield from (f"/archive/{month}/" for month in made["months"])
    yield from (f"/search/?q={word}" for word in WORDS)
    yield from spread(made["static"], max(1, count // 5))
    yield from (f"/post/{slug}" for slug in spread(posts, max(1, count // 30)))  # no slash: redirected
    yield from (f"/post/not-there-{number}/" for number in range(count // 50))
    yield from (f"/post/{slug}/" for slug in spread(posts, max(1, count // 2)))
    yield from (f"/post/{slug}/comments/" for slug in spread(posts, max(1, count // 3)))
