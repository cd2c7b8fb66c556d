"""The configuration of a running POP: read again as a whole, checked as a whole; what is refused changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from edgecache.config.settings import LIVE, PREFIX, RESTART, Settings, load
from edgecache.config.sizing import of_machine, refuse_too_much
from edgecache.config.sources import Source
from edgecache.semantics.errors import ConfigError
from edgecache.server.certificate_snapshot import CertificateSnapshot
from edgecache.telemetry.metrics import Registry
from edgecache.wire.tls.contexts import Files

FROM_MACHINE: Final = (
    "workers",
    "memory",
    "regional_memory",
    "store",
    "store_size",
    "pop",
)  # defaults that another look at the machine might find otherwise
CERTIFICATES: Final = "EDGECACHE_TLS_CERTIFICATES"


@dataclass(frozen=True, slots=True)
class Change:
    """A new configuration, and the names of changed settings by how they are applied."""

    settings: Settings
    environ: Mapping[str, str]
    live: tuple[str, ...]  # inside the living workers
    relief: tuple[str, ...]  # by their successors
    restart: tuple[str, ...]  # not at all

    def __str__(self) -> str:
        parts = {"changed": self.live, "by new workers": self.relief}
        return "; ".join(f"{words}: {', '.join(names)}" for words, names in parts.items() if names) or "nothing changed"


class Configuration:
    """The configuration in use. Mutable state: the last good settings, their environment, and their files' versions."""

    def __init__(self, source: Source, settings: Settings, registry: Registry) -> None:
        self._source = source
        self._copies = CertificateSnapshot()
        self.settings = settings
        self._written = self._completed(source.merged())
        self.environ = self._told(self._written, settings)  # for workers
        self._files = Files(())
        self._watch()
        self._declare(registry)

    def _declare(self, registry: Registry) -> None:
        self._good = registry.counter("edgecache_config_reloads", "Configurations read again and applied.")
        self._bad = registry.counter("edgecache_config_reload_failures", "Configurations refused on reload.")
        self._last = registry.gauge("edgecache_config_last_reload_successful", "1 if the last reload was applied.")
        self._when = registry.timestamp(
            "edgecache_config_last_reload_success_timestamp_seconds",
            "edgecache_config_last_reload_success_seconds",
            "Time at which a configuration was last applied.",
        )
        self._last.value, self._when.value = 1, time.time()

    def applied(self, good: bool) -> None:
        """Count a reload."""
        self._last.value = float(good)
        if good:
            self._good.value += 1
            self._when.value = time.time()
        else:
            self._bad.value += 1

    def has_changed(self) -> bool:
        """Whether files have changed and are stable."""
        return self._files.changed()

    def read_again(self) -> Change:
        """Read the configuration; raises ConfigError if invalid. May run in a thread."""
        environ = self._completed(self._source.read())
        written = load(environ)
        old = self.settings
        _refuse_ended(old, written)
        differing = [row.name for row in fields(Settings) if getattr(written, row.name) != getattr(old, row.name)]
        fixed = [name for name in differing if name in RESTART]
        for name in fixed:  # each goes on as it was; together they may not fit, which `load` is to say
            environ[PREFIX + name.upper()] = self._written.get(PREFIX + name.upper(), "")
        new = load(environ) if fixed else written
        if new.memory > old.memory:
            embedded = replace(new, regional="embedded") if self._source.is_fixed("EDGECACHE_REGIONAL") else new
            refuse_too_much(embedded, environ, of_machine())
        self.environ = self._told(environ, new)
        self.settings, self._written = new, environ
        self._watch()
        variables = {name: PREFIX + name.upper() for name in differing}
        return Change(
            new,
            self.environ,
            live=tuple(variables[name] for name in differing if name in LIVE),
            relief=tuple(variables[name] for name in differing if name not in LIVE and name not in RESTART),
            restart=(*(variables[name] for name in fixed), *self._source.changed_though_fixed),
        )

    def _told(self, environ: Mapping[str, str], settings: Settings) -> Mapping[str, str]:
        """Environment for workers: with checked certificates and sites, whatever happens to their files later."""
        pairs = (one.pair for one in settings.certificates)
        try:
            told = self._copies.told(environ, pairs, settings.pop_ca, _snapshot(settings))
        except OSError as error:
            raise ConfigError(CERTIFICATES, f"cannot be copied: {error.strerror}") from None
        if fingerprints(load(told)) != fingerprints(settings):
            raise ConfigError(CERTIFICATES, "changes while it is read")
        return told

    def _completed(self, environ: dict[str, str]) -> dict[str, str]:
        """With the machine's defaults of the start, which might differ by now."""
        for name in FROM_MACHINE:
            variable = PREFIX + name.upper()
            if not environ.get(variable, "").strip():
                environ[variable] = str(getattr(self.settings, name))
        return environ

    def _watch(self) -> None:
        """Watch what the configuration is made of; what has changed since it was read counts as a change."""
        self._files.watch(self._watched())
        if self.settings.sites is not None and not self.settings.sites.is_current():
            self._files.distrust()

    def _watched(self) -> list[str]:
        """Files whose change triggers a reload."""
        settings = self.settings
        paths = [self._source.path, *self._source.secret_paths, settings.pop_ca]
        paths += [path for one in settings.certificates for path in (one.pair.certificate, one.pair.key)]
        paths += settings.sites.watched if settings.sites is not None else []
        named = self._written.get(CERTIFICATES, "").strip()
        if named and Path(named).is_dir():
            paths += [named, *(str(entry) for entry in Path(named).iterdir() if entry.is_dir())]
        return paths


def _snapshot(settings: Settings) -> bytes:
    """The sites as workers read them; empty where there are none."""
    if settings.sites is None:
        return b""
    from edgecache.config.sites.parser import snapshot  # with libraries that only those need who have sites

    return snapshot(settings.sites)


def fingerprints(settings: Settings) -> list[bytes]:
    """The certificates of the listeners in their order, each once."""
    return list(dict.fromkeys(one.fingerprint for one in settings.certificates))


def _refuse_ended(old: Settings, new: Settings) -> None:
    """Refuse expired certificates in a reload; one that expires while in use stays in use."""
    known, now = {one.fingerprint for one in old.certificates}, time.time()
    for one in new.certificates:
        if one.expired(now) and one.fingerprint not in known:
            raise ConfigError(CERTIFICATES, f"names {one.pair.certificate}, which has expired")


def ended(settings: Settings) -> list[str]:
    """Expired certificates of the listeners."""
    now = time.time()
    return [one.pair.certificate for one in settings.certificates if one.expired(now)]
