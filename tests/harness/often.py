"""How many examples a property gets: all of them in `make test`, a quarter in `make check`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

FULL, CHECK = 100, 25  # examples of a property that says nothing of its own
FEWEST = 25  # of any that does


def register() -> None:
    """Make both known, and take the full one unless `--hypothesis-profile` says otherwise.

    No example has a time limit, nor has making them: how fast it goes is no property.
    """
    patient = [HealthCheck.too_slow]
    settings.register_profile("full", deadline=None, max_examples=FULL, suppress_health_check=patient)
    settings.register_profile("check", deadline=None, max_examples=CHECK, suppress_health_check=patient)
    settings.load_profile("full")


def examples(count: int, **more: int) -> settings:
    """So many examples, or the profile's share of them."""
    share = count * settings.default.max_examples // FULL
    return settings(max_examples=max(share, min(count, FEWEST)), **more)
