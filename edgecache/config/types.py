"""The types that a setting can have: what an operator may write, and the value that the program gets.

A parser raises ValueError with words that end the sentence `EDGECACHE_NAME: "what was written" …`.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import maxminddb

from edgecache.config.addresses import (
    Address,
    Network,
    Origin,
    Parent,
    address,
    host_and_port,
    host_names,
    network,
    networks,
    origin,
)
from edgecache.config.certificates import key_pairs
from edgecache.config.valkey_url import parse_url
from edgecache.semantics import uri
from edgecache.semantics.geo import CODE, CONTINENTS, GeoRules
from edgecache.semantics.ignored_parameters import ignored_parameters
from edgecache.telemetry.log_field_names import selected_fields

if TYPE_CHECKING:
    from edgecache.config.sites.parser import WrittenSites

T = TypeVar("T")

BINARY, DECIMAL = 1024, 1000
SIZE_UNITS = {"b": 1, "kib": BINARY, "mib": BINARY**2, "gib": BINARY**3, "tib": BINARY**4} | {
    "kb": DECIMAL,
    "mb": DECIMAL**2,
    "gb": DECIMAL**3,
    "tb": DECIMAL**4,
}
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SHORTEST_SECRET = 16  # characters

_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([a-z]+)", re.ASCII)
_URL = re.compile(r"(https?)://([^/?#]*)(/[!-\"$->@-~]*)?", re.ASCII)
_PATH = re.compile(r"/[!-\"$-~]*", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_HSTS = re.compile(r"max-age=[0-9]{1,10}(; ?includeSubDomains)?(; ?preload)?", re.ASCII | re.IGNORECASE)
_TOKEN_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]{1,64}", re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]*", re.ASCII)


class Explained(ValueError):
    """A mistake whose words are a whole sentence: what was written is not quoted before them."""


@dataclass(frozen=True, slots=True)
class SettingType(Generic[T]):
    """One type of setting: its name in the documentation, its parser, and an example if it has a grammar."""

    name: str
    parse: Callable[[str], T]
    example: str = ""


def size(text: str) -> int:
    """Bytes out of `64KiB`, `256MiB`, `1GB` or a plain number of bytes."""
    if text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    match = _NUMBER_AND_UNIT.fullmatch(text.lower())
    if match is None or match[2] not in SIZE_UNITS:
        raise ValueError("is not a size such as 64KiB, 256MiB or 1GB")
    return int(float(match[1]) * SIZE_UNITS[match[2]])


AUTOMATIC_SLICES = -1


def slices(text: str) -> int:
    """Bytes of a slice; `AUTOMATIC_SLICES` for `auto`."""
    return AUTOMATIC_SLICES if text.lower() == "auto" else size(text)


def duration(text: str) -> float:
    """Seconds out of `250ms`, `10s`, `5m`, `1h`, `1d`; only zero needs no unit."""
    match = _NUMBER_AND_UNIT.fullmatch("0s" if text == "0" else text)
    if match is None or match[2] not in DURATION_UNITS:
        raise ValueError("is not a duration such as 250ms, 10s, 5m, 1h or 1d")
    return float(match[1]) * DURATION_UNITS[match[2]]


def count(text: str) -> int:
    """A whole number, zero or more."""
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise ValueError("is not a whole number")
    return int(text)


def switch(text: str) -> bool:
    """True for `on`, `true`, `1`; False for `off`, `false`, `0`."""
    known = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
    if text.lower() not in known:
        raise ValueError("is not on or off")
    return known[text.lower()]


def one_of(*words: str) -> SettingType[str]:
    """The type of a setting that is one of these words."""
    listed = ", ".join(words[:-1]) + f" or {words[-1]}"

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"is not {listed}")
        return text

    return SettingType(listed, parse)


def origins(text: str) -> dict[str, tuple[Origin, ...]]:
    """Origins by region, out of `eu=https://a|https://b,us=https://c`."""
    found: dict[str, tuple[Origin, ...]] = {}
    for region, urls in _pairs(text):
        if word(region) in found:
            raise ValueError(f"names the region {region} twice")
        listed = tuple(origin(url.strip()) for url in urls.split("|"))
        if len(set(listed)) != len(listed):
            raise ValueError(f"names an origin of {region} twice")
        found[region] = listed
    return found


def parents(text: str) -> dict[str, tuple[Parent, ...]]:
    """Parents by region, out of `https://a,https://b` (this POP's own region, named "") or `eu=https://a|https://b`."""
    members = [part.strip() for part in text.split(",") if part.strip()]
    own = tuple(parent(member) for member in members if "=" not in member)
    found = {"": own} if own else {}
    for region, urls in _pairs(",".join(member for member in members if "=" in member)):
        if word(region) in found:
            raise ValueError(f"names the region {region} twice")
        found[region] = tuple(parent(url.strip()) for url in urls.split("|"))
    every = [one for listed in found.values() for one in listed]
    if len({one.name for one in every}) != len(every) or len(set(map(str, every))) != len(every):
        raise ValueError("names a parent twice")
    return found


def parent(text: str) -> Parent:
    """A parent out of `http(s)://host[:port]`, perhaps followed by `#name`."""
    url, mark, name = text.partition("#")
    found = origin(url)
    return Parent(found.scheme, found.host, found.port, word(name) if mark else "")


def secrets(text: str) -> tuple[bytes, ...]:
    """Secrets out of a comma list: the first signs, all are accepted."""
    found = tuple(token(part.strip()).encode() for part in text.split(",") if part.strip())
    if any(len(secret) < SHORTEST_SECRET for secret in found):
        raise ValueError(f"is shorter than {SHORTEST_SECRET} characters: openssl rand -hex 32 generates one")
    return found


def path(text: str) -> str:
    """The path of a URL, perhaps with a query; empty stays empty."""
    if text and not _PATH.fullmatch(text):
        raise ValueError("is not a path such as /health")
    return text


def origin_host(text: str) -> str:
    """`client`, `origin`, or the literal value of the Host field that the origin is to see."""
    try:
        host_and_port(text)
    except ValueError:
        raise ValueError("is not client, origin or host[:port]") from None
    return text


def word(text: str) -> str:
    """A name of 1 to 64 letters, digits, dots, dashes and underscores."""
    if not _WORD.fullmatch(text):
        raise ValueError("is not 1 to 64 letters, digits, dots, dashes or underscores")
    return text


def token(text: str) -> str:
    """A secret that can stand in an Authorization field: visible ASCII without spaces."""
    if not _TOKEN.fullmatch(text):
        raise ValueError("holds characters other than visible ASCII")
    return text


def log_fraction(text: str) -> float:
    """The fraction of requests to log, 0.0 to 1.0, out of `json` (all), `off` (none) or a fraction."""
    named = {"json": 1.0, "off": 0.0}
    try:
        fraction = named[text] if text in named else float(text)
    except ValueError:
        fraction = -1.0
    if text not in named and not 0.0 < fraction <= 1.0:
        raise ValueError("is not json, off or a fraction above 0 and up to 1")
    return fraction


def log_fields(text: str) -> tuple[str, ...]:
    """Names of fields of the access log, in any order, and the words `default` and `all`."""
    return selected_fields(word.strip() for word in text.split(",") if word.strip())


def fraction(text: str) -> float:
    """A fraction, from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise ValueError("is not a fraction from 0 to 1")
    return value


def otlp_endpoint(text: str) -> str:
    """The URL that spans are posted to: `/v1/traces` unless another path is named; empty for none."""
    if not text:
        return ""
    match = _URL.fullmatch(text)
    if match is None:
        raise ValueError("is not http(s)://host[:port][/path]")
    host_and_port(match[2])
    return f"{match[1]}://{match[2]}{match[3] if match[3] not in (None, '/') else '/v1/traces'}"


def certificates(text: str) -> str:
    """The path of a readable PEM file of certificates; empty stays empty."""
    if text:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(text)
        except ssl.SSLError:
            raise ValueError("holds no certificate in PEM form") from None
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
    return text


def https_redirect(text: str) -> int:
    """The port of the redirect, out of `off` (none), `on` (443) or a port."""
    named = {"off": 0, "on": 443}
    if text not in named and not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ValueError("is not on, off or a port")
    return named.get(text) or int(text if text not in named else 0)


def hsts(text: str) -> str:
    """The value of Strict-Transport-Security (RFC 6797 §6.1); empty is none."""
    if text and not _HSTS.fullmatch(text):
        raise ValueError("is not a value such as max-age=31536000; includeSubDomains")
    return text


def optional_address(text: str) -> Address | None:
    """Address of a listener; empty is none."""
    return address(text) if text else None


def geo_database(text: str) -> str:
    """The path of a readable file in MaxMind's format; empty stays empty."""
    if text:
        try:
            maxminddb.open_database(text).close()
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
        except (maxminddb.InvalidDatabaseError, ValueError):
            raise ValueError("is not a database in MaxMind's format") from None
    return text


def _pairs(text: str) -> list[tuple[str, str]]:
    """The parts around "=" of each member of a comma list."""
    members = [part.strip() for part in text.split(",") if part.strip()]
    for member in members:
        if member.count("=") != 1:
            raise ValueError(f"holds {member}, which is not name=value")
    return [(name.strip(), value.strip()) for name, _, value in (member.partition("=") for member in members)]


def geo_overrides(text: str) -> dict[Network, str]:
    """Countries by network, out of `198.51.100.0/24=DE,…`."""
    found: dict[Network, str] = {}
    for block, country in _pairs(text):
        try:
            where = network(block)
        except ValueError as error:
            raise ValueError(f"is not a list such as 198.51.100.0/24=DE: {error}") from None
        if not CODE.fullmatch(country):
            raise ValueError(f"holds {country}, which is not a country code such as DE")
        if where in found:
            raise ValueError(f"names {block} twice")
        found[where] = country
    return found


def geo_rules(text: str) -> GeoRules:
    """Regions by place, out of `country:DE=eu,continent:NA=us,*=us`."""
    rules: dict[str, dict[str, str]] = {"country": {}, "continent": {}, "*": {}}
    for selector, region in _pairs(text):
        kind, colon, code = selector.partition(":")
        if kind not in rules or (kind == "*") == bool(colon) or (kind == "continent" and code not in CONTINENTS):
            raise ValueError(f"holds {selector}, which is not country:DE, continent:EU or *")
        if kind == "country" and not CODE.fullmatch(code):
            raise ValueError(f"holds {selector}, which is not country:DE, continent:EU or *")
        if code in rules[kind]:
            raise ValueError(f"has two rules for {selector}")
        rules[kind][code] = word(region)
    return GeoRules(rules["country"], rules["continent"], rules["*"].get("", ""))


def jurisdictions(text: str) -> dict[str, str]:
    """Jurisdictions by region, out of `eu:EU,us:US`."""
    found: dict[str, str] = {}
    for member in (part.strip() for part in text.split(",") if part.strip()):
        region, colon, jurisdiction = member.partition(":")
        if not colon:
            raise ValueError(f"holds {member}, which is not region:jurisdiction")
        if word(region) in found:
            raise ValueError(f"names the region {region} twice")
        found[region] = word(jurisdiction)
    return found


def regional(text: str) -> str:
    """`embedded`, `off`, or the URL of a Valkey."""
    if text not in ("embedded", "off"):
        parse_url(text)
    return text


def store(text: str) -> str:
    """`off`, `memory`, or `disk:` and a directory; `memory:` and a directory is what the supervisor tells workers."""
    kind, colon, path = text.partition(":")
    if text not in ("off", "memory") and not (kind in ("memory", "disk") and colon and path.startswith("/")):
        raise ValueError("is not off, memory, or disk: and the absolute path of a directory")
    return text


def peers(text: str) -> dict[str, str]:
    """The Valkeys of other regions, out of `us=valkey://…,ap=valkeys://…`."""
    found: dict[str, str] = {}
    for member in (part.strip() for part in text.split(",") if part.strip()):
        region, equals, url = (part.strip() for part in member.partition("="))
        if not equals or not url:
            raise ValueError("is not a list of region=valkey://host")
        if word(region) in found:
            raise ValueError(f"names the region {region} twice")
        try:
            parse_url(url)
        except ValueError as error:
            raise ValueError(f"has for {region} a URL that {error}") from None
        found[region] = url
    return found


def list_fields(text: str) -> tuple[str, ...]:
    """Names of request fields that are lists, in lower case."""
    found = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if not all(_TOKEN_NAME.fullmatch(name) for name in found):
        raise ValueError("is not a list of field names")
    return found


def prefix_modes(text: str) -> dict[str, str]:
    """Modes while cut off by path prefix, out of `/news=available,/shop=consistent`."""
    found: dict[str, str] = {}
    for prefix, mode in _pairs(text):
        if not prefix.startswith("/") or not _PATH.fullmatch(prefix) or "?" in prefix:
            raise ValueError(f"holds {prefix}, which is not a path prefix such as /shop")
        if mode not in ("available", "consistent"):
            raise ValueError(f"has {mode} for {prefix}, which is not available or consistent")
        if (path := uri.path_of(prefix.encode()).decode().rstrip("/")) in found:
            raise ValueError(f"names {prefix} twice")
        found[path] = mode
    return found


def cipher_key(text: str) -> bytes:
    """A key of 32 bytes, in hexadecimal or base64; empty is none."""
    if not text:
        return b""
    try:
        key = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ValueError("is not 32 bytes in hexadecimal or base64: openssl rand -hex 32 generates one")
    return key


def sites(text: str) -> WrittenSites | None:
    """Sites and rules, out of a TOML text or the path of one; None where there is neither."""
    if not text:
        return None
    from edgecache.config.sites.parser import written  # with libraries that only those need who have sites

    return written(text)


SIZE = SettingType("size", size)
SLICES = SettingType("auto or size", slices, "1MiB")
DURATION = SettingType("duration", duration)
COUNT = SettingType("number", count)
SWITCH = SettingType("on or off", switch)
ADDRESS = SettingType("host:port", address)
OPTIONAL_ADDRESS = SettingType("host:port", optional_address, "0.0.0.0:8443")
KEY_PAIRS = SettingType("directory, or list of pairs", key_pairs, "/etc/tls/a.pem,/etc/tls/b.crt|/etc/tls/b.key")
HTTPS_REDIRECT = SettingType("on, off or port", https_redirect)
HSTS = SettingType("value of the field", hsts, "max-age=31536000; includeSubDomains")
ORIGIN = SettingType("http(s)://host[:port]", origin, "https://www.example.org")
ORIGINS = SettingType("list of region=URLs", origins, "eu=https://a.example|https://b.example,us=https://c.example")
PARENTS = SettingType("list of URLs or region=URLs", parents, "eu=https://shield1.example|https://shield2.example")
SECRETS = SettingType("list of secrets", secrets)
IGNORED_PARAMETERS = SettingType("list of names", ignored_parameters, "tracking,ref,session_*")
PATH = SettingType("path of a URL", path, "/health")
ORIGIN_HOST = SettingType("client, origin or host[:port]", origin_host)
HOST_NAMES = SettingType("list of names", host_names, "www.example.org,example.org")
NETWORKS = SettingType("list of CIDR blocks", networks, "10.0.0.0/8,2001:db8::/32,192.0.2.7")
WORD = SettingType("name", word)
TOKEN = SettingType("secret", token)
LOG_FIELDS = SettingType("list of fields", log_fields, "default,tls,age,ttl")
LOG_FRACTION = SettingType("json, off or fraction", log_fraction, "0.01")
FRACTION = SettingType("fraction from 0 to 1", fraction)
OTLP_ENDPOINT = SettingType("http(s)://host[:port][/path]", otlp_endpoint, "http://collector.example:4318")
CERTIFICATES = SettingType("path", certificates)
GEO_DATABASE = SettingType("path", geo_database)
GEO_OVERRIDES = SettingType("list of CIDR=country", geo_overrides, "198.51.100.0/24=DE,2001:db8::/32=US")
GEO_RULES = SettingType("list of place=region", geo_rules, "country:DE=eu,continent:NA=us,*=us")
JURISDICTIONS = SettingType("list of region:jurisdiction", jurisdictions, "eu:EU,us:US")
REGIONAL = SettingType("embedded, off or URL", regional, "valkeys://user:password@valkey.example:6380")
STORE = SettingType("off, memory or disk:PATH", store, "disk:/var/cache/edgecache")
CIPHER_KEY = SettingType("32 bytes in hex or base64", cipher_key)
PEERS = SettingType("list of region=URL", peers, "us=valkeys://us.example:6380,ap=valkeys://ap.example:6380")
PREFIX_MODES = SettingType("list of path=mode", prefix_modes, "/shop=consistent,/news=available")
LIST_FIELDS = SettingType("list of names", list_fields, "x-features,x-segments")
SITES = SettingType("path, or the text itself", sites, "/etc/edgecache/sites.toml")
FILE = SettingType("path", str)
