"""The options of every program that starts a chain."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

from loadtests.lab.chain import Plan


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """What every program that starts a chain offers."""
    parser.add_argument(
        "--shield", action=argparse.BooleanOptionalAction, default=Plan.shield, help="before the origin"
    )
    parser.add_argument("--workers", type=int, default=Plan.workers, help="of each POP (1)")
    parser.add_argument("--edge-memory", default=Plan.edge_memory, help=f"of each edge ({Plan.edge_memory})")
    parser.add_argument("--set", action="append", type=setting, default=[], metavar="EDGECACHE_…=…", help="repeatable")
    parser.add_argument(
        "--delay", action="append", type=delay, default=[], metavar="FROM:TO=40ms", help="each way; repeatable"
    )


def plan_of(options: argparse.Namespace, more: Mapping[str, str] | None = None) -> Plan:
    """The plan that the options ask for; `more` are settings of every POP which the options may override."""
    return Plan(
        regions=getattr(options, "regions", Plan.regions),
        shield=options.shield,
        workers=options.workers,
        edge_memory=options.edge_memory,
        settings={**(more or {}), **dict(options.set)},
        delays=dict(options.delay),
    )


def setting(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name.startswith("EDGECACHE_"):
        raise argparse.ArgumentTypeError("EDGECACHE_NAME=VALUE")
    return name, value


def delay(text: str) -> tuple[tuple[str, str], float]:
    """FROM:TO=MILLISECONDSms; the parts are named as the POPs are, and `origin`."""
    found = re.fullmatch(r"([\w-]+):([\w-]+)=([0-9]+)ms", text)
    if found is None:
        raise argparse.ArgumentTypeError("FROM:TO=40ms")
    return (found[1], found[2]), int(found[3]) / 1000
