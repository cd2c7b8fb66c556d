"""Files of keys, checked as the rules that name them use them: that they parse, and are of the right kind and size.

What a worker could not use would refuse all clients of a rule, or be noticed at the first token.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, Final

from edgecache.config.sites.model import Access, Document, Jwt, SignedUrl
from edgecache.config.sites.positions import Path, Problem

SMALLEST_RSA: Final = 2048  # bits: NIST SP 800-131A
SMALLEST_SECRET: Final = {"HS256": 32, "HS384": 48, "HS512": 64}  # bytes: RFC 7518 §3.2
OTHERS_READ: Final = stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH


def unusable_key(document: Document, files: Mapping[str, bytes]) -> Problem | None:
    """The first key that the rule which names it cannot use."""
    for number, site in enumerate(document.sites):
        for position, rule in enumerate(site.rules):
            problem = rule.access and _of_rule(rule.access, files, ("sites", number, "rules", position, "access"))
            if problem:
                return problem
    return None


def _of_rule(access: Access, files: Mapping[str, bytes], place: Path) -> Problem | None:
    if access.jwt is not None and access.jwt.keys is not None:
        words = _of_tokens(access.jwt, access.jwt.keys, files)
        if words:
            return Problem((*place, "jwt", "keys"), words)
    return None if access.signed is None else _of_signatures(access.signed, files, (*place, "signed", "keys"))


def _of_tokens(jwt: Jwt, written: str, files: Mapping[str, bytes]) -> str:
    """What is wrong with the keys of tokens; empty if nothing is."""
    from edgecache.semantics.signing.token_keys import keys_of  # with libraries that only such rules need

    content = files.get(written)
    subject = "the file that it names" if content is not None else "the value"
    content = written.encode() if content is None else content
    if b"PRIVATE KEY-----" in content:
        return f"{subject} is a private key; a public key is needed"
    try:
        keys = keys_of(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{subject} is not a readable JWK set, JWK, PEM public key or certificate"
    fit = [key for key in keys if not key.algorithms.isdisjoint(jwt.algorithms)]
    if not fit:
        return f"{subject} has no key for {', '.join(jwt.algorithms)}"
    weak = [words for key in fit if (words := _weakness(key.key, key.algorithms.intersection(jwt.algorithms)))]
    return f"{subject} has {weak[0]}" if weak else ""


def _weakness(key: Any, algorithms: frozenset[str]) -> str:
    """What makes a key too weak, or dangerous to leave here; empty if nothing does."""
    if key.key_type == "oct":
        least = min(SMALLEST_SECRET[name] for name in algorithms if name in SMALLEST_SECRET)
        size = len(key.raw_value)
        return f"a secret of {size} bytes; {least} is the minimum (RFC 7518 §3.2)" if size < least else ""
    if key.is_private:
        return "a private key, where a public one belongs"
    bits = key.public_key.key_size if key.key_type == "RSA" else SMALLEST_RSA
    return f"an RSA key of {bits} bits; {SMALLEST_RSA} is the secure minimum" if bits < SMALLEST_RSA else ""


def _of_signatures(signed: SignedUrl, files: Mapping[str, bytes], place: Path) -> Problem | None:
    from edgecache.semantics.signing.signing_dialects import UnusableKey, verifier_of

    contents = {name: files[path] for name, path in signed.keys.items()}
    try:
        verifier_of(signed, contents)
    except UnusableKey as error:
        return Problem((*place, error.name), f"the file that it names {error}")
    return None


def open_to_others(document: Document) -> Iterator[str]:
    """Warnings of secrets in files that other users of the machine may read, or change."""
    from edgecache.config.sites.files import named_files

    public = _public(document)
    for named in named_files(document):
        if not named.is_secret or named.path in public:
            continue
        try:
            mode = os.stat(named.path).st_mode
        except (OSError, ValueError):  # it was read already; what is wrong with it now is said at the next reload
            continue
        if mode & OTHERS_READ:
            key = ".".join(str(step + 1 if isinstance(step, int) else step) for step in named.place)
            yield f"EDGECACHE_SITES: {key}: the file of this secret is open to other users of the machine: chmod 600"


def _public(document: Document) -> frozenset[str]:
    """The files of keys that need not be secret."""
    tables = [rule.access for site in document.sites for rule in site.rules if rule.access is not None]
    signed = [table.signed for table in tables if table.signed is not None and table.signed.format == "cloudfront"]
    tokens = [table.jwt for table in tables if table.jwt is not None]
    sets = [one.keys for one in tokens if one.keys is not None and SMALLEST_SECRET.keys().isdisjoint(one.algorithms)]
    return frozenset(path for one in signed for path in one.keys.values()) | frozenset(sets)
