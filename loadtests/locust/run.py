"""Start a chain on this machine, run scenarios of the load tests against it, print their tables, end everything.

    python -m loadtests load zipf|flash|purge|write … [--seconds 60] [--users N] [--rate N] [--trace FILE]
                             [--processes 2] [--ui] [--workers 1] [--set EDGECACHE_…=…] [--delay edge-us:shield=40ms]

Exit code: 0; 1 on any error or old answer; 2 if something does not start; 130 when interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from loadtests import ROOT
from loadtests.lab.chain import Chain, running_chain
from loadtests.lab.chain_options import add_plan_options, plan_of
from loadtests.lab.processes import StartError, end
from loadtests.locust.traces import read_trace

HERE = Path(__file__).resolve().parent
GRACE = 60.0  # seconds that locust has, over its run time, to begin and to end
FASTEST_SPAWN = 100  # users per second: more, and locust warns


class Scenario(NamedTuple):
    """How one scenario runs unless the command line says otherwise."""

    users: int
    rate: float  # tasks per second; what a task is differs


SCENARIOS = {
    "zipf": Scenario(50, 400),
    "flash": Scenario(200, 0),
    "purge": Scenario(30, 200),
    "write": Scenario(30, 150),
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="+", choices=SCENARIOS, metavar="|".join(SCENARIOS))
    parser.add_argument("--seconds", type=int, default=60, help="of load (60)")
    parser.add_argument("--users", type=int, help="at a time")
    parser.add_argument("--rate", type=float, help="tasks per second of all users; 0 is as fast as they can")
    parser.add_argument("--trace", type=Path, help="of zipf: a file of id,size lines, gzipped or not")
    parser.add_argument("--write-ack", choices=("local", "region", "all"), default="region", help="of write (region)")
    parser.add_argument("--processes", type=int, default=1, help="that make the load (1)")
    parser.add_argument("--ui", action="store_true", help="locust's web page on http://127.0.0.1:8089 until Ctrl-C")
    add_plan_options(parser)
    options = parser.parse_args(arguments)
    if options.trace is not None:
        try:
            read_trace(options.trace, 1)
        except (OSError, EOFError, ValueError) as error:
            parser.error(f"--trace {options.trace}: {error}")
    return options


def locust_command(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """The command that makes the load."""
    scenario = SCENARIOS[name]
    users = options.users or scenario.users
    rate = scenario.rate if options.rate is None else options.rate
    command = [sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), name.capitalize()]
    command += ["-u", str(users), "-r", str(min(users, FASTEST_SPAWN)), "--rate", str(rate), "--loglevel", "WARNING"]
    if options.ui:
        command += ["--web-host", "127.0.0.1"]
    else:  # the file instead of locust's own tables
        command += ["--headless", "--only-summary", "-t", f"{options.seconds}s", "--json-file", str(folder / "locust")]
    if options.processes > 1:
        command += ["--processes", str(options.processes)]
    return command


def environment(options: argparse.Namespace, chain: Chain) -> dict[str, str]:
    """Where everything is, for the locustfile; the token is not for the list of processes."""
    told = {
        "PYTHONPATH": str(ROOT),
        "LOAD_EDGES": ",".join(edge.url for edge in chain.edges),
        "LOAD_ADMINS": ",".join(edge.admin_url for edge in chain.edges),
        "LOAD_ADMIN_TOKEN": chain.admin_token,
        "LOAD_OBJECT_ORIGIN": chain.origin_url,
        "LOAD_WRITE_ACK": options.write_ack,
        "LOAD_TRACE": str(options.trace.resolve()) if options.trace else "",
    }
    return {**os.environ, **told}


def run_locust(name: str, options: argparse.Namespace, chain: Chain, folder: Path) -> int:
    """Make the load of one scenario for as long as was asked, never for much longer; the exit code."""
    process = subprocess.Popen(
        locust_command(name, options, folder), env=environment(options, chain), start_new_session=True
    )
    try:
        code = process.wait(None if options.ui else options.seconds + GRACE)
        return code if code >= 0 else 1
    except subprocess.TimeoutExpired:
        print(f"load: {name}: locust does not end", file=sys.stderr)
        return 1
    finally:
        end(process)


def main() -> int:
    """Run in one temporary directory, which is removed whatever happens."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every `finally` still runs
    more = {"EDGECACHE_WRITE_ACK": options.write_ack}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="edgecache-load-") as folder,
            running_chain(plan_of(options, more), Path(folder)) as chain,
        ):
            return max([run_locust(name, options, chain, Path(folder)) for name in options.scenarios])
    except StartError as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
