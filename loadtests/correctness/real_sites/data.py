"""Real data that a Debian machine holds: its packages and the files of /usr/share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from loadtests.lab.processes import Missing

SHARE = Path("/usr/share")
DOCS = SHARE / "doc"
STATUS = Path("/var/lib/dpkg/status")
LEAST_PACKAGES = 100


class Package(NamedTuple):
    """One installed Debian package."""

    name: str
    version: str
    section: str
    kibibytes: int
    maintainer: str
    summary: str
    text: str


class File(NamedTuple):
    """One file of /usr/share."""

    path: str
    name: str
    extension: str
    size: int
    modified: int


def packages() -> list[Package]:
    """The installed packages, by name; raises `Missing` where there is no dpkg or next to nothing in it."""
    try:
        text = STATUS.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Missing(f"{STATUS} cannot be read (a Debian machine is needed): {error}") from error
    found = {package.name: package for block in text.split("\n\n") if (package := _package(block)) is not None}
    if len(found) < LEAST_PACKAGES:
        raise Missing(f"{STATUS} names {len(found)} packages, {LEAST_PACKAGES} are needed")
    return [found[name] for name in sorted(found)]


def _package(block: str) -> Package | None:
    fields: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if line.startswith(" "):
            fields[name] += "\n" + line[1:]
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    if "Package" not in fields or "Description" not in fields:
        return None
    summary, _, text = fields["Description"].partition("\n")
    return Package(
        fields["Package"],
        fields.get("Version", ""),
        fields.get("Section", "unknown"),
        int(fields.get("Installed-Size", "0") or 0),
        fields.get("Maintainer", ""),
        summary,
        text,
    )


def files(most: int) -> list[File]:
    """The first `most` files of /usr/share that are no links, in the order of their paths."""
    found: list[File] = []
    for path in _walk(SHARE):
        if len(found) >= most:
            break
        known = path.stat()
        found.append(File(str(path), path.name, path.suffix or "none", known.st_size, int(known.st_mtime)))
    return found


def documents() -> list[Path]:
    """The readable files of /usr/share/doc, links left out."""
    return [path for path in _walk(DOCS) if os.access(path, os.R_OK)]


def _walk(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path
