"""The command line: what an operator types, reads, and gets as an exit code."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
from harness.pop_process import running_pop

from edgecache import __version__
from edgecache.config.docs import reference, sample_file
from edgecache.config.settings import ROWS
from edgecache.server.cli import main
from edgecache.server.worker_main import DEFAULT_WORKER

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with an origin and no other setting."""
    for name in [name for name in os.environ if name.startswith("EDGECACHE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGECACHE_ORIGIN", "http://origin.example")
    return monkeypatch


def test_check_config_prints_every_setting(capsys: Output) -> None:
    """A configuration that `serve` would take is printed whole, with exit 0."""
    assert main(["check-config"]) == 0

    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == list(ROWS)
    assert printed.err == "not tried without --connect: EDGECACHE_LISTEN, EDGECACHE_ADMIN_LISTEN\n"


def test_check_config_refuses_what_serve_would_refuse(environment: pytest.MonkeyPatch, capsys: Output) -> None:
    """A bad value is printed in the table and refused in one line, with exit 2."""
    environment.setenv("EDGECACHE_LISTEN", "80808")

    assert main(["check-config"]) == 2
    assert capsys.readouterr().err == 'EDGECACHE_LISTEN: "80808" is not host:port\n'


@pytest.mark.parametrize(("option", "page"), [("--markdown", reference), ("--sample", sample_file)])
def test_check_config_prints_the_pages_of_settings(option: str, page: Callable[[], str], capsys: Output) -> None:
    """What `make docs` writes into docs/."""
    assert main(["check-config", option]) == 0
    assert capsys.readouterr().out == page() + "\n"


def test_serve_needs_an_origin(environment: pytest.MonkeyPatch, capsys: Output) -> None:
    """Without an origin and without --demo the start is refused."""
    environment.delenv("EDGECACHE_ORIGIN")

    assert main(["serve"]) == 2
    assert capsys.readouterr().err.startswith("EDGECACHE_ORIGIN: is required")


@pytest.mark.parametrize("variable", ["EDGECACHE_LISTEN", "EDGECACHE_ADMIN_LISTEN"])
def test_serve_refuses_a_port_in_use(variable: str, environment: pytest.MonkeyPatch, capsys: Output) -> None:
    """A port in use is one clear line and exit 2, for either listener."""
    environment.setenv("EDGECACHE_LISTEN", "127.0.0.1:0")
    environment.setenv("EDGECACHE_ADMIN_LISTEN", "127.0.0.1:0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        environment.setenv(variable, address)

        assert main(["serve"]) == 2
    assert capsys.readouterr().err == f"{variable}: {address} is in use\n"


def test_help_names_the_commands_but_not_the_hidden_one(capsys: Output) -> None:
    """Help shows what an operator may type."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert "serve" in printed
    assert "check-config" in printed
    assert "_worker" not in printed


def test_version(capsys: Output) -> None:
    """`--version` prints name and version."""
    with pytest.raises(SystemExit):
        main(["--version"])

    assert capsys.readouterr().out == f"edgecache {__version__}\n"


def test_an_unknown_variable_ends_a_real_process_with_2() -> None:
    """`python -m edgecache serve` with a misspelt setting exits 2 with one line and no traceback."""
    environ = {**os.environ, "EDGECACHE_WORKRES": "2"}
    ended = subprocess.run(
        [sys.executable, "-m", "edgecache", "serve"], env=environ, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 2
    assert ended.stderr == "EDGECACHE_WORKRES: is not a setting; did you mean EDGECACHE_WORKERS?\n"


@pytest.mark.slow
def test_purge_by_the_command_line(environment: pytest.MonkeyPatch, capsys: Output) -> None:
    """A real POP with two workers and an embedded Valkey: purged when the command says so, refused without a token."""
    token = "a-token-that-may-purge"
    with running_pop(worker=DEFAULT_WORKER, admin_token=token, regional="embedded", workers=2) as pop:
        pop.expect_worker()
        os.kill(pop.expect_worker(), signal.SIGKILL)  # nobody waits for the dead
        pop.expect_worker()
        admin = ("--admin", f"http://127.0.0.1:{pop.admin_port}")
        environment.setenv("EDGECACHE_ADMIN_TOKEN", token)
        assert main(["purge", "--tag", "a", "--wait", "all", *admin]) == 0
        assert json.loads(capsys.readouterr().out)["state"] == "applied"
        environment.setenv("EDGECACHE_ADMIN_TOKEN", "a-token-that-may-not")
        assert main(["purge", "--everything", *admin]) == 1
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == ("", 1)
        assert main(["purge", *admin]) == 1
        assert "name something" in capsys.readouterr().err
    assert main(["purge", "--everything", *admin]) == 1
    assert "does not answer" in capsys.readouterr().err
