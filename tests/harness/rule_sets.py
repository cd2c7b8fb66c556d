"""Random rule sets and pairs of requests, and what they mean: an oracle that shares no code with the product."""

from __future__ import annotations

import fnmatch
import ipaddress
import json
import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, NamedTuple

from hypothesis import strategies as st

Rule = dict[str, Any]
LIFETIMES = {"/a": 60, "/a/x": 60, "/b": 60, "/b.png": 60, "/e": 60, "/n": None, "/c": 60}  # None: no field says so
STATUS = {"/e": 404}
TYPES = {"/b.png": "image/png"}
NEGATIVE_TTL = 10
TRUSTED = "192.0.2.1"
PEERS = [TRUSTED, "192.0.2.9", "198.51.100.1", "203.0.113.1", "203.0.113.2"]
NEIGHBOURS = {"203.0.113.1": "203.0.113.2", "203.0.113.2": "203.0.113.1"}  # of one country
COUNTRIES = {"198.51.100.0/24": "DE", "203.0.113.0/24": "FR"}
ADMITTING = ("client_revalidation", "admission")  # of the cache, and of no response
OF_REQUESTS = (*ADMITTING, "key", "query_method")  # of the cache: what only the request decides
OF_RESPONSES = ("status", "content_type", "result")
Fact = tuple[int, str, int]  # status, media type, and whether it is a hit
FACTS: list[Fact] = [
    (status, kind, result) for status in (200, 404) for kind in ("text/html", "image/png") for result in (0, 1)
]


class Sent(NamedTuple):
    """One request."""

    method: str
    path: str
    query: str
    fields: tuple[tuple[str, str], ...]
    peer: str
    content: str = ""  # of a QUERY

    @property
    def target(self) -> str:
        """Path and query."""
        return self.path + self.query

    def get(self, name: str) -> str | None:
        """The value of a field."""
        return next((value for known, value in self.fields if known.lower() == name.lower()), None)

    @property
    def client(self) -> str:
        """The client's address."""
        forwarded = self.get("x-forwarded-for")
        return forwarded if self.peer == TRUSTED and forwarded else self.peer

    @property
    def country(self) -> str:
        """Its country."""
        address = ipaddress.ip_address(self.client)
        return next((code for network, code in COUNTRIES.items() if address in ipaddress.ip_network(network)), "")


# --- what is generated

VALUES: st.SearchStrategy[Any] = st.sampled_from([True, False, "1", "d*", {"regex": "e$"}, ["1", "2"]])
LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "path": st.sampled_from(["/a", "/b*", "/a/*", ["/a", "/n"]]),
    "path_prefix": st.sampled_from(["/a", "/b"]),
    "path_regex": st.sampled_from(["^/a", "g$"]),
    "method": st.sampled_from(["GET", "HEAD", "QUERY", ["GET", "QUERY"]]),
    "header": st.dictionaries(
        st.sampled_from(["Accept-Language", "User-Agent", "X-Ab", "Referer"]), VALUES, min_size=1
    ),
    "cookie": st.dictionaries(st.sampled_from(["s", "t", "wp_*"]), VALUES, min_size=1, max_size=2),
    "query": st.dictionaries(st.sampled_from(["q", "utm"]), VALUES, min_size=1, max_size=2),
    "network": st.sampled_from([["198.51.100.0/24"], ["203.0.113.1"], ["203.0.113.1", "192.0.2.1"]]),
    "country": st.sampled_from(["DE", ["FR", "US"]]),
    "status": st.sampled_from(["404", "2xx"]),
    "content_type": st.sampled_from(["image/*", "text/html"]),
    "result": st.just("hit"),
}


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    more = {"not": inner, "any": st.lists(inner, min_size=1, max_size=2)}
    return st.fixed_dictionaries({}, optional={**LEAVES, **more}).filter(lambda when: len(when) <= 3)


def _small() -> st.SearchStrategy[dict[str, Any]]:
    one = st.sampled_from(sorted(LEAVES)).flatmap(lambda name: LEAVES[name].map(lambda value: {name: value}))
    return st.lists(one, max_size=2).map(lambda parts: {key: value for part in parts for key, value in part.items()})


MIXED = st.tuples(  # what the request decides in part
    *[
        st.sampled_from(names).flatmap(lambda name: LEAVES[name].map(lambda value: {name: value}))
        for names in (["header", "cookie", "query", "network", "country"], list(OF_RESPONSES))
    ]
).map(lambda both: both[0] | both[1])
WHEN = st.one_of(
    _small(),
    MIXED,
    st.recursive(
        _small(),
        lambda inner: st.one_of(
            inner.map(lambda when: {"not": when}),
            st.lists(inner, min_size=1, max_size=2).map(lambda several: {"any": several}),
            st.tuples(inner, _small()).map(lambda both: {"not": both[0], **both[1]}),
        ),
        max_leaves=3,
    ),
)
KEYS = st.fixed_dictionaries(
    {},
    optional={
        "headers": st.just(["Accept-Language"]),
        "cookies": st.just(["t"]),
        "country": st.just(True),
        "device": st.just(True),
        "query": st.sampled_from([{"drop": ["u*"]}, {"keep": ["q"]}, {"drop": ["q"], "sort": True}]),
    },
)
CACHE = st.fixed_dictionaries(
    {},
    optional={
        "store": st.booleans(),
        "ttl": st.sampled_from(["11s", "22s"]),
        "default_ttl": st.sampled_from(["33s", "44s"]),
        "ttl_by_status": st.sampled_from([{"404": "55s"}, {"2xx": "66s"}]),
        "set_cookie": st.just("ignore"),
        "cache_control": st.just("ignore"),
        "client_revalidation": st.sampled_from(["ignore", "collapse"]),
        "admission": st.just("read-only"),
        "query_method": st.booleans(),
        "key": KEYS,
    },
)
NUMBERS = st.sampled_from([0, 0, 1, 2])  # of fields: rules often set the same one
ACTIONS: dict[str, st.SearchStrategy[Any]] = {
    "request_headers": NUMBERS.map(lambda number: {"set": {f"X-R{number}": ""}}),
    "response_headers": NUMBERS.map(lambda number: {"set": {f"X-S{number}": ""}}),
    "cache": CACHE,
    "route": st.sampled_from([{"pool": "p1"}, {"add_prefix": "/up"}]),
    "access": st.just({"public": True}),
    "limits": st.just([{"rate": "1000000/s"}]),
}
SOME_OF_RESPONSES = st.sets(st.sampled_from(["cache", "response_headers"]), min_size=1)
SOME = st.sets(st.sampled_from(sorted(ACTIONS)), min_size=1, max_size=2)


def reads_responses(when: Rule) -> bool:
    """Whether a condition is of the response."""
    inner = [*when.get("any", ()), *([when["not"]] if "not" in when else ())]
    return any(name in when for name in OF_RESPONSES) or any(map(reads_responses, inner))


@st.composite
def rules(draw: st.DrawFn) -> list[Rule]:
    """The rules of a site."""
    made = []
    for number in range(draw(st.integers(1, 4))):
        when = draw(WHEN)
        rule: Rule = {"name": f"r{number}", "when": when, "last": draw(st.booleans())}
        for name in sorted(draw(SOME_OF_RESPONSES if reads_responses(when) else SOME)):
            rule[name] = draw(ACTIONS[name])
            if name == "cache" and reads_responses(when):
                rule[name] = {key: value for key, value in rule[name].items() if key not in OF_REQUESTS}
            if name.endswith("headers"):
                ((field, _),) = rule[name]["set"].items()
                rule[name] = {"set": {field: str(number)}}
        made.append(rule)
    return made


FIELDS: dict[str, list[str]] = {
    "Accept-Language": ["de", "en"],
    "User-Agent": ["Safari iPhone", "d-browser", "Firefox e"],
    "X-Ab": ["1", "2"],
    "Referer": ["e", "d"],
    "Cookie": ["s=1", "t=1", "t=2", "_ga=7", "s=de; t=1", "wp_x=1"],
    "If-Match": ["*"],
    "X-Forwarded-For": ["198.51.100.7", "203.0.113.1"],
}


CLIENTS = "client"  # the address that a request comes from


def read_by(listed: list[Rule]) -> list[str]:
    """What of a request these rules read: names of fields, the query, or the client."""
    found: set[str] = set()
    for rule in listed:
        found |= _read_by(rule["when"])
        key = rule.get("cache", {}).get("key", {})
        parts = {"cookies": "Cookie", "country": CLIENTS, "device": "User-Agent", "query": "query"}
        found |= {*key.get("headers", ()), *(read for name, read in parts.items() if name in key)}
    return sorted(found)


def _read_by(when: Rule) -> set[str]:
    parts = {"cookie": "Cookie", "network": CLIENTS, "country": CLIENTS, "query": "query"}
    found = {read for name, read in parts.items() if name in when} | set(when.get("header", ()))
    inner = [*when.get("any", ()), *([when["not"]] if "not" in when else ())]
    return found.union(*map(_read_by, inner))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Rule], tuple[Sent, Sent]]:
    """Rules, and a pair of requests: often for one URL, and alike in all but one thing that a rule reads."""
    listed = draw(rules())
    read = read_by(listed)
    alike = bool(read) and draw(st.integers(0, 3)) > 0
    pair = draw(_alike_but_for(draw(st.sampled_from(read))) if alike else pairs())
    return (listed, pair) if draw(st.integers(0, 3)) else draw(_queries(listed, pair))


@st.composite
def _queries(draw: st.DrawFn, listed: list[Rule], pair: tuple[Sent, Sent]) -> tuple[list[Rule], tuple[Sent, Sent]]:
    """The same as QUERYs, mostly stored: alike in all but their contents, as `pair` is, or beside a request without."""
    for rule in listed:
        if not reads_responses(rule["when"]) and draw(st.integers(0, 3)):
            rule.setdefault("cache", {})["query_method"] = True
    first, second = pair if draw(st.booleans()) else (pair[0], pair[0])
    contents = draw(st.sampled_from([*CONTENTS.values()]))
    both = tuple(_as_query(sent, *draw(st.sampled_from(contents))) for sent in (first, second))
    return listed, (both[0], draw(st.sampled_from([both[1]] * 3 + [second])))


def _as_query(sent: Sent, kind: str, content: str) -> Sent:
    fields = (*sent.fields, ("Content-Type", kind))
    return sent._replace(method="QUERY", fields=fields, content=content)


JSON, FORM, TEXT = "application/json", "application/x-www-form-urlencoded", "text/plain"
CONTENTS: dict[str, list[tuple[str, str]]] = {
    JSON: [
        (JSON, '{"a": 1, "b": "x y"}'),
        (JSON, '{"a":1,"b":"x y"}'),
        (JSON, '\t{ "a" :1,\n"b":"x y" }\n'),
        (JSON, '{"a":1,"b":"xy"}'),
        (JSON, '{"b":"x y","a":1}'),
        (JSON, '{"a":1.0,"b":"x y"}'),
        (JSON, '{"a":1,"b":"x y"'),
        (TEXT, '{"a":1,"b":"x y"}'),
        (TEXT, '{"a": 1, "b": "x y"}'),
    ],
    FORM: [
        (FORM, "a=1&b=2"),
        (FORM, "b=2&a=1"),
        (FORM, "a=2&b=1"),
        (FORM, "a=1&a=2"),
        (FORM, "a=2&a=1"),
        (FORM, "a=1&b=2&"),
        (TEXT, "a=1&b=2"),
        (TEXT, "b=2&a=1"),
    ],
}


def content_means(sent: Sent) -> tuple[str, ...]:
    """What an origin can make of the content of a QUERY: two of which it makes the same may share a response."""
    if sent.method != "QUERY":
        return ()
    kind, content = sent.get("content-type") or "", sent.content
    return "QUERY", kind, content_meaning(kind, content)


def content_meaning(kind: str, content: str) -> str:
    """Tokens of JSON, or fields of a form by their names; else the bytes."""
    try:
        if kind == JSON:
            return repr(json.loads(content, object_pairs_hook=list, parse_int=str, parse_float=str))
    except ValueError:
        return content
    names = [pair.partition("=")[0] for pair in content.split("&")]
    is_plain = kind == FORM and all(names) and len(set(names)) == len(names)
    return repr(sorted(content.split("&"))) if is_plain else content


@st.composite
def _alike_but_for(draw: st.DrawFn, name: str) -> tuple[Sent, Sent]:
    """Two requests that differ in one thing."""
    path, query, fields, peer = draw(_sent())
    fields["If-Match"] = draw(st.sampled_from([None, None, None, None, None, "*"]))  # it is passed on
    first = Sent("GET", path, query, _lines(fields), peer)
    fields["If-Match"] = None
    if name == "query":
        query = draw(QUERIES.filter(lambda other: other != query))
    elif name == CLIENTS and draw(st.booleans()):
        first = first._replace(peer=draw(st.sampled_from(sorted(NEIGHBOURS))))
        peer = draw(st.sampled_from([NEIGHBOURS[first.peer], NEIGHBOURS[first.peer], *PEERS]))
    else:
        field = "X-Forwarded-For" if name == CLIENTS else name
        peer = TRUSTED if name == CLIENTS else peer
        first = first._replace(peer=peer)
        fields[field] = draw(st.sampled_from([value for value in (None, *FIELDS[field]) if value != fields[field]]))
    return first, Sent("GET", path, query, _lines(fields), peer)


QUERIES = st.sampled_from(["", "", "?q=1", "?q=2&utm=1", "?utm=1"])


@st.composite
def _sent(draw: st.DrawFn) -> tuple[str, str, dict[str, str | None], str]:
    """Path, query, fields and peer of a request."""
    fields = {name: draw(st.sampled_from([None, *values])) for name, values in FIELDS.items()}
    return draw(st.sampled_from(sorted(LIFETIMES))), draw(QUERIES), fields, draw(st.sampled_from(PEERS))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Sent, Sent]:
    """Two requests that differ in some things only: mostly for one URL."""
    path, query, fields, peer = draw(_sent())
    if draw(st.integers(0, 3)):
        fields["If-Match"] = None
    first = Sent("GET", path, query, _lines(fields), peer)
    for name in draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=3)):
        fields[name] = draw(st.sampled_from([None, *FIELDS[name]]))
    if draw(st.integers(0, 3)) == 0:
        query = draw(QUERIES)
    if fields["If-Match"] is not None:
        fields["If-Match"] = None
    elif draw(st.integers(0, 2)) == 0:
        peer = draw(st.sampled_from([NEIGHBOURS.get(peer, peer), *PEERS]))
    method = draw(st.sampled_from(["GET", "GET", "GET", "HEAD"]))
    return first, Sent(method, path, query, _lines(fields), peer)


def _lines(fields: dict[str, str | None]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in fields.items() if value is not None)


def written(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


def document(host: str, match: str, listed: list[Rule]) -> str:
    """The text of a site with these rules."""
    lines = ["[[sites]]", 'name = "x"', f'hosts = ["{host}"]', 'pool = "p0"', f'match = "{match}"']
    for rule in listed:
        lines += ["[[sites.rules]]", *(f"{name} = {written(value)}" for name, value in rule.items())]
    pools = [f'[pools.{name}]\nservers = ["http://127.0.0.1:9"]' for name in ("p0", "p1")]
    return "\n".join([*lines, *pools, ""])


# --- what they mean


def holds(when: Rule, sent: Sent, fact: Fact | None) -> bool | None:
    """Whether a condition holds for a request and its response; None where the response decides, and is not known."""
    return _all([_holds(name, value, sent, fact) for name, value in when.items()])


def _all(parts: list[bool | None]) -> bool | None:
    return False if False in parts else None if None in parts else True


def _not(part: bool | None) -> bool | None:
    return None if part is None else not part


def _holds(name: str, value: Any, sent: Sent, fact: Fact | None) -> bool | None:
    several = value if isinstance(value, list) else [value]
    match name:
        case "not":
            return _not(holds(value, sent, fact))
        case "any":
            return _not(_all([_not(holds(one, sent, fact)) for one in value]))
        case "status" | "content_type" | "result":
            return None if fact is None else _of_response(name, several, fact)
        case "header":
            return all(_accepts(wanted, _present(sent.get(one))) for one, wanted in value.items())
        case "cookie":
            return all(_accepts(wanted, _cookies(sent, one)) for one, wanted in value.items())
        case "query":
            return all(_accepts(wanted, _parameters(sent, one)) for one, wanted in value.items())
        case "network":
            client = ipaddress.ip_address(sent.client)
            return any(client in ipaddress.ip_network(one) for one in value)
    return _of_line(name, several, sent)


def _of_line(name: str, several: list[str], sent: Sent) -> bool:
    match name:
        case "path":
            return any(fnmatch.fnmatchcase(sent.path, one) for one in several)
        case "path_prefix":
            return sent.path.startswith(tuple(several))
        case "path_regex":
            return re.search(several[0], sent.path) is not None
        case "method":
            return sent.method in several
        case "country":
            return sent.country in several
    raise AssertionError(name)


def _of_response(name: str, several: list[str], fact: Fact) -> bool:
    status, kind, is_hit = fact
    match name:
        case "status":
            return any(one in (str(status), f"{status // 100}xx") for one in several)
        case "content_type":
            return any(fnmatch.fnmatchcase(kind, one) for one in several)
    return bool(is_hit)


def _present(value: str | None) -> list[str]:
    return [] if value is None else [value]


def _cookies(sent: Sent, name: str) -> list[str]:
    found = [pair.split("=", 1) for pair in (sent.get("cookie") or "").split("; ") if pair]
    return [value for known, value in found if fnmatch.fnmatchcase(known, name)]


def _parameters(sent: Sent, name: str) -> list[str]:
    found = [pair.split("=", 1) for pair in sent.query[1:].split("&") if pair]
    return [value for known, value in found if known == name]


def _accepts(wanted: Any, found: list[str]) -> bool:
    if isinstance(wanted, bool):
        return bool(found) is wanted
    if isinstance(wanted, dict):
        return any(re.search(wanted["regex"], one) for one in found)
    several = wanted if isinstance(wanted, list) else [wanted]
    return any(fnmatch.fnmatchcase(one, pattern) for one in found for pattern in several)


class Meaning(NamedTuple):
    """What rules make of a request with a response."""

    pool: str
    prefix: str
    sent: tuple[tuple[str, str], ...]  # fields set upstream
    got: tuple[tuple[str, str], ...]  # fields set on the response
    caching: tuple[tuple[str, Any], ...]
    key: tuple[Any, ...]
    query: str  # that the origin gets
    content: tuple[str, ...]  # of a QUERY, as an origin understands it


def meaning(match: str, listed: list[Rule], sent: Sent, fact: Fact) -> Meaning:
    """The rules that hold, in order, laid over each other: those that the request decides say what goes upstream."""
    asked, answered = _joined(match, listed, sent, None), _joined(match, listed, sent, fact)
    caching = answered["cache"] | {"by_status": _sorted(answered["by_status"])}
    if asked["cache"].get("store") is False or (sent.method == "QUERY" and not asked["cache"].get("query_method")):
        caching["store"] = False
    return Meaning(
        asked["route"].get("pool", "p0"),
        asked["route"].get("add_prefix", ""),
        _sorted(asked["request_headers"]),
        _sorted(answered["response_headers"]),
        _sorted(caching),
        tuple(sorted(asked["key"])),
        sent.query if is_passed_on(asked["cache"], sent) else _reduced(asked["query"], sent.query),
        content_means(sent),
    )


def echo(pool: str, target: str, edits: Iterable[str], sent: Sent) -> str:
    """What a pool tells of a request that it has received."""
    content = blake2b(repr(content_means(sent)).encode()).hexdigest()[:12] if content_means(sent) else ""
    return "|".join([pool, target, *edits, content])


def is_passed_on(caching: dict[str, Any], sent: Sent) -> bool:
    """Whether the cache has no part in a request."""
    is_query = sent.method == "QUERY" and not caching.get("query_method")
    return caching.get("store") is False or sent.get("if-match") is not None or is_query


def _reduced(query: dict[str, Any], text: str) -> str:
    parts = [part for part in text[1:].split("&") if part]
    kept = [
        part
        for part in parts
        if ("keep" not in query or part[0] in query["keep"]) and part[0] not in "".join(query.get("drop", ()))
    ]
    return "?" + "&".join(kept) if kept else ""


def _joined(match: str, listed: list[Rule], sent: Sent, fact: Fact | None) -> dict[str, Any]:
    """What the rules say that hold for certain."""
    found: dict[str, Any] = {name: {} for name in ("route", "request_headers", "response_headers", "cache")}
    found |= {"by_status": {}, "key": set(), "query": {}}
    for rule in listed:
        if not holds(rule["when"], sent, fact):
            continue
        found["route"] |= rule.get("route", {})
        for name in ("request_headers", "response_headers"):
            found[name] |= rule.get(name, {}).get("set", {})
        cache = {key: value for key, value in rule.get("cache", {}).items() if key not in ADMITTING}
        key = cache.pop("key", {})
        found["query"] = key.get("query", found["query"])
        found["key"] |= set(_key_of(key, sent))
        found["by_status"] |= cache.pop("ttl_by_status", {})
        found["cache"] |= cache
        if rule["last"] or match == "first":
            break
    return found


def _sorted(values: Rule) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(values.items()))


def _key_of(key: Rule, sent: Sent) -> list[tuple[str, str]]:
    found = [(name, str(sent.get(name))) for name in key.get("headers", ())]
    found += [(f"cookie {name}", str(_cookies(sent, name))) for name in key.get("cookies", ())]
    if key.get("country"):
        found.append(("country", sent.country))
    if key.get("device"):
        agent = sent.get("user-agent") or ""
        found.append(("device", "mobile" if "iPhone" in agent else "desktop"))
    return found


def meanings(match: str, listed: list[Rule], sent: Sent) -> tuple[Meaning, ...]:
    """The same for each kind of response: requests for which these are equal may share."""
    return tuple(meaning(match, listed, sent, fact) for fact in FACTS)


def lifetime(caching: dict[str, Any], path: str) -> int | None:
    """The freshness lifetime in seconds of what the origin answers for `path`; None: there is none."""
    status = STATUS.get(path, 200)
    by_status = dict(caching["by_status"])
    own = None if caching.get("cache_control") == "ignore" else LIFETIMES[path]
    for name in (str(status), f"{status // 100}xx"):
        if name in by_status:
            return int(by_status[name][:-1])
    if status >= 400:
        return None if own is None else min(own, NEGATIVE_TTL)
    if "ttl" in caching:
        return int(caching["ttl"][:-1])
    default = int(caching["default_ttl"][:-1]) if "default_ttl" in caching else None
    return default if own is None else own
