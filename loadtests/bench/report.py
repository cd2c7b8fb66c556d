"""The figures as Markdown tables, and as JSON with every single round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from loadtests.bench.memory import Figure
from loadtests.bench.rounds import CROWDED, Round, Standing
from loadtests.bench.scenarios import Scenario

Cost = Callable[[Round], float]


def cost_of(scenario: Scenario) -> Cost:
    """What a scenario compares: CPU per request, or per GiB."""
    return (lambda r: r.cpu_ms_per_gib) if scenario.per_gib else (lambda r: r.cpu_us)


def ratio(standing: Standing, base: Standing | None, cost: Cost) -> float | None:
    """The median over the rounds of this server's cost divided by the base's in the same round."""
    if base is None or base.failures or standing.failures:
        return None
    return median(cost(own) / cost(other) for own, other in zip(standing.rounds, base.rounds, strict=True))


def table(scenario: Scenario, standings: Sequence[Standing], base_name: str) -> str:
    """One scenario's table: medians over the rounds."""
    unit, speed = ("CPU ms/GiB", "MB/s") if scenario.per_gib else ("CPU µs/request", "requests/s")
    base = next((standing for standing in standings if standing.name == base_name), None)
    lines = [
        f"### {scenario.name}: {scenario.title}",
        "",
        f"| server | {unit} | min to max | × {base_name} | {speed} | p50 ms | p99 ms | own core busy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(scenario, standing, base) for standing in standings]
    lines += [f"\n{each.name} FAILED: {'; '.join(each.failures)}" for each in standings if each.failures]
    lines += [f"\n{each.name}: {each.note}" for each in standings if each.note]
    lines += [f"\n{words}" for words, _ in _bounded(scenario, standings)]
    if (crowd := _crowd(standings)) > CROWDED:
        lines.append(f"\nNot alone: something else used the servers' core up to {crowd:.0%} of a round.")
    return "\n".join(lines)


def _crowd(standings: Sequence[Standing]) -> float:
    """The largest share of the servers' core that something else used in a round."""
    return max((each.others for standing in standings for each in standing.rounds), default=0.0)


def exceeded(scenario: Scenario, standings: Sequence[Standing]) -> list[str]:
    """The bounds of a scenario that do not hold, in words; none where something else kept the core busy."""
    if _crowd(standings) > CROWDED:
        return []
    return [words for words, holds in _bounded(scenario, standings) if not holds]


def _bounded(scenario: Scenario, standings: Sequence[Standing]) -> list[tuple[str, bool]]:
    """Each bound of a scenario in words, and whether it holds; those of servers that were measured."""
    named = {standing.name: standing for standing in standings}
    found = []
    for bound in scenario.bounds:
        measured = ratio(named[bound.name], named.get(bound.base), cost_of(scenario)) if bound.name in named else None
        if measured is not None:
            holds = measured <= bound.most
            verdict = "" if holds else ": **EXCEEDED**"
            words = f"{bound.name}: {measured:.2f} × {bound.base}, bound {bound.most:.2f}{verdict}"
            found.append((words, holds))
    return found


def _row(scenario: Scenario, standing: Standing, base: Standing | None) -> str:
    if standing.failures or not standing.rounds:
        return f"| {standing.name} | **FAILED** | - | - | - | - | - | - |"
    cost = cost_of(scenario)
    costs = [cost(each) for each in standing.rounds]
    compared = ratio(standing, base, cost)
    speeds = [r.megabytes_per_second if scenario.per_gib else r.requests_per_second for r in standing.rounds]
    cells = [
        standing.name,
        f"{median(costs):.1f}",
        f"{min(costs):.1f} to {max(costs):.1f}",
        "-" if compared is None else f"{compared:.2f}",
        f"{median(speeds):,.0f}",
        f"{median(each.load.p50_ms for each in standing.rounds):.2f}",
        f"{median(each.load.p99_ms for each in standing.rounds):.2f}",
        f"{median(each.busy for each in standing.rounds):.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def memory_table(figures: Sequence[Figure]) -> str:
    """The memory figures of edgecache."""
    heading = ["### memory (edgecache)", ""]
    lines = [*heading, "| what | per unit | MiB before | MiB after | MiB more |", "|---|---|---|---|---|"]
    for figure in figures:
        if figure.failures:
            lines.append(f"| {figure.title} | **FAILED**: {'; '.join(figure.failures)} | - | - | - |")
            continue
        before, after = figure.before / 2**20, figure.after / 2**20
        cells = f"{figure.per_unit:,.0f} B | {before:.1f} | {after:.1f} | {after - before:.1f}"
        lines.append(f"| {figure.title} | {cells} |")
    return "\n".join(lines)


def as_json(scenario: Scenario, standings: Sequence[Standing], base_name: str) -> dict[str, Any]:
    """One scenario with every round."""
    cost = cost_of(scenario)
    base = next((standing for standing in standings if standing.name == base_name), None)
    servers = {}
    for standing in standings:
        costs = [cost(each) for each in standing.rounds]
        servers[standing.name] = {
            "failures": standing.failures,
            "proof": standing.proof,
            "cost": median(costs) if costs else None,
            "ratio": ratio(standing, base, cost),
            "rounds": [asdict(each) for each in standing.rounds],
        }
    unit = "CPU ms per GiB" if scenario.per_gib else "CPU us per request"
    return {"title": scenario.title, "unit": unit, "ratio_to": base_name, "servers": servers}
