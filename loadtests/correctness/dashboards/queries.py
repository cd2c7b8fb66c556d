"""The queries under `deploy/`: read out of the files, and taken apart into metrics and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import yaml

from loadtests import ROOT

DEPLOY = ROOT / "deploy"
OF_PROMETHEUS = frozenset(("pop", "job", "instance", "le"))  # labels that a scrape adds, and that of buckets
_NAME = re.compile(r"\b(?:edgecache_[a-z0-9_]+|edgecache:[a-z0-9_:]+)")
_SELECTOR = re.compile(r"\b(edgecache[a-z0-9_:]+)\{([^}]*)\}")
_MATCHER = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"")
_BY = re.compile(r"\bby\s*\(([^)]*)\)")
_SERIES = re.compile(r"^([a-z_0-9]+)(?:\{(.*)\})? ")
_LABEL = re.compile(r'([a-z_]+)="')


class Query(NamedTuple):
    """One PromQL expression and where it stands."""

    place: str
    title: str
    expression: str

    @property
    def names(self) -> set[str]:
        """The metrics of ours that it asks for, recorded ones included."""
        return set(_NAME.findall(self.expression))

    @property
    def selected(self) -> set[tuple[str, str]]:
        """Metric and label of each matcher."""
        found = _SELECTOR.findall(self.expression)
        return {(name, label) for name, matchers in found for label in _MATCHER.findall(matchers)}

    @property
    def by(self) -> set[str]:
        """The labels that it groups by."""
        return {label.strip() for group in _BY.findall(self.expression) for label in group.split(",")}

    @property
    def selectors(self) -> set[str]:
        """Each metric with its matchers, as an instant query."""
        text = re.sub(r"\[[^\]]*\]|\boffset \w+", "", self.expression)
        alone = set(_NAME.findall(_SELECTOR.sub("", text)))
        return alone | {f"{name}{{{matchers}}}" for name, matchers in _SELECTOR.findall(text)}


def of_dashboards() -> Iterator[Query]:
    """Every target of every panel, and the variables."""
    for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for variable in board["templating"]["list"]:
            metric, _ = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            yield Query(path.stem, f"${variable['name']}", metric)
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield Query(path.stem, panel["title"], target["expr"])


def recorded() -> dict[str, Query]:
    """The recording rules by the name of what they record."""
    return {query.title: query for query in _rules("rules.yml", "record")}


def of_alerts() -> Iterator[Query]:
    """The alerts."""
    yield from _rules("alerts.yml", "alert")


def _rules(name: str, key: str) -> Iterator[Query]:
    for group in yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["groups"]:
        for rule in group["rules"]:
            yield Query(name.removesuffix(".yml"), rule[key], rule["expr"])


def every() -> list[Query]:
    """All of them."""
    return [*of_dashboards(), *recorded().values(), *of_alerts()]


def exported(text: str) -> dict[str, set[str]]:
    """The names of the labels of each metric in what `/metrics` says."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if (series := _SERIES.match(line)) is not None:
            found.setdefault(series[1], set()).update(_LABEL.findall(series[2] or ""))
    return found


def faults(query: Query, metrics: Mapping[str, set[str]]) -> list[str]:
    """What `query` asks for that `metrics` (names and their labels) do not have; recorded ones count as theirs."""
    known = {**metrics, **{name: one.by for name, one in recorded().items()}}
    missing = sorted(query.names - known.keys())
    if missing:
        return [f"no metric {name}" for name in missing]
    wrong = [
        f"{name} has no label {label}" for name, label in query.selected if label not in known[name] | OF_PROMETHEUS
    ]
    labels = OF_PROMETHEUS.union(*(known[name] for name in query.names))
    return sorted([*wrong, *(f"nothing has the label {label}" for label in query.by - labels)])
