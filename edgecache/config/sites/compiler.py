"""From a document of sites to the sites that requests are matched with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec
import re2

from edgecache.config.addresses import normalised
from edgecache.config.sites import model
from edgecache.config.sites.credentials import signature_parameters
from edgecache.config.sites.limits import limits_of
from edgecache.config.sites.scalars import Regex
from edgecache.semantics import uri
from edgecache.semantics.message import FieldLine
from edgecache.semantics.outcomes import Revalidation
from edgecache.semantics.rules import actions
from edgecache.semantics.rules.conditions import (
    All,
    AnyOf,
    Condition,
    Not,
    RequestFacts,
    ResponseFacts,
    Test,
)
from edgecache.semantics.rules.directory import Sites
from edgecache.semantics.rules.error_pages import ErrorPages
from edgecache.semantics.rules.policy import Rule, Site
from edgecache.semantics.stored_response import Policy

Matcher = Callable[[bytes], Any]  # true of a value that matches
ADMIT_ONLY: Final = frozenset(("name", "when", "last", "access", "limits"))  # keys of rules that change no response
OF_MIDDLEWARE: Final = ("access",)
RESULTS: Final = {"regional": "hit", "collapsed": "miss"}  # as rules name them
COMPRESSIBLE: Final = (  # media types that are text, or that compress as text does
    *("text/*", "*/*+json", "*/*+xml", "*/*+text", "application/json", "application/xml", "application/wasm"),
    *("application/javascript", "application/x-javascript", "application/ecmascript", "application/manifest*"),
    *("application/x-ndjson", "application/rtf", "application/vnd.ms-fontobject", "font/ttf", "font/otf", "image/bmp"),
    *("image/svg+xml", "image/x-icon", "image/vnd.microsoft.icon", "application/x-web-app-manifest*"),
)
LONE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
LITERAL: Final = re.compile(r"[^*?]*")


def compiled(
    document: model.Document,
    storing: Policy,
    former: Sites | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Sites:
    """The sites of `document`, under the global policy `storing`; those of `former` that are alike stay."""
    known = {} if former is None else {site.name: site for site in former.all}
    named = []
    for written in document.sites:
        site, before = None, known.get(written.name)
        policy, pages = _storing(written, storing), _pages(written, files)
        if before is not None and (before.storing, before.own["written"], before.error_pages) == (
            policy,
            written,
            pages,
        ):
            site = before
        site = site or _site(written, policy, pages)
        named += [(normalised(host), site) for host in written.hosts]
    return Sites(named)


def _storing(written: model.Site, storing: Policy) -> Policy:
    settings = {
        name: value
        for name, value in msgspec.structs.asdict(written.settings).items()
        if value is not None and name != "list_fields"
    }
    if written.settings.list_fields is not None:
        settings["list_fields"] = frozenset(name.lower().encode() for name in written.settings.list_fields)
    return replace(storing, **settings) if settings else storing


def _pages(written: model.Site, files: Mapping[str, bytes]) -> ErrorPages | None:
    """Pages of errors; that of maintenance is the one of 503 while it lasts."""
    named = {status: files[path] for status, path in written.error_pages.items()}
    if written.maintenance and written.maintenance_page is not None:
        named["503"] = files[written.maintenance_page]
    return ErrorPages(named) if named else None


def _site(written: model.Site, storing: Policy, pages: ErrorPages | None) -> Site:
    rules = tuple(rule_of(written.name, rule, last=written.match == "first") for rule in written.rules)
    pool = written.pool or f"site {written.name}"
    share, signed = written.memory_share, signature_parameters((written,))
    return Site(written.name, rules, storing, pool, {"written": written}, pages, share, signed)


def rule_of(site: str, written: model.Rule, *, last: bool = False) -> Rule:
    """One rule of `site`."""
    present = {name for name in written.__struct_fields__ if getattr(written, name) not in (None, ())}
    present -= set() if written.last else {"last"}  # but `compress = false` does something
    shared = msgspec.structs.replace(written, access=None)  # it is checked for each client, and holds secrets
    text = msgspec.json.encode(shared, enc_hook=_text_of_scalar).decode()
    return Rule(
        written.name,
        condition_of(written.when),
        _actions(site, written),
        text,
        last or written.last,
        admits_only=present - _admitting(written.cache) <= ADMIT_ONLY,
    )


def _admitting(cache: model.Cache | None) -> set[str]:
    """The key of the table `cache`, if all that it says is which requests may fill and have responses validated."""
    if cache is None:
        return set()
    given = {name for name in cache.__struct_fields__ if getattr(cache, name) not in (None, ())}
    return {"cache"} if given <= {"admission", "client_revalidation", "slices"} else set()


def _text_of_scalar(value: Any) -> Any:
    return repr(value)


# --- conditions


def condition_of(when: model.When) -> Condition:
    """The condition that `when` describes."""
    parts: list[Condition] = [
        *_of_url(when),
        *_of_fields(when),
        *_of_client(when),
        *_of_response(when),
    ]
    if when.negated is not None:
        parts.append(Not(condition_of(when.negated)))
    if when.any is not None:
        parts.append(AnyOf(tuple(condition_of(one) for one in when.any)))
    return parts[0] if len(parts) == 1 else All(tuple(parts)) if parts else True


def _of_url(when: model.When) -> Iterable[Condition]:
    if when.scheme is not None:
        scheme = when.scheme.encode()
        yield Test(f"scheme={when.scheme}", lambda facts: facts.request.scheme == scheme, by_url=True)
    if when.host is not None:
        host = glob(when.host)
        yield Test(f"host={when.host}", lambda facts: host(facts.host), by_url=True)
    if when.path is not None:
        path = glob(when.path)
        yield Test(f"path={when.path}", lambda facts: path(facts.path), by_url=True)
    if when.path_prefix is not None:
        prefixes = tuple(prefix.encode() for prefix in _several(when.path_prefix))
        yield Test(f"prefix={when.path_prefix}", lambda facts: facts.path.startswith(prefixes), by_url=True)
    if when.path_regex is not None:
        search = when.path_regex.compiled.search
        yield Test(f"path~{when.path_regex.text}", lambda facts: search(facts.path), by_url=True)


def _of_fields(when: model.When) -> Iterable[Condition]:
    if when.method is not None:
        methods = frozenset(method.encode() for method in _several(when.method))
        yield Test(f"method={when.method}", lambda facts: facts.request.method in methods)
    for name, values in (when.header or {}).items():
        field, accepts = name.lower().encode(), _accepting(values)
        test = _reading(field, accepts)
        yield Test(f"header {name.lower()}={values!r}", test, fields=frozenset((field,)))
    for name, values in (when.cookie or {}).items():
        test = _of_several(name, _accepting(values), lambda facts: facts.cookies)
        yield Test(f"cookie {name}={values!r}", test, cookies=frozenset((name,)))
    for name, values in (when.query or {}).items():
        test = _of_several(name, _accepting(values), lambda facts: facts.parameters)
        yield Test(f"query {name}={values!r}", test)


def _of_client(when: model.When) -> Iterable[Condition]:
    if when.network is not None:
        networks = tuple(one.network for one in when.network)
        yield Test(f"network={networks}", lambda facts: facts.is_in(networks), networks=networks)
    if when.country is not None:
        countries = frozenset(_several(when.country))
        yield Test(f"country={when.country}", lambda facts: facts.country in countries)


def _of_response(when: model.When) -> Iterable[Condition]:
    if when.status is not None:
        listed = frozenset(_several(when.status))
        yield Test(f"status={when.status}", of_response=lambda facts: not listed.isdisjoint(status_names(facts)))
    if when.content_type is not None:
        kinds = glob(when.content_type)
        yield Test(f"type={when.content_type}", of_response=lambda facts: kinds(media_type(facts.content_type)))
    if when.result is not None:
        results = frozenset(_several(when.result))
        yield Test(
            f"result={when.result}", of_response=lambda facts: RESULTS.get(facts.result, facts.result) in results
        )


def _reading(field: bytes, accepts: Callable[[list[bytes]], bool]) -> Callable[[RequestFacts], bool]:
    return lambda facts: accepts(facts.request.fields.all(field) if field in facts.request.fields else [])


def _of_several(
    name: str, accepts: Callable[[list[bytes]], bool], found: Callable[[RequestFacts], Mapping[str, list[bytes]]]
) -> Callable[[RequestFacts], bool]:
    """A test of values by name; a name with * is a glob, which all names that match answer together."""
    if LITERAL.fullmatch(name):
        return lambda facts: accepts(found(facts).get(name, []))
    matches = glob(name)
    return lambda facts: accepts(
        [
            value
            for known, values in found(facts).items()
            if matches(known.encode("latin-1", "replace"))
            for value in values
        ]
    )


def _accepting(values: model.Values) -> Callable[[list[bytes]], bool]:
    """Whether values of one name are such: present, absent, or one that matches."""
    if isinstance(values, bool):
        return lambda found: bool(found) is values
    matches = values.regex.compiled.search if isinstance(values, model.Pattern) else glob(values)
    return lambda found: any(bool(matches(value)) for value in found)


def glob(patterns: str | tuple[str, ...]) -> Matcher:
    """A matcher of whole values by globs: `*` is any text, `?` any character."""
    listed = _several(patterns)
    if all(LITERAL.fullmatch(one) for one in listed):
        values = frozenset(one.encode() for one in listed)
        return values.__contains__
    if all(one.endswith("*") and LITERAL.fullmatch(one[:-1]) for one in listed):
        prefixes = tuple(one[:-1].encode() for one in listed)
        return lambda value: value.startswith(prefixes)
    return Regex("(?s)" + "|".join(map(_translated, listed))).compiled.fullmatch  # type: ignore[no-any-return]


def _translated(pattern: str) -> str:
    """A glob as a regular expression."""
    special = {"*": ".*", "?": "."}
    return "".join([special.get(one) or re2.escape(one) for one in pattern])


def _several(one: str | tuple[str, ...]) -> tuple[str, ...]:
    return (one,) if isinstance(one, str) else one


def status_names(facts: ResponseFacts) -> tuple[str, str]:
    """A status code and its class, as rules name them."""
    return str(facts.status), f"{facts.status // 100}xx"


def named_result(result: str) -> str:
    """The result of a look-up as rules name it."""
    return RESULTS.get(result, result)


def media_type(content_type: bytes) -> bytes:
    """The media type without its parameters, in lower case (RFC 9110 §8.3.1)."""
    return content_type.partition(b";")[0].strip(b" \t").lower()


# --- actions


def _actions(site: str, written: model.Rule) -> actions.Actions:
    own: dict[str, tuple[Any, ...]] = {
        name: (value,) for name in OF_MIDDLEWARE if (value := getattr(written, name)) not in (None, ())
    }
    if written.limits:
        own["limits"] = limits_of(site, written)
    cache = written.cache or model.Cache()
    return actions.Actions(
        _route(written.route or model.Route()),
        _caching(cache),
        _key(cache.key or model.CacheKey()),
        _edits(written.request_headers or model.FieldEdits()),
        _edits(written.response_headers or model.FieldEdits()),
        _reply(written),
        None if written.cors is None else _cors(written.cors),
        written.security_headers,
        written.debug,
        None if written.compress is None else _compress(written.compress),
        own,
    )


def _route(route: model.Route) -> actions.Route:
    canary = route.canary
    return actions.Route(
        route.pool,
        route.host,
        None if route.strip_prefix is None else uri.path_of(_prefix(route.strip_prefix)),
        None if route.add_prefix is None else _prefix(route.add_prefix),
        None if route.rewrite is None else actions.Rewrite(route.rewrite.compiled, in_target(route.to or "")),
        route.credentials,
        None if canary is None else actions.Canary(canary.pool, canary.share, canary.cookie.encode()),
    )


def _caching(cache: model.Cache) -> actions.Caching:
    return actions.Caching(
        store=cache.store,
        ttl=cache.ttl,
        default_ttl=cache.default_ttl,
        ttl_by_status=tuple((cache.ttl_by_status or {}).items()),
        stale_while_revalidate=cache.stale_while_revalidate,
        stale_if_error=cache.stale_if_error,
        ignore_set_cookie=None if cache.set_cookie is None else cache.set_cookie == "ignore",
        ignore_cache_control=None if cache.cache_control is None else cache.cache_control == "ignore",
        revalidation=None if cache.client_revalidation is None else Revalidation(cache.client_revalidation),
        read_only=None if cache.admission is None else cache.admission == "read-only",
        query_method=cache.query_method,
        slices=None if cache.slices is None else int(cache.slices),
        tags=tuple(tag.encode() for tag in cache.tags),
    )


def _key(key: model.CacheKey) -> actions.CacheKey:
    query = None
    if key.query is not None:
        keep = None if key.query.keep is None else glob(key.query.keep)
        query = actions.QueryKey(keep, glob(key.query.drop) if key.query.drop else None, key.query.sort)
    headers = tuple(name.lower().encode() for name in key.headers)
    return actions.CacheKey(query, headers, key.cookies, key.country or None, key.device or None)


def _edits(edits: model.FieldEdits) -> actions.FieldEdits:
    return actions.FieldEdits(
        tuple(name.lower().encode() for name in edits.remove), _lines(edits.set), _lines(edits.add)
    )


def _reply(written: model.Rule) -> actions.Redirect | actions.Respond | None:
    if written.redirect is not None:
        captures = written.when.path_regex
        return actions.Redirect(
            written.redirect.to,
            written.redirect.status,
            None if captures is None else captures.compiled,
            written.name,
        )
    if written.respond is not None:
        respond = written.respond
        kind = (b"Content-Type", respond.content_type.encode("latin-1"))
        lines = (*([kind] if respond.body else ()), *_lines(respond.headers))
        return actions.Respond(respond.status, respond.body.encode(), lines, written.name)
    return None


def _compress(compress: model.Compress | Literal[False]) -> actions.Compress:
    if compress is False:
        return actions.Compress((), glob(()), 0)
    codings = tuple(coding.encode() for coding in compress.codings)
    return actions.Compress(codings, glob(compress.types or COMPRESSIBLE), compress.min_size)


def _cors(cors: model.Cors) -> actions.Cors:
    methods, headers, expose = (
        tuple(name.encode() for name in names) for names in (cors.methods, cors.headers, cors.expose)
    )
    origins = None if "*" in cors.origins else glob(cors.origins)
    return actions.Cors(origins, methods, headers, expose, cors.credentials, cors.max_age)


def _lines(values: Mapping[str, str]) -> tuple[FieldLine, ...]:
    return tuple((name.encode(), value.encode("latin-1")) for name, value in values.items())


def _prefix(text: str) -> bytes:
    """A prefix of paths, which begins with a slash."""
    return b"/" + in_target(text.lstrip("/"), "")


def in_target(text: str, more: str = "?") -> bytes:
    """`text` with what a target cannot hold encoded (RFC 3986 §3.3); `more` may stand in it, too."""
    return quote(LONE_PERCENT.sub("%25", text), safe="/:@!$&'()*+,;=-._~%" + more).encode()
