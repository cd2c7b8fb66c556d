"""`edgecache store`: what the machine's store of a POP holds; also while the POP runs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgecache.config.settings import load
from edgecache.config.sizing import SHARED_MEMORY
from edgecache.config.sources import Source
from edgecache.semantics.errors import ConfigError

if TYPE_CHECKING:
    from edgecache.storage.machine.store import MachineStore

TOP: Final = 10  # sites and types that are listed
FAILED: Final = 1


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    words = "Print the contents of the machine's store, verify them, or clear them. The POP may be running."
    store = commands.add_parser("store", help="inspect or clear the machine's store", description=words)
    store.add_argument("what", choices=("status", "verify", "clear"), help="what to do")
    store.add_argument("--path", default="", help="directory of the store (default: that of EDGECACHE_STORE)")
    store.add_argument("--top", action="store_true", help="with status: the sites and types with the most bytes (slow)")
    store.add_argument("--config", default="", metavar="FILE", help="configuration file")
    store.set_defaults(command=run)


def run(chosen: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run the command; its exit code."""
    try:
        import lmdb

        from edgecache.storage.machine import store_files
    except ImportError:
        print("edgecache store: needs the package lmdb: pip install 'edgecache[store]'", file=sys.stderr)
        return FAILED
    path = chosen.path or _configured(environ, chosen.config)
    if not path:
        found = ", ".join(_in_memory())
        words = (
            f"several POPs have a store, --path names one: {found}" if found else "no store of a running POP is found"
        )
        print(f"edgecache store: {words}", file=sys.stderr)
        return FAILED
    try:
        store = store_files.attach(path)
    except (OSError, lmdb.Error) as error:
        print(f"edgecache store: {path} cannot be opened: {error}", file=sys.stderr)
        return FAILED
    try:
        return {"status": _status, "verify": _verify, "clear": _clear}[chosen.what](store, chosen)
    finally:
        store.close()


def _configured(environ: Mapping[str, str], config: str) -> str:
    """The directory that the settings name; for a store in memory, that of the one POP of this machine which runs."""
    try:
        source = Source(environ, config)
        source.read()
        kind, _, path = load(source.merged()).store.partition(":")
    except ConfigError:
        kind, path = "memory", ""
    if kind == "off" or path:
        return path
    found = _in_memory()
    return found[0] if len(found) == 1 else ""


def _in_memory() -> list[str]:
    """The directories of POPs of this machine that have a store in memory."""
    from edgecache.storage.machine.store_files import PREFIX

    return sorted(str(found) for found in Path(SHARED_MEMORY).glob(f"{PREFIX}*"))


def _status(store: MachineStore, chosen: argparse.Namespace) -> int:
    head, shape = store.head, store.shape
    written, stored = head["written"], head["stored"]
    lines = {
        "path": store.path,
        "size": f"{shape.total} bytes",
        "used": f"{store.used()} of {shape.small + shape.main} bytes for records",
        "objects": f"{store.objects()} of at most {shape.most_objects}",
        "evicted": f"{head['evicted']} records",
        "carried over": f"{head['carried']} records",
        "written": f"{written} bytes, {written / stored if stored else 1:.2f} for each byte stored",
        "cleared": f"{head['cleared']} times",
        "invalidations": f"{head['log_head']} recorded",
        "usable": "no: an invalidation could not be recorded" if head["poisoned"] else "yes",
    }
    for name, value in lines.items():
        print(f"{name:14} {value}")
    if chosen.top:
        _top(store)
    return 0


def _top(store: MachineStore) -> None:
    """Bytes by site and by type. Encrypted records, and chunks of large bodies, do not say theirs."""
    sites: Counter[str] = Counter()
    types: Counter[str] = Counter()
    for value in store.values():
        site, kind = described(value)
        sites[site] += len(value)
        types[kind] += len(value)
    for heading, counts in (("site", sites), ("type", types)):
        print(f"\n{'bytes':>14}  {heading}")
        for name, count in counts.most_common(TOP):
            print(f"{count:14}  {name}")


def described(value: bytes) -> tuple[str, str]:
    """Site and type of a record, as it lies in the store."""
    from edgecache.semantics.field_codec import content_type_in
    from edgecache.semantics.uri import site_of
    from edgecache.storage.record import DIGEST_SIZE, FIXED, MAGIC

    start = len(MAGIC) + DIGEST_SIZE
    if value[: len(MAGIC)] != MAGIC or len(value) < start + FIXED.size:
        return "(encrypted)", "(encrypted)"
    _, url_size, block_size, *_ = FIXED.unpack_from(value, start)
    url_at = start + FIXED.size
    url, block = value[url_at : url_at + url_size], value[url_at + url_size : url_at + url_size + block_size]
    if not url or len(block) != block_size or b"/" not in url or not url.isascii():
        return "(chunks)", "(chunks)"
    kind = content_type_in(block).partition(b";")[0].decode("latin-1") or "(none)"
    return site_of(url).decode("latin-1"), kind


def _verify(store: MachineStore, chosen: argparse.Namespace) -> int:
    good, bad = store.verify()
    print(f"{good} records are where the index says, {bad} are not")
    return FAILED if bad else 0


def _clear(store: MachineStore, chosen: argparse.Namespace) -> int:
    count = store.objects()
    store.clear()
    print(f"cleared: {count} records")
    return 0
