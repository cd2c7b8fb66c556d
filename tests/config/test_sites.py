"""Mistakes in the text of sites: each is one sentence with file, line, key, what is wrong, the nearest word."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from harness.often import each_case

from edgecache.config.settings import load
from edgecache.config.sites import parser
from edgecache.config.sites.parser import SitesError, parsed, snapshot, written
from edgecache.config.sources import Source
from edgecache.semantics.errors import ConfigError
from edgecache.server.cli import main
from edgecache.server.config_reload import Configuration
from edgecache.telemetry.metrics import Registry

SITE = '[[sites]]\nname = "a"\nhosts = ["a.test"]\norigin = "http://a"\n'
RULE = SITE + '[[sites.rules]]\nname = "r"\n'
WITHOUT_ORIGIN = '[[sites]]\nname = "a"\nhosts = ["a.test"]\n'
POOL = '[pools.shop]\nservers = ["http://a"]\n'
SECRET = "0123456789abcdef0123456789abcdef"
A_RULE = "sites[1].rules[1]"

WRONG = [  # text, line, what is said after it
    (" \n", 0, "lacks the key sites"),
    ("[[sites\n", 1, "is not TOML: expected ']]' at the end of an array declaration"),
    (SITE + 'name = "b"\n', 5, "is not TOML: a key is written twice"),
    (POOL + POOL + SITE, 3, "is not TOML: the table pools.shop is written twice"),
    (SITE + "x = '\x01'\n", 5, "is not TOML: found invalid character '\\x01'"),
    (SITE.replace("\n", "\r"), 1, "is not TOML: expected newline or end of document after a statement"),
    ("[site]\nname = 'a'\n", 1, "site: is not a key here; did you mean sites?"),
    ("[sites]\nname = 'a'\n", 1, "sites: should be a list, not a table: put it into [], or begin it with [[sites]]"),
    (
        "[sites.a]\nhosts = ['a']\n",
        1,
        "sites: should be a list, not a table: put it into [], or begin it with [[sites]]",
    ),
    (SITE + "orgin = 'x'\n", 5, "sites[1].orgin: is not a key here; did you mean origin?"),
    (SITE + "xyz = 1\n", 5, "sites[1].xyz: is not a key here; known are: certificates, error_pages, hosts, *"),
    (SITE.replace('name = "a"\n', ""), 1, "sites[1]: lacks the key name"),
    (SITE.replace('hosts = ["a.test"]\n', ""), 1, "sites[1]: lacks the key hosts"),
    (SITE.replace('"a"', '"A b"'), 2, 'sites[1].name: "A b" is not a name of up to 64 lower-case letters, *'),
    (SITE.replace('"a"', '"a\\n"'), 2, "sites[1].name: holds a control character"),
    (SITE.replace('"a"', "1979-05-27"), 2, "sites[1].name: should be a string, not a date or time"),
    (SITE.replace('["a.test"]', '"a.test"'), 3, "sites[1].hosts: should be a list, not a string"),
    (SITE.replace('["a.test"]', "[]"), 3, "sites[1].hosts: is an empty list"),
    (SITE.replace("a.test", "a*.test"), 3, "sites[1].hosts[1]: holds a*.test, which is not a host name"),
    (SITE.replace("a.test", "a.test:80"), 3, "sites[1].hosts[1]: holds a.test:80: names go without a port"),
    (SITE.replace("a.test", ""), 3, 'sites[1].hosts[1]: "" is not one host name'),
    (SITE.replace("a.test", "a.test,b.test"), 3, 'sites[1].hosts[1]: "a.test,b.test" is not one host name'),
    (SITE.replace("http://a", "ftp://a"), 4, 'sites[1].origin: "ftp://a" is not http(s)://host[:port] *'),
    (SITE.replace("http://a", "unix:tmp"), 4, 'sites[1].origin: "unix:tmp" is not unix:/path of at most 107 bytes'),
    (SITE.replace("http://a", "unix:/" + "x" * 200), 4, "sites[1].origin: * is not unix:/path of at most 107 bytes"),
    (SITE.replace('"http://a"', "1"), 4, 'sites[1].origin: should be a string, not the number 1: write "1"'),
    (SITE + 'pool = "shop"\n' + POOL, 1, "sites[1]: has both origin and pool"),
    (WITHOUT_ORIGIN, 1, "sites[1]: needs either origin or pool"),
    (WITHOUT_ORIGIN + 'pool = "shp"\n' + POOL, 4, 'sites[1].pool: "shp" is no pool; did you mean shop?'),
    (SITE + SITE.replace('"a"', '"b"'), 7, 'sites[2].hosts[1]: "a.test" belongs to the site a already'),
    (SITE + SITE.replace("a.test", "b.test"), 6, 'sites[2].name: "a" is a name already'),
    (SITE + "maintenance = 'on'\n", 5, "sites[1].maintenance: should be true or false, not a string"),
    (SITE + "memory_share = 1.5\n", 5, "sites[1].memory_share: 1.5 should be at most 1"),
    (
        SITE + "memory_share = 0.7\n" + SITE.replace('"a"', '"b"').replace("a.test", "b.test") + "memory_share = 0.5\n",
        10,
        "sites[2].memory_share: brings the sum of all shares to 1.2, above 1",
    ),
    (SITE + "match = 'any'\n", 5, 'sites[1].match: "any" is not "all" or "first"'),
    (
        SITE + "settings = { negative_ttl = 1 }\n",
        5,
        'sites[1].settings.negative_ttl: should be a string such as "10s", not the number 1',
    ),
    (SITE + "certificates = ['a']\n", 5, "sites[1].certificates[1]: should be a table, not a string"),
    (SITE + "[sites.rules]\nname = 'r'\n", 5, "sites[1].rules: should be a list, not a table: *[[[]sites.rules]]"),
    (SITE + "[[sites.rules]]\nlast = true\n", 5, "sites[1].rules[1]: lacks the key name"),
    (RULE + "[[sites.rules]]\nname = 'r'\n", 8, 'sites[1].rules[2].name: "r" is a name already'),
    (
        RULE + "when = { path = 1 }\n",
        7,
        A_RULE + '.when.path: should be a string or a list, not the number 1: write "1"',
    ),
    (RULE + "when = { path = 'shop/*' }\n", 7, A_RULE + '.when.path: "shop/*" matches no path: paths begin with /'),
    (
        RULE + "when = { path_prefix = '/a*' }\n",
        7,
        A_RULE + '.when.path_prefix: "/a*" matches its * and ? alone: *',
    ),
    (RULE + "when = { path_prefix = '/a?b' }\n", 7, A_RULE + '.when.path_prefix: "/a?b" matches its *'),
    (RULE + "when = { path = '/a?x=1' }\n", 7, A_RULE + '.when.path: "/a?x=1" matches no path: conditions on param*'),
    (RULE + "when = { path = '/a b' }\n", 7, A_RULE + '.when.path: "/a b" matches no path: they are encoded, *'),
    (RULE + "when = { path_prefix = '/café' }\n", 7, A_RULE + '.when.path_prefix: "/café" matches no path: they *'),
    (RULE + "when = { path_prefix = ['/a', 'b'] }\n", 7, A_RULE + '.when.path_prefix[2]: "b" matches no path: *'),
    (RULE + "when = { host = 'A.test:80' }\n", 7, A_RULE + '.when.host: "A.test:80" matches no host: *'),
    (RULE + "when = { header = { A = 1 } }\n", 7, A_RULE + ".when.header.A: should be true or false, a string, *"),
    (
        RULE + "when = { header = { A = [1] } }\n",
        7,
        A_RULE + ".when.header.A[1]: should be a string, not the number 1: *",
    ),
    (RULE + "when = { header = { 'A b' = true } }\n", 7, A_RULE + '.when.header."A b": "A b" is not a token *'),
    (RULE + "when = { header = { A = { regx = 'a' } } }\n", 7, A_RULE + ".when.header.A.regx: * did you mean regex?"),
    (RULE + "when = { method = 'get' }\n", 7, A_RULE + '.when.method: "get" is no method, *did you mean GET?'),
    (RULE + "when = { path_regex = '(' }\n", 7, A_RULE + '.when.path_regex: "(" is not a regular expression of RE2: *'),
    (RULE + "when = { path_regex = '(a)\\1' }\n", 7, A_RULE + ".when.path_regex: * invalid escape sequence: \\1"),
    (
        RULE + "when = { path_regex = '" + "a" * 1001 + "' }\n",
        7,
        A_RULE + ".when.path_regex: * is longer than 1000 characters",
    ),
    (
        RULE + "when = { path_regex = '((a{1,999}){1,99}){1,99}' }\n",
        7,
        A_RULE + ".when.path_regex: * is not a regular *",
    ),
    (RULE + "when = { status = 404 }\n", 7, A_RULE + '.when.status: should be a string or a list, * write "404"'),
    (RULE + "when = { status = '600' }\n", 7, A_RULE + '.when.status: "600" is not a status code such as "404", *'),
    (
        RULE + "when = { network = ['10.0.0.1/8'] }\n",
        7,
        A_RULE + '.when.network[1]: "10.0.0.1/8" is not a network such as *',
    ),
    (RULE + "when = { country = 'de' }\n", 7, A_RULE + '.when.country: "de" is not a country code *, such as DE'),
    (RULE + "when = { result = 'hitt' }\n", 7, A_RULE + '.when.result: "hitt" is not "hit", *; did you mean hit?'),
    (
        RULE + "when = { content_type = 'Text/html' }\n",
        7,
        A_RULE + '.when.content_type: "Text/html" matches no type: *',
    ),
    (RULE + "when = { not = { pth = 'a' } }\n", 7, A_RULE + ".when.not.pth: is not a key here; did you mean path?"),
    (RULE + "when = { negated = { path = '/' } }\n", 7, A_RULE + ".when.negated: is not a key here; *"),
    (
        RULE + "when = { any = [{ path = '/a' }, { pat = 'a' }] }\n",
        7,
        A_RULE + ".when.any[2].pat: * did you mean path?",
    ),
    (RULE + "when = { any = [] }\n", 7, A_RULE + ".when.any: is an empty list, which never matches"),
    (RULE + "when = { status = '404' }\nroute = { pool = 'shop' }\n" + POOL, 8, A_RULE + ".route: is decided before *"),
    (RULE + "cache = { ttl = 10 }\n", 7, A_RULE + '.cache.ttl: should be a string such as "10s", not the number 10'),
    (
        RULE + "cache = { ttl = '10' }\n",
        7,
        A_RULE + '.cache.ttl: "10" is not a duration such as 250ms, 10s, 5m, 1h or 1d',
    ),
    (
        RULE + "cache = { ttl_by_status = { 40x = '1s' } }\n",
        7,
        A_RULE + '.cache.ttl_by_status.40x: "40x" is not a status *',
    ),
    (RULE + "cache = { set_cookie = 'drop' }\n", 7, A_RULE + '.cache.set_cookie: "drop" is not "respect" or "ignore"'),
    (RULE + "cache = { tags = 'a' }\n", 7, A_RULE + ".cache.tags: should be a list, not a string"),
    (
        RULE + "redirect = { to = '/x', status = 200 }\n",
        7,
        A_RULE + ".redirect.status: should be 301, 302, *, not the number 200",
    ),
    (RULE + "redirect = '/x'\n", 7, A_RULE + ".redirect: should be a table, not a string"),
    (RULE + "redirect = {}\n", 7, A_RULE + ".redirect: lacks the key to"),
    (RULE + "redirect = { to = '/$1' }\n", 7, A_RULE + ".redirect.to: $1 needs a path_regex *"),
    (
        RULE + "when.path_regex = '(a)'\nredirect = { to = '/$3' }\n",
        8,
        A_RULE + ".redirect.to: $3 is no group of path_regex, which has 1",
    ),
    (RULE + "route = { rewrite = 'a', to = '$1' }\n", 7, A_RULE + ".route.to: $1 is no group: rewrite has no groups"),
    (RULE + "route = { rewrite = 'a' }\n", 7, A_RULE + ".route: rewrite and to belong together"),
    (RULE + "redirect = { to = '/x' }\nrespond = {}\n", 5, A_RULE + ": has both redirect and respond"),
    (RULE + "respond = { status = 99 }\n", 7, A_RULE + ".respond.status: 99 should be at least 200"),
    (
        RULE + 'request_headers = { set = { A = "a\\nB: c" } }\n',
        7,
        A_RULE + ".request_headers.set.A: holds a control character",
    ),
    (
        RULE + "request_headers = { set = { A = '☃' } }\n",
        7,
        A_RULE + '.request_headers.set.A: "☃" is not a field value: *',
    ),
    (
        RULE + "request_headers = { set = { host = 'x' } }\n",
        7,
        A_RULE + ".request_headers.set.host: is set by route.host",
    ),
    (
        RULE + "request_headers = { remove = ['Connection'] }\n",
        7,
        A_RULE + ".request_headers.remove[1]: Connection is set by *",
    ),
    (
        RULE + "request_headers = { add = { Edgecache-Tags = 'x' } }\n",
        7,
        A_RULE + ".request_headers.add.Edgecache-Tags: *",
    ),
    (
        RULE + "response_headers = { set = { Content-Length = '1' } }\n",
        7,
        A_RULE + ".response_headers.set.Content-Length: *",
    ),
    (
        RULE + "respond = { headers = { Transfer-Encoding = 'x' } }\n",
        7,
        A_RULE + ".respond.headers.Transfer-Encoding: *",
    ),
    (RULE + "limits = { rate = '1/s' }\n", 7, A_RULE + ".limits: should be a list, not a table: *"),
    (
        RULE + "limits = [{ rate = '1 per s' }]\n",
        7,
        A_RULE + '.limits[1].rate: "1 per s" is not a number of requests *',
    ),
    (RULE + "limits = [{ rate = '1/s', burst = 0 }]\n", 7, A_RULE + ".limits[1].burst: 0 should be at least 1"),
    (RULE + "compress = true\n", 7, A_RULE + ".compress: should be a table or false, not true"),
    (RULE + "debug = ['xcache']\n", 7, A_RULE + '.debug[1]: "xcache" is not *; did you mean x-cache?'),
    (
        RULE + "route = { canary = { pool = 'shop', share = 2 } }\n",
        7,
        A_RULE + ".route.canary.share: 2 should be at most 1",
    ),
    (
        RULE + "when = " + "{ not = " * 50 + "{}" + "}" * 50 + "\n",
        0,
        "has more than 40 lists and tables inside each other",
    ),
    ("x = " + "[" * 9000 + "]" * 9000 + "\n", 0, "has more than 40 lists and tables inside each other"),
    ("[pools.a]\nservers = []\n" + SITE, 2, "pools.a.servers: is an empty list"),
    ("[pools.a]\nservers = ['a']\n" + SITE, 2, 'pools.a.servers[1]: "a" is not http(s)://host[:port] *'),
    ("[pools.a]\nservers = [1]\n" + SITE, 2, "pools.a.servers[1]: should be a string or a table, not the number 1: *"),
    ("[pools.a]\nservers = [{ ur = 'http://a' }]\n" + SITE, 2, "pools.a.servers[1].ur: * did you mean url?"),
    ("[pools.A]\nservers = ['http://a']\n" + SITE, 1, 'pools.A: "A" is not a name *'),
    (
        SITE + "purge_tokens = { cms = '/none' }\n",
        5,
        "sites[1].purge_tokens.cms: the file that it names cannot be read: No such *",
    ),
    (
        SITE + "maintenance_page = '/none'\n",
        5,
        "sites[1].maintenance_page: /none cannot be read: No such file or directory",
    ),
    (SITE + "maintenance_page = '/'\n", 5, "sites[1].maintenance_page: / is not a file"),
    (SITE + "maintenance_page = '/dev/null'\n", 5, "sites[1].maintenance_page: /dev/null is not a file"),
    (SITE + "error_pages = { 503 = '/none' }\n", 5, "sites[1].error_pages.503: /none cannot be read: *"),
    (SITE + "error_pages = { 50 = '/none' }\n", 5, 'sites[1].error_pages.50: "50" is not a status code *'),
    (
        "[credentials.a]\nkind = 'bearer'\nsecret = '/none'\n" + SITE,
        3,
        "credentials.a.secret: the file that it names cannot be read: *",
    ),
    # what a tired operator writes
    (
        SITE.replace('"a.test"', '"https://a.test"'),
        3,
        "sites[1].hosts[1]: holds https://a.test, which is *",
    ),
    (SITE.replace('"a.test"', '"a.test/"'), 3, "sites[1].hosts[1]: holds a.test/, which is not a host name"),
    (SITE.replace('"a.test"', '"*.*.test"'), 3, "sites[1].hosts[1]: holds *.test, which is not a host name"),
    (SITE.replace('"a.test"', '"*a.test"'), 3, "sites[1].hosts[1]: holds *a.test, which is not a host name"),
    (SITE.replace('"a.test"', '"a.test, b.test"'), 3, 'sites[1].hosts[1]: "a.test, b.test" is not one host name'),
    (SITE.replace("hosts", "host"), 3, "sites[1].host: is not a key here; did you mean hosts?"),
    (SITE.replace('"http://a"', '"a:8080"'), 4, 'sites[1].origin: "a:8080" is not http(s)://host[:port] without *'),
    (SITE.replace('"http://a"', '"http://a/path"'), 4, 'sites[1].origin: "http://a/path" is not http(s)://*'),
    (SITE.replace('"http://a"', '"http://a:99999"'), 4, 'sites[1].origin: "http://a:99999" is not http(s)://*'),
    (SITE.replace('"http://a"', '""'), 4, 'sites[1].origin: "" is not http(s)://*'),
    (SITE.replace('"http://a"', "“http://a”"), 4, "is not TOML: invalid value"),
    (SITE.replace('["a.test"]', '["a.test"'), 4, "is not TOML: unclosed array"),
    ("sites:\n  - name: a\n", 1, "is not TOML: expected '=' after a key in a key/value pair"),
    (RULE + "cache = { ttl = '5 min' }\n", 7, A_RULE + '.cache.ttl: "5 min" is not a duration *'),
    (RULE + "cache = { ttl = '1w' }\n", 7, A_RULE + '.cache.ttl: "1w" is not a duration *'),
    (RULE + "cache = { store = 'no' }\n", 7, A_RULE + ".cache.store: should be true or false, not a string"),
    (RULE + "when = { paths = ['/a'] }\n", 7, A_RULE + ".when.paths: is not a key here; did you mean path?"),
    (RULE + "when = { network = ['localhost'] }\n", 7, A_RULE + '.when.network[1]: "localhost" is not a network *'),
    (RULE + "when = { scheme = 'HTTPS' }\n", 7, A_RULE + '.when.scheme: "HTTPS" is not "http" or "https"'),
    (RULE + "redirect = { to = 'example.org' }\n", 7, A_RULE + ".redirect.to: must begin with a path, or *"),
    (RULE + "redirect = { to = '/x', status = '301' }\n", 7, A_RULE + ".redirect.status: should be 301, *"),
    (RULE + "redirect = { to = 'https://$hots$path' }\n", 7, A_RULE + ".redirect.to: $hots is no variable: *"),
    (RULE + "response_headers = { set = ['X-A: b'] }\n", 7, A_RULE + ".response_headers.set: should be a table, *"),
    (
        RULE + "security_headers = true\n",
        7,
        A_RULE + '.security_headers: should be "off", "basic" or *',
    ),
    (
        RULE + "cors = { origins = ['*'], credentials = true }\n",
        7,
        A_RULE + '.cors.origins: "*" cannot be combined with *',
    ),
    (RULE + "limits = [{ rate = '0/s' }]\n", 7, A_RULE + '.limits[1].rate: "0/s" is not a number of requests *'),
    (RULE + "limits = [{ burst = 5 }]\n", 7, A_RULE + ".limits[1]: limits nothing: *"),
    (RULE + "limits = [{ rate = '1/s', by = ['ip'] }]\n", 7, A_RULE + '.limits[1].by[1]: "ip" is not "client", *'),
    (RULE + "limits = [{ body = '10 megabytes' }]\n", 7, A_RULE + '.limits[1].body: "10 megabytes" is not a size *'),
    (RULE + "compress = { codings = ['brotli'] }\n", 7, A_RULE + '.compress.codings[1]: "brotli" is not *'),
    (RULE + "access = { allow = ['all'] }\n", 7, A_RULE + '.access.allow[1]: "all" is not a network *'),
    (RULE + "access = 'private'\n", 7, A_RULE + ".access: should be a table, not a string"),
    (RULE + "access.jwt = { jwks = 'a.test/jwks.json' }\n", 7, A_RULE + ".access.jwt.jwks: is not a URL *"),
    (RULE + "access.jwt = { jwks = 'https://a/', leeway = 30 }\n", 7, A_RULE + ".access.jwt.leeway: should be a *"),
    (RULE + "access.signed = { keys = ['/k'] }\n", 7, A_RULE + ".access.signed.keys: should be a table, not a list"),
    (RULE + "access.bots = { require = true }\n", 7, A_RULE + ".access.bots: needs directories: *"),
    (SITE + "certificates = ['/etc/a.pem']\n", 5, "sites[1].certificates[1]: should be a table, not a string"),
    (SITE + "settings = { max_connections = 10 }\n", 5, "sites[1].settings.max_connections: is not a key here; *"),
    (SITE + "purge_tokens = ['/t']\n", 5, "sites[1].purge_tokens: should be a table, not a list"),
    ("[pools.a]\nservers = ['http://a']\nweight = 3\n" + SITE, 3, "pools.a.weight: is not a key here; *"),
    ("[pools.a]\nservers = ['unix:run/a.sock']\n" + SITE, 2, 'pools.a.servers[1]: "unix:run/a.sock" is not unix:/*'),
    ("[pools.a]\nservers = ['https://a']\nca = '/none'\n" + SITE, 3, "pools.a.ca: names /none, which holds no *"),
    ("[credentials.a]\nkind = 'aws'\nsecret = '/none'\n" + SITE, 2, 'credentials.a.kind: "aws" is not "bearer", *'),
]


def sentence(text: str) -> str:
    """What is said of `text`."""
    with pytest.raises(SitesError) as refusal:
        written(text)
    return str(refusal.value)


def pattern(words: str) -> str:
    """`words`, in which * is any text, as a regular expression."""
    return ".*".join(re.escape(part) for part in words.replace("[[[]", "[[").split("*"))


def test_a_mistake_is_one_sentence() -> None:
    """With its line, its key and what is wrong, in one line that is not long."""
    with each_case() as case:
        for text, line, words in WRONG:
            with case(words):
                said = sentence(text)
                assert re.fullmatch((f"line {line}: " if line else "") + pattern(words), said), said
                assert said.isprintable()
                assert len(said) < 700


def test_a_mistake_refuses_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`serve` and `check-config` say the same, name file and line, and exit with 2."""
    file = tmp_path / "sites.toml"
    for name in [name for name in os.environ if name.startswith("EDGECACHE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGECACHE_SITES", str(file))
    with each_case() as case:
        for text, line, words in WRONG:
            file.write_bytes(text.encode())
            with case(words):
                refuses_the_start(file, line, capsys)


def refuses_the_start(file: Path, line: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Both commands refuse the file in the same words."""
    codes, lines = [], []
    for command in ("check-config", "serve"):
        codes.append(main([command]))
        lines.append(capsys.readouterr().err)

    assert codes == [2, 2]
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"EDGECACHE_SITES: {file}:{line}: " if line else f"EDGECACHE_SITES: {file}: ")
    assert lines[0].count("\n") == 1


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_mistake_keeps_the_last_good_text(number: int, tmp_path: Path) -> None:
    """At a reload, in one sentence with file and line: settings, and the environment of workers, are what they were."""
    text, line, _ = WRONG[number]
    file = tmp_path / "sites.toml"
    file.write_text(SITE)
    source = Source({"EDGECACHE_SITES": str(file), "EDGECACHE_MEMORY": "64MiB", "EDGECACHE_WORKERS": "1"})
    configuration = Configuration(source, load(source.read()), Registry())
    before, told = configuration.settings, configuration.environ
    file.write_bytes(text.encode())
    with pytest.raises(ConfigError) as refused:
        configuration.read_again()

    assert str(refused.value).startswith(f"EDGECACHE_SITES: {file}:{line}: " if line else f"EDGECACHE_SITES: {file}: ")
    assert str(refused.value).isprintable()
    assert configuration.settings is before
    assert configuration.environ is told


def test_more_than_a_hundred_mistakes_are_known() -> None:
    """Each another one."""
    assert len({text for text, _, _ in WRONG}) == len(WRONG) > 150


def test_paths_that_leave_something_open_are_warned_of() -> None:
    """Of rules with access: capitals, and globs below a path that leave out the path itself."""
    access = "access.allow = ['10.0.0.0/8']\n"
    for when, words in (
        ("path_prefix = '/admin'", []),
        ("path = ['/admin', '/admin/*']", []),
        ("path = '/admin/*', path_prefix = '/admin'", []),
        ("path = '*.php'", []),
        ("path_prefix = '/caf%C3%A9'", []),
        ("path = '/admin/*'", ["/admin/* leaves /admin open: path_prefix covers both"]),
        ("path_prefix = '/Admin'", ["/Admin has capitals, and is open as /admin where an origin ignores case"]),
    ):
        warnings = written(RULE + f"when = {{ {when} }}\n" + access).warnings
        assert warnings == [f"EDGECACHE_SITES: site a, rule r: access: {one}" for one in words], when
        assert written(RULE + f"when = {{ {when} }}\n").warnings == []


def test_files_that_are_no_text_of_sites(tmp_path: Path) -> None:
    """Missing, a directory, not UTF-8, too large."""
    bad = tmp_path / "bad.toml"
    assert sentence(str(bad)) == f"{bad}: cannot be read: No such file or directory"
    assert sentence(str(tmp_path)) == f"{tmp_path}: is not a file"
    bad.write_bytes(SITE.encode() + b"x = '\xff'\n")
    assert sentence(str(bad)) == f"{bad}:5: is not UTF-8"
    with bad.open("wb") as file:
        file.truncate(parser.LARGEST + 1)
    assert sentence(str(bad)) == f"{bad}: is larger than 32 MiB"


def test_a_byte_order_mark_and_other_line_ends_are_no_mistakes(tmp_path: Path) -> None:
    """Editors write them; lines are counted the same."""
    file = tmp_path / "sites.toml"
    file.write_bytes(b"\xef\xbb\xbf" + SITE.replace("\n", "\r\n").encode())
    assert written(str(file)).document.sites[0].name == "a"
    file.write_bytes(b"\xef\xbb\xbf" + (SITE + "orgin = 'x'\n").replace("\n", "\r\n").encode())
    assert sentence(str(file)).startswith(f"{file}:5: sites[1].orgin: ")


@pytest.mark.parametrize(
    "text",
    [
        SITE + f"purge_tokens = {{ cms = '{SECRET}' }}\n",
        f"[credentials.a]\nkind = 'bearer'\nsecret = '{SECRET}'\n" + SITE,
        RULE + f"access = {{ signed = {{ keys = {{ k = '{SECRET}' }} }} }}\n",
        SITE.replace("http://a", f"http://user:{SECRET}@a"),
        SITE.replace('"http://a"', f'["http://user:{SECRET}@a"]'),
        RULE + f"access = {{ basic = {{ users = '//u:{SECRET}@x' }} }}\n",
    ],
)
def test_no_secret_is_quoted(text: str) -> None:
    """One that is written where the path of its file is expected, or in a URL."""
    assert SECRET not in sentence(text)
    with pytest.raises(ConfigError) as refusal:
        load({"EDGECACHE_SITES": text})
    assert SECRET not in str(refusal.value)


def test_contents_of_files_are_read_once_and_go_with_the_text(tmp_path: Path) -> None:
    """A snapshot holds the very text and the files, whatever becomes of them on the disk; no repr shows one."""
    page, token, sites = tmp_path / "page.html", tmp_path / "token", tmp_path / "sites.toml"
    page.write_text("<p>Back soon")
    token.write_text(SECRET + "\n")
    sites.write_text(SITE + f"maintenance_page = '{page}'\npurge_tokens = {{ cms = '{token}' }}\n")
    first = written(str(sites))
    copy = tmp_path / "copy"
    copy.write_bytes(snapshot(first))
    for file in (page, token, sites):
        file.unlink()
    again = written(str(copy))

    assert again == first
    assert again.document == first.document
    assert again.files == {str(page): b"<p>Back soon", str(token): SECRET.encode()}
    assert first.watched == [str(sites), str(token), str(page)]
    assert SECRET not in repr(again)


def test_a_secret_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    """Empty files, and tokens of a few characters."""
    token = tmp_path / "token"
    text = SITE + f"purge_tokens = {{ cms = '{token}' }}\n"
    for content, words in (("\n", "is empty"), ("short\n", "holds less than 16 characters: openssl rand -hex 32 *")):
        token.write_text(content)
        assert re.fullmatch(
            pattern(f"line 5: sites[1].purge_tokens.cms: the file that it names {words}"), sentence(text)
        )


def test_words_of_the_grammar_are_names_elsewhere() -> None:
    """A cookie may be called `not`."""
    document = parsed(RULE + "when = { cookie = { not = true, negated = false } }\n")

    assert document.sites[0].rules[0].when.cookie == {"not": True, "negated": False}


def test_ten_thousand_sites() -> None:
    """Many sites are taken, and a mistake in the last is found where it is."""
    sites = "".join(SITE.replace('"a"', f'"s{n}"').replace("a.test", f"s{n}.test") for n in range(10_000))

    assert len(parsed(sites).sites) == 10_000
    assert (
        sentence(sites + "orgin = 'x'\n") == "line 40001: sites[10000].orgin: is not a key here; did you mean origin?"
    )
