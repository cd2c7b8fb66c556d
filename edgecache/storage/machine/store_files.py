"""Creation, discovery and rejection of stores: another version, size, key or POP never reads their contents."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

import lmdb

from edgecache.config.sizing import SHARED_MEMORY
from edgecache.storage.machine.schema import PAGE, VERSION, Geometry, geometry
from edgecache.storage.machine.shared_state import BOOT_AT, IDENTITY_AT, MAGIC, HeadPage
from edgecache.storage.machine.store import MachineStore, open_index

log = logging.getLogger("edgecache")
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
FILES: Final = ("head", "small.log", "main.log", "index", "lock", "fetches", "wake")
INSIDE: Final = ("index/data.mdb", "index/lock.mdb")
TRIES: Final = 5
OWNER: Final = "owner"
PREFIX: Final = "edgecache-store-"


class Taken(OSError):
    """Another POP uses the directory."""


class Unusable(OSError):
    """The files are unusable; the text gives the reason."""


def identity_of(*parts: bytes) -> bytes:
    """What records of a store are bound to: a digest of these, such as a key and a jurisdiction."""
    return sha256(b"".join(b"%d:%b" % (len(part), part) for part in (b"%d" % VERSION, *parts))).digest()


def remove_left(parent: str = SHARED_MEMORY) -> None:
    """Remove directories of POPs that were killed."""
    for found in Path(parent).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if not _foreign(str(found)):
                Owner(str(found)).remove()


def private_directory(parent: str = SHARED_MEMORY) -> str:
    """A new directory in shared memory; those of POPs that were killed are removed first."""
    remove_left(parent)
    path = f"{parent}/{PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
    os.mkdir(path, 0o700)
    return path


def own_directory(parent: str = SHARED_MEMORY) -> Owner:
    """The right to a new directory in shared memory; another POP that starts now may have removed the first as left."""
    for _ in range(TRIES):
        with suppress(FileNotFoundError, Taken):
            return Owner(private_directory(parent))
    raise Taken(f"{parent} is being cleared by other POPs")


def make_directory(path: str) -> None:
    """Make the directory of a store, unless it is there."""
    os.makedirs(path, 0o700, exist_ok=True)


def abandon(path: str) -> None:
    """Let records at `path`, if a store is there, be validated before use: a POP serves without it from now on."""
    with suppress(OSError, lmdb.Error):
        store = attach(path)
        store.head["last_used"] = 0
        store.head.flush()
        store.close()


def spoil(path: str) -> None:
    """Let no process find a store at `path`: an invalidation will be missing in it."""
    os.unlink(f"{path}/head")


class Owner:
    """The right of one POP to a directory; it ends with the process that holds it. Raises Taken, or OSError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(f"{path}/{OWNER}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._fd), os.stat(f"{path}/{OWNER}")):
                raise FileNotFoundError(errno.ENOENT, "was removed meanwhile", path)
        except BlockingIOError:
            os.close(self._fd)
            raise Taken(f"{path} is used by another POP") from None
        except OSError:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Give it up."""
        os.close(self._fd)

    def remove(self) -> None:
        """Remove the directory, and give it up."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()


def prepare(path: str, size: int, identity: bytes, *, mapped: bool, away: float | None = None) -> str:
    """Have a usable store at `path`, made anew unless the one there is; why it was made anew, or an empty word.

    Records of a store that was without its POP for longer than `away` seconds will be validated before use.
    To be called by the owner, before any other process opens it. Raises OSError or lmdb.Error.
    """
    shape = geometry(size)
    why = _unusable(path, shape, identity, mapped=mapped)
    if why:
        _make(path, size, identity, mapped=mapped)
    store = MachineStore(path, shape, mapped=mapped)
    if away is not None and not why and not _in_use_within(store, away):
        log.info("purges may be missing in the machine's store: its records are validated before use path=%s", path)
        store.forget_entries()
    if not mapped:
        _read_ahead(f"{path}/index/data.mdb")
    store.head["clean"] = 0
    note_use(store)
    store.head.put_text(BOOT_AT, boot())
    store.head.flush()  # before anything else is written: after a power cut it must not say that it was closed
    store.close()
    return why


def _read_ahead(index: str) -> None:
    """Have the index in the page cache soon: what it lacks would be read while the event loop waits."""
    fd = os.open(index, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(fd)


def _in_use_within(store: MachineStore, away: float) -> bool:
    """Whether a POP has recorded invalidations here until `away` seconds ago, which 0 says of none."""
    return away > 0 and 0 <= int(time.time()) - store.head["last_used"] <= away


def note_use(store: MachineStore) -> None:
    """All invalidations up to now are recorded in this store."""
    store.head["last_used"] = int(time.time())


def open_store(path: str, size: int, identity: bytes, *, mapped: bool) -> MachineStore:
    """Open a store that was prepared; raises Unusable, OSError or lmdb.Error."""
    shape = geometry(size)
    why = _wrong_head(path, shape, identity)
    if why:
        raise Unusable(f"{path}: {why}")
    return MachineStore(path, shape, mapped=mapped)


def attach(path: str) -> MachineStore:
    """Open the store at `path`, whatever its records are bound to; to look at it. Raises OSError or lmdb.Error."""
    fd = os.open(f"{path}/head", os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size <= PAGE:
            raise Unusable("it is none")
        head = HeadPage(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    try:
        if head["magic"] != MAGIC:
            raise Unusable("it is none, or of another version")
        return MachineStore(path, geometry(head["size"]), mapped=bool(head["mapped"]))
    finally:
        head.close()


def close_orderly(path: str, size: int, identity: bytes, *, mapped: bool) -> None:
    """After the last process: write everything to the disk, so that it outlives the machine."""
    store = open_store(path, size, identity, mapped=mapped)
    store.sync()
    store.head["clean"] = 1
    note_use(store)
    store.head.flush()
    store.close()


def _foreign(path: str) -> bool:
    """Whether what lies at `path` is another user's, or a link to what may be."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return found.st_uid != os.geteuid() or stat.S_ISLNK(found.st_mode)


def boot() -> bytes:
    """Sixteen bytes that name this boot of the machine."""
    with suppress(OSError):
        return sha256(BOOT_ID.read_bytes()).digest()[:16]
    return bytes(16)


def _wrong_head(path: str, shape: Geometry, identity: bytes) -> str:
    try:
        fd = os.open(f"{path}/head", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return "there is none"
    try:
        if os.fstat(fd).st_size != shape.head:
            return "it has another size"
        head = HeadPage(fd, shape.head)
    finally:
        os.close(fd)
    try:
        if head["magic"] != MAGIC:
            return "it is of another version"
        if head.text(IDENTITY_AT, len(identity)) != identity:
            return "it has another key, size, region or jurisdiction"
        return "an invalidation was not recorded in it" if head["poisoned"] else ""
    finally:
        head.close()


def _unusable(path: str, shape: Geometry, identity: bytes, *, mapped: bool) -> str:
    """Why what lies at `path` cannot be used; empty if it can."""
    if any(_foreign(f"{path}/{name}") for name in (*FILES, *INSIDE)):
        return "a file of it is another user's, or a link"
    if why := _wrong_head(path, shape, identity):
        return why
    try:
        if os.path.getsize(f"{path}/index/data.mdb") != shape.index:  # what is missing would be read as zeros
            return "its index has another size than it was made with"
        store = MachineStore(path, shape, mapped=mapped)
    except (OSError, lmdb.Error) as error:
        return f"it cannot be opened: {error}"
    try:
        if not store.head["clean"] and store.head.text(BOOT_AT, 16) != boot():
            return "the machine went down while it was in use"
        store.objects()
        store.used()
    except (OSError, lmdb.Error) as error:
        return f"its index cannot be read: {error}"
    finally:
        store.close()
    return ""


def _make(path: str, size: int, identity: bytes, *, mapped: bool) -> None:
    shape = geometry(size)
    os.makedirs(path, 0o700, exist_ok=True)
    for name in FILES:
        remove(f"{path}/{name}")
    for directory in ("index", "wake"):
        os.makedirs(f"{path}/{directory}", 0o700, exist_ok=True)
    open_index(path, shape).close()
    _allocate(f"{path}/index/data.mdb", shape.index)
    _allocate(f"{path}/small.log", shape.small)
    _allocate(f"{path}/main.log", shape.main)
    _allocate(f"{path}/head", shape.head)
    fd = os.open(f"{path}/head", os.O_RDWR | os.O_CLOEXEC)
    head = HeadPage(fd, shape.head)
    os.close(fd)
    head.put_text(IDENTITY_AT, identity)
    head["size"], head["mapped"] = size, mapped
    head["magic"] = MAGIC  # last: what was not made whole is made again
    head.close()


def remove(path: str) -> None:
    """Remove a file or a link, or a directory and what lies in it."""
    with suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _allocate(path: str, size: int) -> None:
    """Have the file system keep room for all of a file: later writes never find it full."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
        os.ftruncate(fd, size)
    except OSError as error:
        raise OSError(error.errno, f"{os.strerror(error.errno or 0)}: {size} bytes are wanted", path) from None
    finally:
        os.close(fd)
