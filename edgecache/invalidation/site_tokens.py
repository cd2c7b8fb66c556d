"""Purge tokens of sites: each purges the hosts of its own site, and those that fall to it by a wildcard, no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edgecache.config.settings import Settings


@dataclass(frozen=True, slots=True)
class SiteToken:
    """A token of one site. `hosts` are its names."""

    name: str
    secret: str = field(repr=False)
    hosts: tuple[str, ...]
    wildcards: tuple[str, ...]
    site: str
    owners: Mapping[str, str] = field(repr=False)  # site by host, of all sites

    @property
    def is_limited(self) -> bool:
        """Always: a site may have wildcards alone, and no name."""
        return True

    def owns(self, host: str) -> bool:
        """Whether `host`, without port, belongs to the site: a name comes before a wildcard, a longer one first."""
        return owner_of(self.owners, host) == self.site


def tokens_of(settings: Settings) -> Iterator[SiteToken]:
    """The tokens that sites have."""
    if settings.sites is None:
        return
    files, owners = settings.sites.files, settings.sites.owners
    for site in settings.sites.document.sites:
        if not site.purge_tokens:
            continue
        written = settings.sites.hosts_of(site)
        named = tuple(host for host in written if not host.startswith("*"))
        wildcards = tuple(host for host in written if host.startswith("*"))
        for name, path in site.purge_tokens.items():
            secret = files[path].decode("latin-1")
            yield SiteToken(f"{site.name}/{name}", secret, named, wildcards, site.name, owners)


def owner_of(owners: Mapping[str, str], host: str) -> str | None:
    """The site that `host` belongs to; None of what has no host."""
    if not host:
        return None
    found, rest = owners.get(host), host
    while found is None and "." in rest:
        rest = rest.partition(".")[2]
        found = owners.get(f"*.{rest}")
    return found or owners.get("*")
