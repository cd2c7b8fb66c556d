"""What refuses the start: contradictions, and with `check-config --connect` all that `serve` needs around it."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.pop import refusing_port
from harness.ports import free_port
from harness.valkey import running_valkey

from edgecache.config.settings import load
from edgecache.config.validation import not_served
from edgecache.semantics.errors import ConfigError
from edgecache.server.cli import main
from edgecache.valkey import embedded_server

ORIGIN = {
    "EDGECACHE_ORIGIN": "http://origin.example",
    "EDGECACHE_LISTEN": "127.0.0.1:0",
    "EDGECACHE_ADMIN_LISTEN": "127.0.0.1:0",
}
REGIONS = {"origin": "", "origins": "eu=http://a.example,us=http://b.example"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that is good."""
    for name in [name for name in os.environ if name.startswith("EDGECACHE_")]:
        monkeypatch.delenv(name)
    for name, value in ORIGIN.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def named(settings: dict[str, str]) -> dict[str, str]:
    """An environment with these settings."""
    return ORIGIN | {f"EDGECACHE_{name.upper()}": value for name, value in settings.items()}


@pytest.mark.parametrize(
    ("variable", "words", "settings"),
    [
        ("REGIONAL_DIRECTORY", "EDGECACHE_REGIONAL is not embedded", {"regional_directory": "/data"}),
        (
            "REGIONAL_DIRECTORY",
            "EDGECACHE_REGIONAL is not embedded",
            {"regional_directory": "/data", "regional": "valkey://a"},
        ),
        ("REGIONAL_KEY", "EDGECACHE_REGIONAL is off", {"regional_key": "00" * 32, "store": "off"}),
        ("REGIONAL_REQUIRED", "EDGECACHE_REGIONAL is off", {"regional_required": "on"}),
        ("REGIONAL_REPLICAS", "no Valkey has Sentinels", {"regional_replicas": "on", "regional": "valkey://a"}),
        ("HTTPS_REDIRECT", "nothing comes over https", {"https_redirect": "on"}),
        ("HTTPS_REDIRECT", "nothing comes over https", {"https_redirect": "8443"}),
        ("HSTS", "nothing comes over https", {"hsts": "max-age=5"}),
        ("GEO_RULES", "names ap, a region without EDGECACHE_ORIGINS", REGIONS | {"geo_rules": "country:DE=eu,*=ap"}),
        (
            "ORIGIN",
            "the same as EDGECACHE_ADMIN_LISTEN",
            {"origin": "http://localhost:9900", "admin_listen": "[::]:9900"},
        ),
        ("ORIGIN", "the same as EDGECACHE_LISTEN", {"origin": "http://127.0.0.1:80", "listen": "0.0.0.0:80"}),
        (
            "ORIGINS",
            "the same as EDGECACHE_LISTEN",
            {"origin": "", "origins": "eu=http://a.example|http://localhost:80", "listen": "127.0.0.1:80"},
        ),
    ],
)
def test_contradictions_are_refused(variable: str, words: str, settings: dict[str, str]) -> None:
    """What would do nothing, or the opposite of what it says, is one line that names the setting."""
    with pytest.raises(ConfigError) as refusal:
        load(named(settings))

    assert refusal.value.variable == f"EDGECACHE_{variable}"
    assert words in refusal.value.problem


@pytest.mark.parametrize(
    "settings",
    [
        {"regional_directory": "/data", "regional": "embedded"},
        {"regional_key": "00" * 32, "regional": "valkey://a"},
        {"regional_replicas": "on", "regional": "valkey+sentinel://a/main"},
        {"https_redirect": "on", "hsts": "max-age=5", "trusted_proxies": "10.0.0.0/8"},
        REGIONS | {"geo_rules": "country:DE=eu,*=us"},
        REGIONS | {"geo_rules": "*=ap", "residency": "eu:EU,us:US,ap:AP,local:EU"},
        {"origin": "http://localhost:8081", "listen": "127.0.0.1:8080"},
    ],
)
def test_what_goes_together_is_taken(settings: dict[str, str]) -> None:
    """The same settings, each with what it needs."""
    load(named(settings))


def test_rules_that_do_less_than_one_may_think_are_said() -> None:
    """A region that the only origin is told of, and one in whose jurisdiction nobody can be asked."""
    residency = {"residency": "eu:EU,us:US,ap:AP,na:US,local:EU"}

    assert list(not_served(load(named({"geo_rules": "*=us"})))) == [
        "EDGECACHE_GEO_RULES names us: EDGECACHE_ORIGIN serves all regions, and is told which"
    ]
    assert list(not_served(load(named(REGIONS | residency | {"geo_rules": "country:DE=na,*=ap"})))) == [
        "EDGECACHE_GEO_RULES names ap: no origin is in its jurisdiction, so its clients get 503"
    ]
    assert list(not_served(load(named({"geo_rules": "*=local"})))) == []


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of `check-config`."""
    code = main(["check-config", *arguments])
    return code, capsys.readouterr().err


def test_what_plain_check_config_does_not_try_is_said(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The settings by which `serve` may fail all the same are named; --connect tries them."""
    environment.setenv("EDGECACHE_REGIONAL", "embedded")
    names = "EDGECACHE_LISTEN, EDGECACHE_ADMIN_LISTEN, EDGECACHE_REGIONAL\n"

    assert checked(capsys) == (0, f"not tried without --connect: {names}")
    assert checked(capsys, "--connect") == (0, f"tried: {names}")


@pytest.mark.parametrize("variable", ["EDGECACHE_LISTEN", "EDGECACHE_ADMIN_LISTEN"])
@pytest.mark.parametrize("where", ["taken", "192.0.2.1:8080", "nobody.invalid:8080", "a..b:8080", "a" * 64 + ":8080"])
def test_addresses_are_tried(
    variable: str, where: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is in use, another machine's, or no name: refused in the words of `serve`, without a traceback."""
    with ExitStack() as stack:
        if where == "taken":
            taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            where = f"127.0.0.1:{taken.getsockname()[1]}"
        environment.setenv(variable, where)
        assert checked(capsys)[0] == 0
        code, said = checked(capsys, "--connect")
        assert (main(["serve"]), capsys.readouterr().err) == (code, said)

    assert code == 2
    assert said.startswith(f"{variable}: {where} ")
    assert said.count("\n") == 1


def test_addresses_are_free_again_after_the_check(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A check changes nothing: it can be repeated, with several workers too."""
    environment.setenv("EDGECACHE_LISTEN", f"127.0.0.1:{free_port()}")
    environment.setenv("EDGECACHE_WORKERS", "2")

    assert [checked(capsys, "--connect")[0] for _ in range(2)] == [0, 0]


def test_directories_are_tried(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One that cannot be made, and one that another POP has."""
    environment.setattr(embedded_server, "END_WITHIN", 0.1)
    environment.setenv("EDGECACHE_REGIONAL", "embedded")
    (tmp_path / "file").write_text("")
    environment.setenv("EDGECACHE_REGIONAL_DIRECTORY", str(tmp_path / "file" / "x"))
    assert checked(capsys)[0] == 0
    assert checked(capsys, "--connect") == (
        2,
        f"EDGECACHE_REGIONAL_DIRECTORY: {tmp_path}/file/x cannot be written: Not a directory\n",
    )
    environment.setenv("EDGECACHE_REGIONAL_DIRECTORY", str(tmp_path / "data"))
    with embedded_server.locked_directory(str(tmp_path / "data")):
        code, said = checked(capsys, "--connect")
    assert (code, "is in use by another POP" in said) == (2, True)


@pytest.mark.slow
def test_valkey_is_tried(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong credentials are refused, an unreachable one too where it is required."""
    with running_valkey() as server:
        server.db.config_set("requirepass", "right")
        environment.setenv("EDGECACHE_REGIONAL", f"valkey://:canary@127.0.0.1:{server.port}")
        assert checked(capsys)[0] == 0
        code, said = checked(capsys, "--connect")
    assert (code, "refuses access" in said, "canary" in said) == (2, True, False)
    environment.setenv("EDGECACHE_REGIONAL", f"valkey://127.0.0.1:{refusing_port()}")
    environment.setenv("EDGECACHE_REGIONAL_REQUIRED", "on")
    code, said = checked(capsys, "--connect")
    assert (code, "cannot be reached" in said) == (2, True)
