"""Rules by country on a POP that knows no country: refused at start, not left to refuse all clients, or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgecache.config.settings import load
from edgecache.semantics.errors import ConfigError
from edgecache.server.cli import main

START = '[[sites]]\nname = "a"\nhosts = ["*"]\norigin = "http://192.0.2.1"\n[[sites.rules]]\nname = "r"\n'
ASKING = {
    'access.allow_countries = ["DE"]\n': "access.allow_countries",
    'access.deny_countries = ["DE"]\n': "access.deny_countries",
    'when.country = "DE"\nrespond = {}\n': "when.country",
    'when = { not = { country = ["DE", "FR"] } }\nrespond = {}\n': "when.not.country",
    'when = { any = [{ path = "/a" }, { country = "DE" }] }\nrespond = {}\n': "when.any[2].country",
    "cache.key.country = true\n": "cache.key.country",
}


@pytest.mark.parametrize(("rule", "key"), ASKING.items(), ids=ASKING.values())
def test_a_country_that_nothing_can_tell_refuses_the_start(
    rule: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one sentence, with file, line and key; rules about regions alone tell no country either."""
    file = tmp_path / "sites.toml"
    file.write_text(START + rule)
    for name in [name for name in os.environ if name.startswith("EDGECACHE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGECACHE_SITES", str(file))
    for more in ("", "country:DE=eu"):
        monkeypatch.setenv("EDGECACHE_GEO_RULES", more)
        for command in ("check-config", "serve"):
            assert main([command]) == 2
            said = capsys.readouterr().err
            place = f"EDGECACHE_SITES: {file}:7: sites[1].rules[1].{key}"
            assert said == f"{place}: needs EDGECACHE_GEO_DB: without it no country is known\n"
    environ = {"EDGECACHE_SITES": str(file)}
    with pytest.raises(ConfigError, match="without it no country is known"):  # a reload reads by this, too
        load(environ)
    assert load({**environ, "EDGECACHE_GEO_OVERRIDES": "192.0.2.0/24=DE"}).sites is not None


def test_rules_that_ask_for_no_country_need_no_database() -> None:
    """An empty list, and a key that is false, ask for nothing."""
    for rule in ("access.public = true\n", "cache.key.country = false\ncache.key.device = true\n"):
        assert load({"EDGECACHE_SITES": START + rule}).sites is not None
