"""The figures beside their bounds, as a Markdown table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["at most", "at least", "for information"]


@dataclass(frozen=True)
class Figure:
    """One figure and the bound that it must keep."""

    what: str
    value: float
    bound: float | None = None
    unit: str = ""
    direction: Direction = "at most"
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether it keeps its bound."""
        if self.bound is None:
            return True
        return self.value <= self.bound if self.direction == "at most" else self.value >= self.bound

    def row(self) -> str:
        """One line of the table."""
        bound = "-" if self.bound is None else f"{'≤' if self.direction == 'at most' else '≥'} {self.bound:,.6g}"
        verdict = "-" if self.bound is None else "holds" if self.holds else "**EXCEEDED**"
        return f"| {self.what} | {_number(self.value)} | {bound} | {self.unit} | {verdict} | {self.note} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def table(title: str, figures: Sequence[Figure]) -> str:
    """One part's table."""
    head = [f"### {title}", "", "| what | figure | bound | unit | | note |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(figure.row() for figure in figures)])


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)
