"""Secrets in files of their own: what they become, how one is refused, and that nothing tells what is in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from harness.pop_process import running_pop

from edgecache.config.docs import effective_table
from edgecache.config.schema import MASK
from edgecache.config.secret_files import SECRETS
from edgecache.config.settings import ROWS, load
from edgecache.config.sources import Source
from edgecache.semantics.errors import ConfigError
from edgecache.server.cli import main
from edgecache.server.config_reload import Configuration
from edgecache.server.worker_main import DEFAULT_WORKER
from edgecache.telemetry.metrics import Registry

ORIGIN = {"EDGECACHE_ORIGIN": "http://origin.example"}
CANARY = "canary-0123456789"
VALUES = {
    "EDGECACHE_ADMIN_TOKEN": CANARY,
    "EDGECACHE_PEERS": f"us=valkey://:{CANARY}@us.example",
    "EDGECACHE_POP_SECRET": f"{CANARY},{CANARY}-old",
    "EDGECACHE_PURGE_TOKENS": f"cms={CANARY}",
    "EDGECACHE_REGIONAL": f"valkey://:{CANARY}@valkey.example",
    "EDGECACHE_REGIONAL_KEY": "00" * 32,
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings."""
    for name in [name for name in os.environ if name.startswith("EDGECACHE_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def in_files(directory: Path, values: dict[str, str], end: str = "\n") -> dict[str, str]:
    """An environment that names a file for each of these."""
    for name, value in values.items():
        (directory / name).write_text(value + end)
    return {f"{name}_FILE": str(directory / name) for name in values}


def refused(environ: dict[str, str]) -> str:
    """The one line that refuses an environment."""
    with pytest.raises(ConfigError) as refusal:
        load(Source({**ORIGIN, **environ}).read())
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_every_secret_can_lie_in_a_file() -> None:
    """All rows that are secret, and the URL that may hold a password."""
    assert set(SECRETS) == {name for name, row in ROWS.items() if row.secret} | {"EDGECACHE_REGIONAL"} == set(VALUES)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_is_as_good_as_the_variable(tmp_path: Path, end: str) -> None:
    """The settings are the same, whatever ends the file; the variables that name files are passed on to nobody."""
    environ = Source({**ORIGIN, **in_files(tmp_path, VALUES, end)}).read()

    assert load(environ) == load({**ORIGIN, **VALUES})
    assert not [name for name in environ if name.endswith("_FILE")]


def test_the_configuration_file_may_name_them(tmp_path: Path) -> None:
    """A path is no secret, and an empty one is none."""
    files = in_files(tmp_path, {"EDGECACHE_ADMIN_TOKEN": CANARY})
    (tmp_path / "conf").write_text("".join(f"{name}={path}\n" for name, path in files.items()))
    environ = {**ORIGIN, "EDGECACHE_PEERS_FILE": "", "EDGECACHE_ADMIN_TOKEN": " "}
    source = Source(environ, str(tmp_path / "conf"))

    assert load(source.read()).admin_token == CANARY
    assert source.secret_paths == list(files.values())


def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path) -> None:
    """Set twice, not there, a directory, empty, no text: each names the variable, and refuses."""
    name = "EDGECACHE_ADMIN_TOKEN"
    (file,) = in_files(tmp_path, {name: CANARY}).values()
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    start = f"{name}_FILE: "

    assert refused({f"{name}_FILE": file, name: "x"}) == start + f"is set, and so is {name}: one of them is enough"
    assert refused({f"{name}_FILE": "/no/x"}) == start + "/no/x cannot be read: No such file or directory"
    assert refused({f"{name}_FILE": str(tmp_path)}) == start + f"{tmp_path} cannot be read: Is a directory"
    assert refused({f"{name}_FILE": str(tmp_path / "empty")}) == start + f"{tmp_path}/empty is empty"
    assert refused({f"{name}_FILE": str(tmp_path / "binary")}) == start + f"{tmp_path}/binary is not text in UTF-8"
    assert refused({"EDGECACHE_LISTEN_FILE": file}).startswith("EDGECACHE_LISTEN_FILE: is not a setting")


@pytest.mark.parametrize("name", [name for name in SECRETS if name != "EDGECACHE_ADMIN_TOKEN"])
def test_nothing_tells_what_is_in_it(tmp_path: Path, name: str) -> None:
    """A file that holds something else, such as the bare password, is refused without a word of it."""
    assert CANARY not in refused(in_files(tmp_path, {name: f"? {CANARY}"}))
    environ = Source({**ORIGIN, **in_files(tmp_path, VALUES)}).read()
    table = effective_table(environ)
    line = next(line for line in table.splitlines() if line.startswith(name + " "))

    assert line.split()[1:4] == [MASK, "secret", "file"]
    assert CANARY not in table + repr(load(environ))


def test_they_are_read_again_at_a_reload(tmp_path: Path) -> None:
    """A change of the file is a change of the configuration; one that is gone is refused, and changes nothing."""
    files = in_files(tmp_path, {"EDGECACHE_PURGE_TOKENS": f"cms={CANARY}"})
    source = Source({**ORIGIN, **files})
    configuration = Configuration(source, load(source.read()), Registry())
    path = tmp_path / "EDGECACHE_PURGE_TOKENS"
    path.write_text("cms=another-0123456789\n")
    seen = [configuration.has_changed(), configuration.has_changed()]
    change = configuration.read_again()

    assert seen == [False, True]
    assert change.relief == ("EDGECACHE_PURGE_TOKENS",)
    assert change.settings.purge_tokens[0].secret == change.environ["EDGECACHE_PURGE_TOKENS"].partition("=")[2]
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        configuration.read_again()
    assert configuration.settings is change.settings


def test_the_purge_command_reads_only_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever may purge need not be able to read the other secrets; what is wrong with the file is exit 2."""
    (tmp_path / "conf").write_text("EDGECACHE_ADMIN_LISTEN=127.0.0.1:1\nEDGECACHE_REGIONAL_KEY_FILE=/no/x\n")

    assert main(["purge", "--everything", "--config", str(tmp_path / "conf")]) == 1
    assert capsys.readouterr().err.startswith("edgecache purge: http://127.0.0.1:1 does not answer")
    (tmp_path / "conf").write_text("EDGECACHE_ADMIN_TOKEN_FILE=/no/x\n")
    assert main(["purge", "--everything", "--config", str(tmp_path / "conf")]) == 2
    assert capsys.readouterr().err == "EDGECACHE_ADMIN_TOKEN_FILE: /no/x cannot be read: No such file or directory\n"


@pytest.mark.slow
def test_a_real_pop_takes_its_secrets_from_files(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`serve` and `purge` with one configuration file: the token is asked for, given, and in no log."""
    files = in_files(tmp_path, {"EDGECACHE_ADMIN_TOKEN": CANARY})
    with running_pop(worker=DEFAULT_WORKER, log_level="debug", environment=files) as pop:
        pop.expect_worker()
        lines = [f"{name}={path}" for name, path in files.items()] + [
            f"EDGECACHE_ADMIN_LISTEN=127.0.0.1:{pop.admin_port}"
        ]
        (tmp_path / "conf").write_text("\n".join(lines))
        assert pop.admin("/metrics")[0] == 401
        environment.setenv("EDGECACHE_CONFIG_FILE", str(tmp_path / "conf"))
        assert main(["purge", "--everything"]) == 0
        assert json.loads(capsys.readouterr().out)["id"]
        pop.process.terminate()
        pop.expect("ended code=0")

    assert CANARY not in pop.whole_log
