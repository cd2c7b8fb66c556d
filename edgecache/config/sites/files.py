"""The files that a text of sites names: which they are, and what they hold.

Contents of secrets and pages are read once, where the text is checked, and go to the workers together with it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from edgecache.config.sites.credentials import secret_in
from edgecache.config.sites.model import Access, Document, Site
from edgecache.config.sites.positions import Path, Problem
from edgecache.config.types import SHORTEST_SECRET

LARGEST: Final = 1024 * 1024  # bytes of one file
INLINE: Final = ("-----BEGIN ", "{")  # a PEM key or a key set in the text itself


class NamedFile(NamedTuple):
    """A file, and where it is named. Of a secret the path is not quoted: it may be the secret itself."""

    place: Path
    path: str
    is_secret: bool = False
    shortest: int = 1  # bytes
    is_line: bool = False  # it holds one line of text


def contents_of(document: Document) -> dict[str, bytes] | Problem:
    """The contents of secrets and pages by path, or the first that cannot be used."""
    found: dict[str, bytes] = {}
    for named in named_files(document):
        content = _content(named)
        if isinstance(content, Problem):
            return content
        found[named.path] = content
    return _repeated(document, found) or found


def _repeated(document: Document, found: dict[str, bytes]) -> Problem | None:
    """The first purge token that is another's, too: which of the two is meant could not be known."""
    seen: dict[bytes, str] = {}
    for number, site in enumerate(document.sites):
        for name, path in site.purge_tokens.items():
            if (other := seen.get(found[path])) is not None:
                return Problem(("sites", number, "purge_tokens", name), f"is the token of {other}, too")
            seen[found[path]] = f"{site.name}/{name}"
    return None


def paths_of(document: Document) -> list[str]:
    """All files that are named, certificates too."""
    certificates = [path for site in document.sites for one in site.certificates for path in (one.certificate, one.key)]
    authorities = [pool.ca or "" for pool in document.pools.values()]
    pages = [named.path for named in named_files(document)]
    return [*dict.fromkeys(path for path in (*pages, *certificates, *authorities) if path)]


def named_files(document: Document) -> Iterator[NamedFile]:
    """The files of secrets and pages, in the order of the text."""
    for name, credentials in document.credentials.items():
        yield NamedFile(("credentials", name, "secret"), credentials.secret, is_secret=True, is_line=True)
    for number, site in enumerate(document.sites):
        yield from _of_site(site, ("sites", number))


def _of_site(site: Site, path: Path) -> Iterator[NamedFile]:
    for name, file in site.purge_tokens.items():
        yield NamedFile((*path, "purge_tokens", name), file, is_secret=True, shortest=SHORTEST_SECRET)
    if site.maintenance_page is not None:
        yield NamedFile((*path, "maintenance_page"), site.maintenance_page)
    for status, file in site.error_pages.items():
        yield NamedFile((*path, "error_pages", status), file)
    for number, rule in enumerate(site.rules):
        if rule.access is not None:
            yield from _of_access(rule.access, (*path, "rules", number, "access"))


def _of_access(access: Access, path: Path) -> Iterator[NamedFile]:
    if access.jwt is not None and access.jwt.keys and not access.jwt.keys.lstrip().startswith(INLINE):
        yield NamedFile((*path, "jwt", "keys"), access.jwt.keys, is_secret=True)
    if access.signed is not None:
        for name, file in access.signed.keys.items():
            yield NamedFile((*path, "signed", "keys", name), file, is_secret=True)


def _content(named: NamedFile) -> bytes | Problem:
    shown = "the file that it names" if named.is_secret else named.path[:200]
    try:
        if not stat.S_ISREG(os.stat(named.path).st_mode):
            return Problem(named.place, f"{shown} is not a file")
        with open(named.path, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        hint = "; it is the path of a file, not the secret" if named.is_secret else ""
        return Problem(named.place, f"{shown} cannot be read: {error.strerror}{hint}")
    except ValueError:
        return Problem(named.place, "is not the path of a file")
    return _judged(named, shown, content)


def _judged(named: NamedFile, shown: str, content: bytes) -> bytes | Problem:
    if len(content) > LARGEST:
        return Problem(named.place, f"{shown} is larger than {LARGEST // 1024} KiB")
    if named.is_secret:
        content = content.rstrip(b"\r\n")
    if not content.strip():
        return Problem(named.place, f"{shown} is empty")
    if named.is_line:
        try:
            secret_in(content)
        except ValueError as error:
            return Problem(named.place, str(error))
    if len(content) < named.shortest:
        return Problem(
            named.place, f"{shown} holds less than {named.shortest} characters: openssl rand -hex 32 generates a secret"
        )
    return content
