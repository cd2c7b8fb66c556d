"""The certificates of sites: read, checked, and for a name of their site."""

from __future__ import annotations

from collections.abc import Iterable

from edgecache.config.certificates import Described, KeyPair, described
from edgecache.config.sites.model import Document, Site
from edgecache.config.sites.positions import Problem


def certificates_of(document: Document) -> tuple[Described, ...] | Problem:
    """Those of all sites, each once, or the first that cannot be used."""
    found: dict[KeyPair, Described] = {}
    for number, site in enumerate(document.sites):
        for position, written in enumerate(site.certificates):
            place = ("sites", number, "certificates", position)
            pair = KeyPair(written.certificate, written.key or written.certificate)
            try:
                one = found[pair] = found.get(pair) or described(pair)
            except ValueError as error:
                return Problem(place, str(error))
            if not covers(one.names, site):
                names = ", ".join(one.names[:5]) or "no DNS name"
                return Problem(place, f"is for {names}, which is not a host of the site")
    return tuple(found.values())


def covers(names: Iterable[str], site: Site) -> bool:
    """Whether any of `names` of a certificate can be asked for as a host of `site`."""
    return any(is_of(name, host.lower()) for name in names for host in site.hosts)


def is_of(name: str, host: str) -> bool:
    """Whether a name of a certificate, which may be a wildcard, and a host of a site have a name in common."""
    if host == "*" or name == host:
        return True
    if name.startswith("*.") and host.partition(".")[2] == name[2:]:  # RFC 6125 §6.4.3: of one label
        return True
    return host.startswith("*.") and name.endswith(host[1:])
