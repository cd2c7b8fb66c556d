"""What every site of the check is: how it starts, what is asked of it, what moves in it, what a browser shows of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from loadtests.correctness.real_sites.client import Client
from loadtests.correctness.real_sites.rules import Moving
from loadtests.correctness.real_sites.tally import Tally
from loadtests.lab.processes import Process


@dataclass(frozen=True)
class Page:
    """A page for the browser: where it is, what its document must hold, and what it must load through the POP."""

    target: str
    texts: Sequence[str]
    loads: Sequence[str]  # beginnings of the targets of its sub-resources


@dataclass(frozen=True)
class Both:
    """The origin and the POP before it, as two parties to ask."""

    origin: Client
    pop: Client


Check = Callable[["Site", Both, Tally], Awaitable[None]]


@dataclass(frozen=True)
class Site:
    """One service, ready to be started."""

    name: str
    host: str  # what the Host field says
    about: str  # versions and settings, one line, for the report
    server: Process
    targets: Sequence[str]
    page: Page
    moving: Sequence[Moving] = ()
    untouched: Sequence[str] = ()  # targets that no crawl asks for: ranges come first there
    herds: Sequence[str] = ()  # targets that no crawl asks for: many ask at once there
    further: Sequence[Check] = field(default=())
