"""What a load generator reports, whichever it was."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Load:
    """One run of a load generator; any problem makes the run worthless, however good its figures look."""

    requests: int
    seconds: float
    received: int
    p50_ms: float
    p99_ms: float
    problems: list[str] = field(default_factory=list)
