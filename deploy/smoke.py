"""Prove that the chain of deploy/docker-compose.yml works: make deploy-up, then this; exit 1 if it does not.

First what has to be seen while everything is up, then each container stopped, killed and restarted under load.
Needs Python 3.11 and docker, nothing else.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from chain import SERVICES, Failed
from smoke_checks import CHECKS, all_well
from smoke_faults import ACTIONS, Site, failover, faulted, warm


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was chosen, print a row for each; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("checks", "faults"), help="half of it")
    parser.add_argument("--service", choices=SERVICES, nargs="+", default=SERVICES, help="fault these containers only")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()
    passed = [_report("all well", "", all_well)]
    if chosen.only != "faults":
        passed += [_report(name, "", check) for name, check in CHECKS.items()]
    if chosen.only != "checks":
        passed += _faults(chosen.service)
    print(f"{sum(passed)} of {len(passed)} as they should be, in {time.monotonic() - began:.0f} s")
    return 0 if all(passed) else 1


def _faults(services: Sequence[str]) -> list[bool]:
    site = Site()
    passed = [_report("load", "", site.learn)]
    if "shield" in services:
        passed.append(_report("failover", "", partial(failover, site)))
    if "edge-eu" in services:
        passed.append(_report("warm restart", "", partial(warm, site)))
    for service in services:
        passed += [_report(service, action, partial(faulted, site, service, action)) for action in ACTIONS]
    print(f"{site.total.answers} answers under load, {len(site.total.failures)} failed")
    return passed


def _report(name: str, action: str, check: Callable[[], str]) -> bool:
    """Print one row of the table."""
    try:
        words, passed = check(), True
    except (Failed, OSError, http.client.HTTPException, LookupError, ValueError) as error:
        words, passed = str(error) or type(error).__name__, False
    print(f"{'ok' if passed else 'FAILED':<7}{name:<16}{action:<9}{words}", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
