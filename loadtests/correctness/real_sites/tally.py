"""What the checks of one site came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

LEAST_HITS = 95.0  # per cent


@dataclass
class Tally:
    """Counts and differences of one site; a difference is a line that a person can act on."""

    site: str
    targets: int = 0
    identical: int = 0
    by_rule: int = 0  # of the identical ones: those that a site's printed rule made so
    not_comparable: int = 0
    storable: int = 0
    hits: int = 0
    size: int = 0
    seconds: float = 0.0
    notes: Counter[str] = field(default_factory=Counter)
    checks: dict[str, list[int]] = field(default_factory=dict)  # name → [passed, all]
    lines: list[str] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        """Per cent of the second crawl's answers that were hits, of those that the origin allows."""
        return 100 * self.hits / self.storable if self.storable else 0.0

    @property
    def well(self) -> bool:
        """Whether the site shows what it should."""
        return not self.lines and self.hit_rate >= LEAST_HITS and self.targets > 0

    def differs(self, what: str, *differences: str) -> None:
        """Note a difference."""
        self.lines.append(f"{what}: {'; '.join(differences)}")

    def check(self, name: str, what: str, *differences: str) -> bool:
        """Count one check of the kind `name`; it is passed if there are no differences."""
        count = self.checks.setdefault(name, [0, 0])
        count[1] += 1
        if differences:
            self.differs(f"{name}, {what}", *differences)
            return False
        count[0] += 1
        return True
