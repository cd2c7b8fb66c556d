"""Mistakes in what rules demand of clients, and libraries that they need and that are missing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final

from edgecache.config.addresses import server
from edgecache.config.sites.model import Access, Basic, Bots, Document, ForwardAuth, Jwt, SignedUrl, When
from edgecache.config.sites.positions import Path, Problem

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K"),
    *("EdDSA", "Ed25519", "Ed448", "HS256", "HS384", "HS512"),
)
OWN_NAMES: Final = ("nginx-secure-link", "cloudfront")  # formats whose parameters have names of their own
ESCAPE: Final = re.compile("%[0-9A-Fa-f]{2}")
EXTRA: Final = "pip install 'edgecache[access]'"


def in_access(access: Access | None, path: Path) -> Iterator[Problem]:
    """All mistakes of one table."""
    if access is None:
        return
    if access == Access():
        yield Problem(path, "requires nothing: public = true removes the requirements of earlier rules")
    if access.basic is not None:
        yield from _of_basic(access.basic, (*path, "basic"))
    if access.jwt is not None:
        yield from _of_jwt(access.jwt, (*path, "jwt"))
    if access.signed is not None:
        yield from _of_signed(access.signed, (*path, "signed"))
    if access.forward_auth is not None:
        yield from _of_forward_auth(access.forward_auth, (*path, "forward_auth"))
    if access.bots is not None:
        yield from _of_bots(access.bots, (*path, "bots"))


def evaded(document: Document) -> Iterator[str]:
    """Warnings of rules with access whose paths leave something open that their author may not know of."""
    for site in document.sites:
        guarded = [rule for rule in site.rules if rule.access is not None and not rule.access.public]
        for name, words in ((rule.name, words) for rule in guarded for words in _left_open(rule.when)):
            yield f"EDGECACHE_SITES: site {site.name}, rule {name}: access: {words}"


def _left_open(when: When) -> Iterator[str]:
    globs, prefixes = (((one,) if isinstance(one, str) else one or ()) for one in (when.path, when.path_prefix))
    for pattern in (*globs, *prefixes):
        if ESCAPE.sub("", pattern) != ESCAPE.sub("", pattern).lower():
            yield f"{pattern} has capitals, and is open as {pattern.lower()} where an origin ignores case"
    for glob in globs:
        below = glob.removesuffix("/*")
        if below not in (glob, "", *globs) and not any(below.startswith(prefix) for prefix in prefixes):
            yield f"{glob} leaves {below} open: path_prefix covers both"


def _of_basic(basic: Basic, path: Path) -> Iterator[Problem]:
    for name, hashed in basic.users.items():
        if ":" in name or not name:
            yield Problem((*path, "users"), "has a name that is empty or has a colon, which no client can send")
        library = "argon2" if hashed.startswith("$argon2") else "bcrypt"
        yield from _needs(library, {"argon2": "argon2-cffi"}.get(library, library), path)


def _of_jwt(jwt: Jwt, path: Path) -> Iterator[Problem]:
    if (jwt.jwks is None) == (jwt.keys is None):
        yield Problem(path, "needs either jwks or keys" if jwt.jwks is None else "has both jwks and keys")
    if jwt.jwks is not None:
        yield from _url(jwt.jwks, (*path, "jwks"))
    if not jwt.algorithms:
        yield Problem((*path, "algorithms"), "is an empty list, so no token would be accepted")
    for number, name in enumerate(jwt.algorithms):
        if name not in ALGORITHMS:
            near = difflib.get_close_matches(name.upper(), ALGORITHMS, n=1)
            hint = f"; did you mean {near[0]}?" if near and name.lower() != "none" else ""
            yield Problem((*path, "algorithms", number), f'"{name}" is not a signature algorithm{hint}')
    yield from _needs("joserfc", "joserfc", path)


def _of_signed(signed: SignedUrl, path: Path) -> Iterator[Problem]:
    if signed.parameter is not None and signed.format in OWN_NAMES:
        yield Problem((*path, "parameter"), f"does not apply to {signed.format}, whose parameters have fixed names")
    if signed.cookie is not None and signed.format == "nginx-secure-link":
        yield Problem((*path, "cookie"), "does not apply to nginx-secure-link, which has no cookies")
    if any("~" in name for name in signed.keys):
        yield Problem((*path, "keys"), "has a name with ~, which separates the parts of a token")


def _of_forward_auth(auth: ForwardAuth, path: Path) -> Iterator[Problem]:
    yield from _url(auth.url, (*path, "url"))


def _of_bots(bots: Bots, path: Path) -> Iterator[Problem]:
    if not bots.directories:
        yield Problem(path, "needs directories: the origins of bots, such as https://bot.example.org")
    for number, url in enumerate(bots.directories):
        yield from _url(url, (*path, "directories", number))
    yield from _needs("http_message_signatures", "http-message-signatures", path)
    yield from _needs("joserfc", "joserfc", path)


def _url(url: str, path: Path) -> Iterator[Problem]:
    scheme, _, rest = url.partition("://")
    authority = rest.partition("/")[0]
    try:
        server(f"{scheme}://{authority}")
    except ValueError:
        yield Problem(path, "is not a URL such as https://host/path")


def _needs(module: str, package: str, path: Path) -> Iterator[Problem]:
    if find_spec(module) is None:
        yield Problem(path, f"needs the package {package}: {EXTRA}")
