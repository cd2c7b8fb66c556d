"""What sites and their rules add to a memory hit: the same hit on a POP of 200 sites and 500 rules, and on one of none.

The site that is asked has more rules than most; the conditions of all rules are mixed: paths, headers, cookies.
Beside that, what a check of JSON Web Tokens adds: the same hit, and the same tokens in a cookie, on a site that demands
them and on one that does not.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from loadtests.bench import heads
from loadtests.bench.scenarios import Bound, Scenario

HIT: Final = Scenario(
    "sites",
    "memory hit, 200 sites and 500 rules against none",
    bounds=(Bound("edgecache with sites", "edgecache", 1.05),),
)
VARIED: Final = Scenario("sites-varied", "the same, 20,000 different cookies", sessions=20_000)
JWT: Final = "sites-jwt"
CHECKED: Final = "edgecache with tokens"
TOKENS: Final = 100
SITES: Final = 200
RULES: Final = 500
OF_ITS_OWN: Final = 20  # rules of the site that is asked
CONDITIONS: Final = (  # none holds for the benchmark's requests, which are to have the answer that they have without
    'path_prefix = "/private-{}/"',
    'path = ["/static-{}/*", "*.map-{}"]',
    'header = {{ X-Variant = "{}" }}',
    "cookie = {{ member-{} = true }}",
    'path_regex = "^/old-{}/([0-9]+)$"',
)
ACTIONS: Final = (
    'response_headers = { set = { X-Frame-Options = "DENY" } }',
    'cache = { ttl = "10m", stale_while_revalidate = "1h" }',
    "cache = { store = false }",
    'request_headers = { set = { X-Rule = "1" } }',
)


def text(origin: str) -> str:
    """The text of all sites; `origin` is that of each."""
    sites = [_site(number, origin) for number in range(SITES)]
    return "\n".join(sites)


def _site(number: int, origin: str) -> str:
    hosts = f'"site-{number}.example"' if number else f'"{heads.SITE}", "localhost"'  # the latter for probes
    lines = ["[[sites]]", f'name = "site-{number}"', f"hosts = [{hosts}]", f'origin = "{origin}"']
    return "\n".join([*lines, *map(_rule, _numbers(number))])


def _numbers(site: int) -> range:
    """The numbers of the rules of a site."""
    if site == 0:
        return range(OF_ITS_OWN)
    first, end = [OF_ITS_OWN + (RULES - OF_ITS_OWN) * at // (SITES - 1) for at in (site - 1, site)]
    return range(first, end)


def _rule(number: int) -> str:
    condition = CONDITIONS[number % len(CONDITIONS)].format(number, number)
    action = ACTIONS[number % len(ACTIONS)]
    return f'[[sites.rules]]\nname = "rule-{number}"\nwhen = {{ {condition} }}\n{action}'


def with_tokens(keys: Path) -> Scenario:
    """The scenario of tokens, whose public key is written to `keys`."""
    from joserfc import jwk, jwt  # of the extra `access`, which this scenario alone needs

    key = jwk.ECKey.generate_key("P-256", {"kid": "bench"})
    keys.write_bytes(key.as_pem(private=False))
    expires = int(time.time()) + 86_400
    tokens = [
        jwt.encode({"alg": "ES256", "kid": "bench"}, {"sub": str(number), "exp": expires}, key)
        for number in range(TOKENS)
    ]
    title = f"memory hit, the tokens (JWT) of {TOKENS} clients checked against none checked"
    bounds = (Bound(CHECKED, "edgecache", 1.5),)
    return Scenario(JWT, title, sessions=TOKENS, tokens=tuple(tokens), bounds=bounds)


def text_with_tokens(origin: str, keys: Path | None) -> str:
    """One site; it demands tokens of the key in `keys`, if there is one."""
    demand = f'access.jwt = {{ keys = "{keys}", algorithms = ["ES256"], cookie = "token" }}'
    rule = f'[[sites.rules]]\nname = "clients"\nwhen = {{ path_prefix = "/o" }}\n{demand}' if keys else ""
    return f'[[sites]]\nname = "a"\nhosts = ["*"]\norigin = "{origin}"\n{rule}\n'
