"""What sends purges: how each is had, how it is run, and what must be new after it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtests import ROOT
from loadtests.correctness.real_sites.environment import node_packages, private_python, versions
from loadtests.lab.processes import Missing

HERE = Path(__file__).parent
DOCUMENTED = ROOT / "docs" / "purging.md"
PAGES = ("/", "/blog/", "/blog/a", "/blog/a?page=2", "/blogger", "/shop/")
WORDPRESS_PLUGINS = {"varnish-http-purge": "Proxy Cache Purge", "nginx-helper": "nginx-helper"}


@dataclass(frozen=True)
class Purge:
    """One purge: by what, how it is run once the POP's port is known, and the pages that must be new."""

    name: str
    command: Callable[[int], list[str]]
    new: frozenset[str]
    env: Callable[[int], Mapping[str, str]] = field(default=lambda port: {})


def wagtail(environments: Path) -> Iterator[Purge]:
    """Wagtail's HTTPBackend, as its signals call it."""
    python = private_python(environments / "wagtail", "wagtail")
    script, about = str(HERE / "wagtail_site.py"), versions(python, "wagtail")

    def command(port: int) -> list[str]:
        site = f"https://localhost:{port}"  # the port of its own URLs means nothing to a purge
        return [str(python), script, f"http://127.0.0.1:{port}", f"{site}/blog/a", f"{site}/shop/"]

    yield Purge(about, command, frozenset(("/blog/a", "/shop/")))


def fastly(environments: Path) -> Iterator[Purge]:
    """npm's fastly-purge, by URL; its other calls go to Fastly's own address."""
    folder = environments / "fastly"
    node = node_packages(folder, "fastly-purge@1.0.1")
    script, modules = str(HERE / "fastly.js"), str(folder / "node_modules")

    def command(port: int) -> list[str]:
        return [node, script, modules, f"http://localhost:{port}/blog/a?page=2"]

    yield Purge("fastly-purge 1.0.1", command, frozenset(("/blog/a?page=2",)))


def wordpress(folder: Path, wordpress: Path, plugins: Path | None) -> Iterator[Purge]:
    """The plug-ins that lie in `plugins`, on the WordPress in `wordpress`."""
    php = shutil.which("php")
    found = [name for name in WORDPRESS_PLUGINS if plugins is not None and (plugins / name).is_dir()]
    if not found or plugins is None:
        raise Missing(
            "no WordPress plug-in: --plugins names the directory that holds varnish-http-purge or nginx-helper"
        )
    if php is None or not (wordpress / "wp-includes").is_dir():
        raise Missing(f"{wordpress} is no WordPress, or there is no php (Debian: wordpress, php-cli, php-curl)")
    must_use = folder / "edgecache.php"
    must_use.write_text(documented("php"))
    for name in found:
        for what, new in (("/blog/a", {"/blog/a"}), ("all", set(PAGES))):
            argv = [php, str(HERE / "wordpress.php"), str(wordpress), str(plugins / name), str(must_use), what]
            yield Purge(f"{WORDPRESS_PLUGINS[name]}, {what}", lambda port, argv=argv: argv, frozenset(new), _site)


def _site(port: int) -> dict[str, str]:
    return {"HOME_URL": f"http://localhost:{port}", "POP": f"127.0.0.1:{port}"}


def documented(language: str) -> str:
    """The first example in `language` of the page on purges."""
    return DOCUMENTED.read_text().split(f"```{language}\n", 1)[1].split("```", 1)[0]
