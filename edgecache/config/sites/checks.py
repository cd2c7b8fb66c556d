"""Contradictions in a document of sites that its grammar allows: names that nothing has, hosts named twice."""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Final

from edgecache.config.addresses import host_names, server
from edgecache.config.sites.access_checks import in_access
from edgecache.config.sites.model import Credentials, Document, Limit, Pool, Route, Rule, Server, Site, When
from edgecache.config.sites.positions import Path, Problem
from edgecache.config.sites.reply_checks import in_answers
from edgecache.config.sites.rule_checks import rule_problems
from edgecache.config.types import origin_host

OF_RESPONSES: Final = ("status", "content_type", "result")
USERINFO: Final = re.compile(r"(//)[^/?#]*@")
BEFORE_RESPONSES: Final = (
    "route",
    "redirect",
    "respond",
    "request_headers",
    "cors",
    "access",
)  # decided by the request
CACHE_BEFORE_RESPONSES: Final = ("key", "admission", "client_revalidation", "query_method", "slices")


def problems(document: Document) -> Iterator[Problem]:
    """All mistakes: those of sites, and then those of pools."""
    yield from _repeated(
        (("sites", number, "name") for number in _range(document.sites)), [s.name for s in document.sites]
    )
    yield from _shares(document.sites)
    hosts: dict[str, str] = {}
    for number, site in enumerate(document.sites):
        yield from _of_site(document, site, ("sites", number), hosts)
    for name, pool in document.pools.items():
        yield from _of_pool(pool, ("pools", name))
    for name, credentials in document.credentials.items():
        yield from _of_credentials(credentials, ("credentials", name))


def _of_site(document: Document, site: Site, path: Path, hosts: dict[str, str]) -> Iterator[Problem]:
    for number, host in enumerate(site.hosts):
        place = (*path, "hosts", number)
        try:
            names = (host,) if host == "*" else host_names(host.removeprefix("*."))
        except ValueError as error:
            yield Problem(place, str(error))
            continue
        if len(names) != 1:
            yield Problem(place, f'"{host}" is not one host name')
        key = "*." + names[0] if host.startswith("*.") else names[0]
        if key in hosts:
            yield Problem(place, f'"{host}" belongs to the site {hosts[key]} already')
        hosts[key] = site.name
    if (site.origin is None) == (site.pool is None):
        yield Problem(path, "needs either origin or pool" if site.origin is None else "has both origin and pool")
    if site.origin is not None:
        yield from _url(site.origin, (*path, "origin"))
    if site.pool is not None:
        yield from _known(site.pool, document.pools, "pool", (*path, "pool"))
    yield from _repeated(
        ((*path, "rules", number, "name") for number in _range(site.rules)), [r.name for r in site.rules]
    )
    for number, rule in enumerate(site.rules):
        yield from _of_rule(document, rule, (*path, "rules", number))


def _shares(sites: Sequence[Site]) -> Iterator[Problem]:
    total = 0.0
    for number, site in enumerate(sites):
        total += site.memory_share or 0.0
        if site.memory_share is not None and round(total, 6) > 1:
            yield Problem(("sites", number, "memory_share"), f"brings the sum of all shares to {total:.3g}, above 1")
            return


def _of_rule(document: Document, rule: Rule, path: Path) -> Iterator[Problem]:
    yield from rule_problems(rule, path)
    yield from in_access(rule.access, (*path, "access"))
    if rule.redirect is not None and rule.respond is not None:
        yield Problem(path, "has both redirect and respond")
    yield from in_answers(rule, path)
    if reads_responses(rule.when):
        yield from _decided_before(rule, path)
    for number, limit in enumerate(rule.limits):
        yield from _of_limit(limit, (*path, "limits", number))
    if rule.route is not None:
        yield from _of_route(document, rule.route, (*path, "route"))


def _of_route(document: Document, route: Route, path: Path) -> Iterator[Problem]:
    if route.pool is not None:
        yield from _known(route.pool, document.pools, "pool", (*path, "pool"))
    if route.canary is not None:
        yield from _known(route.canary.pool, document.pools, "pool", (*path, "canary", "pool"))
    if route.credentials is not None:
        yield from _known(route.credentials, document.credentials, "credentials", (*path, "credentials"))
    if route.host is not None:
        yield from _sent_host(route.host, (*path, "host"))
    if (route.rewrite is None) != (route.to is None):
        yield Problem(path, "rewrite and to belong together")


def _of_limit(limit: Limit, path: Path) -> Iterator[Problem]:
    if limit.rate is None and limit.concurrency is None and limit.body is None:
        yield Problem(path, "limits nothing: it needs rate, concurrency or body")
    if limit.burst is not None and limit.rate is None:
        yield Problem((*path, "burst"), "needs a rate")


def _decided_before(rule: Rule, path: Path) -> Iterator[Problem]:
    """What a rule says that is decided by the request, where its conditions read the response."""
    keys: list[tuple[str, ...]] = [
        (name,) for name in (*BEFORE_RESPONSES, "limits") if getattr(rule, name) not in (None, ())
    ]
    if rule.cache is not None:
        keys += [("cache", name) for name in CACHE_BEFORE_RESPONSES if getattr(rule.cache, name) is not None]
    for key in keys:
        verb = "are" if key == ("limits",) else "is"
        yield Problem((*path, *key), f"{verb} decided before there is a response, which `when` asks for")


def reads_responses(when: When) -> bool:
    """Whether any condition, at any depth, is of the response."""
    if any(getattr(when, name) is not None for name in OF_RESPONSES):
        return True
    inner = [*(when.any or ()), *([when.negated] if when.negated is not None else ())]
    return any(map(reads_responses, inner))


def _of_pool(pool: Pool, path: Path) -> Iterator[Problem]:
    urls = [one.url if isinstance(one, Server) else one for one in pool.servers]
    for number, url in enumerate(urls):
        yield from _url(url, (*path, "servers", number))
    yield from _sent_host(pool.host, (*path, "host"))
    for name in ("tls_name", "ca"):
        if getattr(pool, name) and not any(url.startswith("https:") for url in urls):
            yield Problem((*path, name), "is set, but no server of the pool is https")
    if pool.ca is not None:
        if not pool.verify:
            yield Problem((*path, "ca"), "is set, but verify is false")
        try:
            ssl.create_default_context(cafile=pool.ca)
        except OSError as error:  # SSLError is one
            yield Problem((*path, "ca"), f"names {pool.ca}, which holds no certificates: {error.strerror}")


def _of_credentials(credentials: Credentials, path: Path) -> Iterator[Problem]:
    if (credentials.kind == "bearer") is bool(credentials.user):
        words = "belongs to basic and s3" if credentials.user else f"is missing, which {credentials.kind} needs"
        yield Problem((*path, "user"), words)
    if credentials.kind == "basic" and ":" in credentials.user:
        yield Problem((*path, "user"), "has a colon, which ends it (RFC 7617)")


def _sent_host(host: str, path: Path) -> Iterator[Problem]:
    try:
        origin_host(host)
    except ValueError as error:
        yield Problem(path, f'"{host}" {error}')


def _url(url: str, path: Path) -> Iterator[Problem]:
    try:
        server(url)
    except ValueError as error:
        shown = USERINFO.sub(r"\1********@", url)[:200]
        yield Problem(path, f'"{shown}" {error}')


def _known(name: str, known: Iterable[str], kind: str, path: Path) -> Iterator[Problem]:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        yield Problem(path, f'"{name}" is no {kind}' + (f"; did you mean {near[0]}?" if near else ""))


def _repeated(paths: Iterable[Path], names: list[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for path, name in zip(paths, names, strict=True):
        if name in seen:
            yield Problem(path, f'"{name}" is a name already')
        seen.add(name)


def _range(values: Sized) -> range:
    return range(len(values))
