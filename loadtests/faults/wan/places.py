"""What it costs to look a client's place up."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address

from edgecache.config.types import geo_overrides, geo_rules
from edgecache.proxy.geo_database import Geo
from loadtests import ROOT

DATABASE = ROOT / "tests" / "data" / "geo" / "GeoIP2-Country-Test.mmdb"
CLIENTS = 4096
ROUNDS = 20


def lookup_costs() -> tuple[float, float, float]:
    """Microseconds of a look-up: of an address seen before, of a new one in the database, of a new one by override.

    The least of several rounds over many addresses, the loop's own cost taken off.
    """
    overrides = geo_overrides(",".join(f"10.{number}.0.0/16=DE" for number in range(200)))
    rules = geo_rules("country:DE=eu,continent:NA=us,*=ap")
    recorded = [str(ip_address("81.2.69.0") + number) for number in range(CLIENTS)]
    overridden = [str(ip_address("10.0.0.0") + number * 997) for number in range(CLIENTS)]

    def fresh() -> Geo:
        return Geo(str(DATABASE), overrides, rules, "home")

    known = fresh()
    for address in recorded:
        known.locate(address)
    hit = min(_cost(known.locate, recorded) for _ in range(ROUNDS))
    return (
        hit,
        min(_cost(fresh().locate, recorded) for _ in range(3)),
        min(_cost(fresh().locate, overridden) for _ in range(3)),
    )


def _cost(locate: Callable[[str], object], addresses: list[str]) -> float:
    clock = time.process_time_ns
    began = clock()
    for address in addresses:
        locate(address)
    took = clock() - began
    began = clock()
    for _ in addresses:
        pass
    return (took - (clock() - began)) / len(addresses) / 1000
