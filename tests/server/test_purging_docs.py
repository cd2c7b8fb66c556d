"""The recipes of docs/purging.md: their settings are accepted, and what the plug-ins send purges."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness.origin import OriginDouble
from harness.purging import filled, send, stale

PAGE = (Path(__file__).parents[2] / "docs" / "purging.md").read_text()
RELAYED = "\nX-Forwarded-For: 10.0.0.7"  # as if it came from the machine of the recipes


def blocks(language: str, text: str) -> list[str]:
    """The examples in a language."""
    return re.findall(rf"```{language}\n(.*?)\n```", text, re.DOTALL)


def recipes() -> list[tuple[str, dict[str, str], str]]:
    """Section, settings and request of each example."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        settings = dict(line.split("=", 1) for block in blocks("ini", section) for line in block.splitlines())
        found += [(section.partition("\n")[0], settings, request) for request in blocks("http", section)]
    return found


@pytest.mark.parametrize(
    ("settings", "request_"),
    [(settings, request) for _, settings, request in recipes()],
    ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(recipes())],
)
async def test_a_recipe_purges(origin: OriginDouble, settings: dict[str, str], request_: str) -> None:
    """Each request that the page shows purges something with the settings that it shows."""
    options = {name.removeprefix("EDGECACHE_").lower(): value for name, value in settings.items()}
    async with filled(origin, trusted_proxies="127.0.0.1", **options) as pop:
        status, _ = await send(pop, *(request_ + RELAYED).splitlines())
        assert status == 200
        assert await stale(pop)


def test_every_recipe_is_there() -> None:
    """Each plug-in has its section with an example."""
    named = " ".join(name for name, _, _ in recipes())
    for plugin in (
        "Proxy Cache Purge",
        "W3 Total Cache",
        "nginx-helper",
        "Wagtail",
        "Magento",
        "FOSHttpCache",
        "Fastly",
    ):
        assert plugin in named
