"""Geography: from a client's address to its place and region, by a database and by overrides; remembered.

The database is any file in MaxMind format. It is held in memory, so that changes of the file cannot disturb requests.
A changed file is read again; if it cannot be read, the last valid database stays in use.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

import maxminddb

from edgecache.semantics.bounded_cache import BoundedCache
from edgecache.semantics.client_address import Network, Trust, client_address, parsed_address
from edgecache.semantics.geo import CONTINENT_OF, GEO_FIELDS, NOWHERE, GeoRules, Place, geo_lines, place_of
from edgecache.semantics.message import FieldLine, Request

log = logging.getLogger("edgecache")
MOST_ADDRESSES: Final = 16384  # whose location is remembered

Address = IPv4Address | IPv6Address
Version = tuple[int, int, int] | None  # of a file: inode, size, time of its last change; None: it is not there


class Location(NamedTuple):
    """The location of a client, the region that serves it, and the fields that the origin receives about it."""

    place: Place
    region: str
    lines: tuple[FieldLine, ...]
    tag: bytes  # equal for two clients iff `lines` are; ends in a line feed


class Database(NamedTuple):
    """A database in memory."""

    reader: maxminddb.Reader
    ip_version: int  # 4: it knows no IPv6 address
    built: float  # epoch seconds


class Overrides:
    """Places of networks that the operator knows better than the database; the longest prefix wins."""

    def __init__(self, networks: Mapping[Network, str]) -> None:
        by_length: dict[tuple[int, int], dict[int, Place]] = {}
        for network, country in networks.items():
            key = (network.version, network.max_prefixlen - network.prefixlen)
            place = Place(country, CONTINENT_OF.get(country, ""))
            by_length.setdefault(key, {})[int(network.network_address) >> key[1]] = place
        self._by_length = sorted(by_length.items(), key=lambda item: item[0][1])

    def get(self, address: Address) -> Place | None:
        """The place of the smallest network that holds `address`, or None."""
        number = int(address)
        for (version, host_bits), places in self._by_length:
            if version == address.version and (place := places.get(number >> host_bits)) is not None:
                return place
        return None


class Geo:
    """Locations by address. Mutable state: the database in use, and the results of look-ups."""

    def __init__(self, path: str, overrides: Mapping[Network, str], rules: GeoRules, home: str) -> None:
        self._path = path
        self._overrides = Overrides(overrides)
        self._rules = rules
        self._home = home  # the region of whom no rule names
        self._version: Version = None
        self._database: Database | None = None
        self._known: BoundedCache[str, Location] = BoundedCache(MOST_ADDRESSES)
        self.reload_failures = 0
        self.generation = 0  # of the database
        self.reload()

    def locate(self, address: str) -> Location:
        """Where the client at `address` is; no address, or one that nothing is known of, is nowhere."""
        known = self._known
        location = known.get(address)
        if location is None:
            location = self._look_up(address)
            known.remember(address, location)
        return location

    def _look_up(self, text: str) -> Location:
        address = parsed_address(text)
        place = NOWHERE if address is None else self._overrides.get(address) or self._recorded(address)
        region = self._rules.region_of(place) or self._home
        lines = geo_lines(place, region)
        return Location(place, region, lines, b" ".join([value for _, value in lines]) + b"\n")

    def _recorded(self, address: Address) -> Place:
        database = self._database
        if database is None or address.version > database.ip_version:
            return NOWHERE
        try:
            return place_of(database.reader.get(address))
        except (maxminddb.InvalidDatabaseError, ValueError):  # a damaged record: as good as none
            return NOWHERE

    # --- the database

    @property
    def stale(self) -> bool:
        """Whether the file is another one than was read last."""
        return bool(self._path) and version_of(self._path) != self._version

    def reload(self) -> bool:
        """Read the file if it is another one; whether it is now in use. May run in a thread of its own."""
        if not self.stale:
            return False
        self._version = version_of(self._path)  # before it is read: what changes meanwhile is read again
        try:
            self._database = open_copy(self._path)
        except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
            self.reload_failures += 1
            log.warning("the geographic database cannot be read, the last one stays in use: %s", type(error).__name__)
            return False
        self.generation += 1
        self._known = BoundedCache(MOST_ADDRESSES)  # after the reader: what is remembered here comes from the new one
        return True

    @property
    def built(self) -> float:
        """When the database in use was built, in epoch seconds; 0.0 without one."""
        return 0.0 if self._database is None else self._database.built


class Locator:
    """Adds the client's location to requests, and to the tag under which the fast path knows their bytes."""

    def __init__(self, geo: Geo, is_trusted: Trust) -> None:
        self.geo = geo
        self._is_trusted = is_trusted

    def located(self, request: Request, peer: str) -> Request:
        """`request` with our view of the client's place as fields, in the stead of what it says itself."""
        return self.placed(request, client_address(peer, request.fields, self._is_trusted))

    def placed(self, request: Request, client: str) -> Request:
        """`request` with our view of the place of the client at that address."""
        location = self.geo.locate(client)
        fields = request.fields.without(GEO_FIELDS).plus(*location.lines)
        return request._replace(fields=fields, place=location.lines)

    def tag(self, peer: str) -> bytes:
        """What, together with a head's exact bytes, decides the location: that of `peer`, or who the proxy is."""
        if self._is_trusted(peer):
            return b"%b %d\n" % (peer.encode(), self.geo.generation)
        return self.geo.locate(peer).tag


def version_of(path: str) -> Version:
    """What tells one file at `path` from the next."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def open_copy(path: str) -> Database:
    """The database at `path`, in memory; raises OSError or InvalidDatabaseError.

    A mapped file that is cut short kills the process that reads it, so the mapping is of a copy of our own.
    """
    if hasattr(os, "memfd_create"):
        reader = _open_in_memfd(path)
    else:
        reader = maxminddb.open_database(path, maxminddb.MODE_MEMORY)
    metadata = reader.metadata()
    return Database(reader, metadata.ip_version, float(metadata.build_epoch))


def _open_in_memfd(path: str) -> maxminddb.Reader:
    with open(path, "rb") as file:
        content = file.read()
    descriptor = os.memfd_create("geo", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as copy:
            copy.write(content)
        return maxminddb.open_database(f"/proc/self/fd/{descriptor}", maxminddb.MODE_AUTO)
    finally:
        os.close(descriptor)
