"""What the rules of a site make of one request, for `edgecache check-config --site HOST --url PATH`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from edgecache.config.schema import MASK
from edgecache.config.settings import Settings
from edgecache.semantics import uri
from edgecache.semantics.errors import ConfigError
from edgecache.semantics.message import FieldLine, Fields, Request
from edgecache.semantics.rules.actions import FieldEdits, Redirect
from edgecache.semantics.rules.canary import is_in_share, number_of
from edgecache.semantics.rules.conditions import RequestFacts, reduced, text_of
from edgecache.semantics.rules.key_parts import key_part
from edgecache.semantics.rules.routing import route_of
from edgecache.semantics.secret_parameters import Redact, redacting

if TYPE_CHECKING:
    from edgecache.semantics.rules.policy import RequestPolicy

SECRET_WORDS = (b"auth", b"cookie", b"token", b"secret", b"key", b"password")  # in names of fields
SECRET_TABLES = ("access",)  # what is said of them is that they are there


def report(settings: Settings, request: Request, client: str) -> str:
    """Lines that name the site, each rule with its verdict, and what follows from them together."""
    from edgecache.server.assembly import sites_of

    sites = sites_of(settings)
    if sites is None:
        raise ConfigError("EDGECACHE_SITES", "is not set: there is one site, which has no rules")
    site = sites.site_of(request.host)
    if site is None:
        return f"no site has the host {request.host.decode()}: the answer is 421"
    facts = RequestFacts(request, client)
    policy = site.policy_of(facts)
    canary = policy.actions.route.canary
    number = None if canary is None else number_of(facts, canary)
    if canary is not None and number is not None and is_in_share(number, canary):
        policy = policy.of_canary
    lines = [f"site {site.name}"]
    for rule in site.rules:
        left = reduced(rule.condition, facts)
        verdict = "yes" if left is True else "no" if left is False else f"if {text_of(left)}"
        if rule.name not in policy.rules and left is not False:
            verdict = "not reached"
        lines.append(f"rule {rule.name}: {verdict}")
    if settings.sites is not None and any(
        one.maintenance for one in settings.sites.document.sites if one.name == site.name
    ):
        lines.append("maintenance: the answer is 503")
    request = request._replace(policy=policy)
    redact = redacting(settings.secret_parameters) or bytes
    return "\n".join([*lines, *_effects(policy, request, facts, redact)])


def _effects(policy: RequestPolicy, request: Request, facts: RequestFacts, redact: Redact) -> Iterator[str]:
    route = route_of(request)
    assert route is not None, "the request has a site"
    yield f"pool: {route.pool}" + (f", host {route.host.decode()}" if route.host else "")
    canary = policy.actions.route.canary
    if canary is not None:
        cookie = canary.cookie.decode()
        yield f"canary: {canary.share:.1%} of the clients go to the pool {canary.pool}, by the cookie {cookie}"
    if route.credentials:
        yield f"credentials: {route.credentials}"
    if route.target != request.target:
        yield f"upstream target: {redact(route.target).decode('latin-1')}"
    actions = policy.actions
    yield from _said("cache", actions.caching)
    part = key_part(policy, facts)
    own = part.removeprefix(policy.group).strip(b"\n").decode("latin-1")  # the group has whole rules in it
    rules = [rule.name for rule in policy.site.rules if rule.keys and rule.name in policy.rules] if policy.group else []
    keyed = [f"that {', '.join(rules)} hold" if rules else "", repr(own) if own else ""]
    yield ", and ".join(["cache key: the URL", *filter(None, keyed)])
    yield from _edits("request headers", actions.request_fields)
    yield from _edits("response headers", actions.response_fields)
    if isinstance(actions.reply, Redirect):
        yield f"answer: {actions.reply.status} to {actions.reply.to}"
    elif actions.reply is not None:
        yield f"answer: {actions.reply.status}, {len(actions.reply.body)} bytes"
    if actions.cors is not None:
        yield f"cors: Access-Control-Allow-Origin: {policy.allowed_origin.decode() or 'none for this Origin'}"
    if actions.security_headers is not None:
        yield f"security headers: {actions.security_headers}"
    if actions.debug:
        yield f"debug: {', '.join(actions.debug)}"
    if actions.compress is not None:
        yield f"compress: {', '.join(coding.decode() for coding in actions.compress.codings) or 'off'}"
    for name, values in actions.own.items():
        yield f"{name}: {'set' if name in SECRET_TABLES else ', '.join(map(str, values))}"


def _edits(name: str, edits: FieldEdits) -> Iterable[str]:
    """A line of changes of fields; values that may be secrets are not shown."""
    said = [f"remove {field.decode()}" for field in edits.remove]
    for verb, lines in (("set", edits.set), ("add", edits.add)):
        said += [f"{verb} {field.decode()}: {_shown(field, value)}" for field, value in lines]
    return [f"{name}: {'; '.join(said)}"] if said else []


def _shown(field: bytes, value: bytes) -> str:
    return MASK if any(word in field.lower() for word in SECRET_WORDS) else value.decode("latin-1")


def _said(name: str, value: Any) -> Iterable[str]:
    """A line of what `value` says beside its defaults."""
    default = type(value)()
    said = [f"{key}={getattr(value, key)!r}" for key in value.__slots__ if getattr(value, key) != getattr(default, key)]
    return [f"{name}: {', '.join(said)}"] if said else []


def request_of(host: str, target: str, method: str, headers: Iterable[str], country: str) -> Request:
    """The request that the command line describes; raises ValueError."""
    lines: list[FieldLine] = [(b"Host", host.encode())]
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon:
            raise ValueError(f"{header} is not NAME: VALUE")
        lines.append((name.strip().encode(), value.strip().encode("latin-1")))
    scheme, _, rest = target.partition("://")
    if rest:
        target = "/" + rest.partition("/")[2]
    scheme_of = scheme.encode() if rest else b"https"
    place = ((b"Edgecache-Geo-Country", country.encode()),) if country else ()
    named = uri.site(uri.ascii_authority(host), scheme_of)
    return Request(method.encode(), uri.ascii_target(target), named, Fields(lines), scheme=scheme_of, place=place)
