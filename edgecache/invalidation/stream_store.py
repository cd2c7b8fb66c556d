"""Logs as Valkey Streams: appending to the region's own, reading all, copying those of other regions.

    ec:{log}:region:eu the log of region eu: in eu's Valkey the log itself, in every other region's a copy of it
    ec:{log}:regions   regions whose logs are here
    ec:{log}:run       which run of the server has the region's own log (`log_runs`)
    ec:{log}:beats     per region a number that grows while its log is replicated
    ec:{log}:pops      progress of each worker that reads here, with the time of its report
    ec:{log}:acks      the same as a stream: when each entry was applied, for as long as it is remembered

None of these has an end of life, so no `volatile-*` eviction policy takes them. The server itself decides what is
appended: each script is atomic, so that an entry has one place, knows the one before it, and any number of copiers may
copy the same log at once. IDs are never made here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from os import urandom
from typing import Any, Final, NamedTuple

import orjson
from redis.exceptions import ResponseError

from edgecache.invalidation import log_seal, version_vector
from edgecache.invalidation.log_entry import Draft, StreamFields, decode_place, encode_id, encode_incarnation, flattened
from edgecache.invalidation.log_runs import RUN, THIS_RUN
from edgecache.invalidation.log_seal import LogPlace
from edgecache.invalidation.version_vector import NOTHING, Vector
from edgecache.storage.record import Codec
from edgecache.valkey.client import Command, Link

REGIONS: Final = b"ec:{log}:regions"
PUSHES: Final = b"ec:{log}:new:"  # and the region: a channel
BEATS: Final = b"ec:{log}:beats"
POPS: Final = b"ec:{log}:pops"
ACKS: Final = b"ec:{log}:acks"
MOST_ACKS: Final = 20_000
FORGOTTEN: Final = 600.0  # seconds of silence after which a worker is no longer waited for
Ask = Callable[[Command], Awaitable[Any]]
Row = tuple[bytes, dict[bytes, bytes]]  # an entry's ID and fields

_ORDER: Final = """
local function part(id) local ms, seq = string.match(id, '^(%d+)-(%d+)$') return ms, seq end
local function less_number(a, b) if #a ~= #b then return #a < #b end return a < b end
local function less(a, b)
  local am, as = part(a) local bm, bs = part(b)
  if am ~= bm then return less_number(am, bm) end
  return less_number(as, bs)
end
local function field(entry, name)
  for i = 1, #entry[2], 2 do if entry[2][i] == name then return entry[2][i + 1] end end
  return ''
end
local function top(key) return redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1] end
"""
# A log that holds less than its caller has seen of it was lost or rolled back: it begins anew.
_OPEN: Final = """
local last = top(KEYS[1])
local inc, prev
if last then inc = field(last, 'i') prev = last[1] end
if not last or inc < ARGV[1] or (inc == ARGV[1] and less(prev, ARGV[2])) then
  inc = ARGV[3]
  prev = redis.call('XADD', KEYS[1], '*', 'i', inc, 'p', '0-0', 'k', 'open', 's', '[]')
  redis.call('SADD', KEYS[2], ARGV[4])
end
"""
APPEND: Final = f"""{_ORDER}{_OPEN}
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], '*', 'i', inc, 'p', prev, unpack(ARGV, 7))
redis.call('PUBLISH', ARGV[6], cjson.encode({{id, 'i', inc, 'p', prev, unpack(ARGV, 7)}}))
return {{inc, id}}
"""
# A sealed entry is made for one place: it is appended there, or the script returns the next place.
APPEND_SEALED: Final = f"""{_ORDER}{_OPEN}
if ARGV[7] == inc and ARGV[8] == prev then
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], ARGV[9], 'i', inc, 'p', prev, 'e', ARGV[10])
  redis.call('PUBLISH', ARGV[6], cjson.encode({{ARGV[9], 'i', inc, 'p', prev, 'e', ARGV[10]}}))
  return {{inc, ARGV[9]}}
end
local now = redis.call('TIME')
local ms, seq = part(prev)
local time = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
if less_number(ms, time) then return {{inc, prev, time .. '-0'}} end
return {{inc, prev, ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)}}
"""
MOST_TRIES: Final = 32  # at a place that others take meanwhile
REOPEN: Final = f"{_ORDER}{_OPEN} return {{inc, prev}}"
# A log that another run of the server had may have lost what it had acknowledged: it begins anew. See `log_runs`.
VISIT: Final = f"""{_ORDER}{THIS_RUN}
if run == '' then return 0 end
local had = redis.call('GET', KEYS[3])
if had == run then return 1 end
local last = top(KEYS[1])
if had or last or ARGV[5] == '1' then  -- the last: what is stored elsewhere may be older than this server
  local here, seen = last and string.sub(field(last, 'i'), 1, 10) or '', string.sub(ARGV[1], 1, 10)
  local count = math.max(tonumber(here, 16) or 0, tonumber(seen, 16))
  if not last then count = math.max(count, tonumber(redis.call('TIME')[1])) end  -- nobody counts so far by ones
  local inc = string.format('%010x', count + 1) .. string.sub(ARGV[3], 11)
  redis.call('XADD', KEYS[1], '*', 'i', inc, 'p', '0-0', 'k', 'open', 's', '[]')
  redis.call('SADD', KEYS[2], ARGV[4])
end
redis.call('SET', KEYS[3], run)
return (had or last) and 2 or 1
"""
# What was pushed is taken only if it follows what is here; what was read is all that there is after what was here.
COPY: Final = f"""{_ORDER}
redis.call('SADD', KEYS[2], ARGV[1])
local pushed = ARGV[3] == '1'
local taken, at = 0, 4
while at <= #ARGV do
  local id, count, inc = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
  local last = top(KEYS[1])
  local known = last and field(last, 'i')
  local next_ = not last or less(last[1], id)
  if last and known < inc and not next_ then
    redis.call('DEL', KEYS[1])
    next_ = true
  end
  if pushed and not (last and known == inc and last[1] == ARGV[at + 6]) then break end
  if not last or known < inc or (known == inc and next_) then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], id, unpack(ARGV, at + 3, at + 2 + count))
    taken = taken + 1
  end
  at = at + 3 + count
end
return taken
"""


TELL: Final = """
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)) .. ' ' .. ARGV[2])
if ARGV[3] ~= '0' then redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'w', ARGV[1], 'v', ARGV[2]) end
return 1
"""


MEMBERS: Final = "return {redis.call('TIME'), redis.call('HGETALL', KEYS[1])}"


class ServerRun(Enum):
    """Relation of the server to the log that it holds."""

    UNKNOWN = 0  # it does not say which run it is
    SAME = 1  # the run that had it, or there was none
    ANOTHER = 2  # another run: the log has begun anew


class LogMember(NamedTuple):
    """A worker that consumes the logs."""

    name: str  # pop/process
    vector: Vector  # what it has applied
    silent: float  # seconds since it last said so

    @property
    def pop(self) -> str:
        """The POP that it is of."""
        return self.name.rpartition("/")[0]


def stream_key(region: str) -> bytes:
    """Key of the log of `region`."""
    return b"ec:{log}:region:" + region.encode()


class LogStore:
    """Logs in one Valkey. Every method raises one of `valkey.Failure`."""

    def __init__(self, link: Link, retention: int, codec: Codec | None = None) -> None:
        self.link = link
        self._codec = codec  # by which entries are sealed; None: they are not
        self._appending = asyncio.Lock()
        self._retention = b"%d" % retention  # entries

    # --- appending

    async def append(self, region: str, draft: Draft, known: int, ask: Ask | None = None) -> int:
        """The mark of `draft` once it is in the log of `region`, of which the caller has seen `known`, a mark.

        `ask` sends a command and has its reply.
        """
        ask = ask or self._ask
        if self._codec is None:
            return self.mark_of_reply(await ask(self.append_command(region, draft, known)))
        async with self._appending:
            return await self._append_sealed(self._codec, region, draft, known, ask)

    async def _append_sealed(self, codec: Codec, region: str, draft: Draft, known: int, ask: Ask) -> int:
        stream = stream_key(region)
        shared = (*_opening(known), region, self._retention, PUSHES + region.encode())
        place, content = (b"", b"", b""), b""
        for _ in range(MOST_TRIES):
            reply = await ask(("EVAL", APPEND_SEALED, "2", stream, REGIONS, *shared, *place, content))
            if not isinstance(reply, list) or len(reply) != 3:
                return self.mark_of_reply(reply)
            incarnation, previous, id_ = place = tuple(reply)
            content = log_seal.seal(codec, LogPlace(stream, incarnation, previous, id_), draft)
        raise ResponseError("others append all the time")

    async def _ask(self, command: Command) -> Any:
        return (await self.link.run([command]))[0]

    def unseal(self, region: str, id_: bytes, fields: dict[bytes, bytes]) -> tuple[StreamFields, bool]:
        """The fields of an entry, and whether they are to be believed: all of a log that is not sealed are."""
        if self._codec is None:
            return fields, True
        found = log_seal.unseal(self._codec, stream_key(region), id_, fields)
        return (log_seal.place_fields(fields), False) if found is None else (found, True)

    def is_opening(self, fields: StreamFields) -> bool:
        """Whether these are of the first entry of an incarnation, which the server writes."""
        return fields.get(b"k") == b"open"

    def append_command(self, region: str, draft: Draft, known: int) -> Command:
        """Command that appends `draft` to the log of `region`, of which the caller has seen `known`, a mark.

        Its reply is read by `appended`.
        """
        arguments = (*_opening(known), region, self._retention, PUSHES + region.encode(), *draft.fields())
        return ("EVAL", APPEND, "2", stream_key(region), REGIONS, *arguments)

    @staticmethod
    def mark_of_reply(reply: Any) -> int:
        """The mark of the appended entry; raises the server's error."""
        if isinstance(reply, Exception):
            raise reply
        try:
            incarnation, id_ = reply
            return decode_place(id_, {b"i": incarnation, b"p": b"0-0"})[0]
        except (ValueError, TypeError):
            raise ResponseError("the log answered with something else than a place") from None

    async def reopen(self, region: str, known: int) -> None:
        """Begin the log of `region` anew if it holds less than `known`, a mark that was applied of it."""
        command = ("EVAL", REOPEN, "2", stream_key(region), REGIONS, *_opening(known), region)
        reply = (await self.link.run([command]))[0]
        if isinstance(reply, Exception):
            raise reply

    async def check_server_run(self, region: str, known: int, *, outlived: bool = False) -> ServerRun:
        """Begin the log of `region` anew if another run of the server had it; `known` is a mark applied of it.

        Also a log that has no entry, if responses may have `outlived` a server, as in a machine's store.
        """
        command = ("EVAL", VISIT, "3", stream_key(region), REGIONS, RUN, *_opening(known), region, str(int(outlived)))
        reply = _checked(await self.link.run([command]))[0]
        if reply not in (0, 1, 2):
            raise ResponseError("the log answered with something else than what it is")
        return ServerRun(reply)

    # --- reading

    async def regions(self) -> list[str]:
        """Regions whose logs are here."""
        members = _checked(await self.link.run([("SMEMBERS", REGIONS)]))[0]
        return sorted(name for member in members if version_vector.is_region(name := member.decode("ascii", "replace")))

    async def last_marks(self, regions: Sequence[str]) -> dict[str, int]:
        """The mark of the last entry of each of these logs; 0 of one that is empty or not there."""
        commands = [("XREVRANGE", stream_key(region), "+", "-", "COUNT", "1") for region in regions]
        found = {}
        for region, rows in zip(regions, _checked(await self.link.run(commands)), strict=True):
            found[region] = _mark_of(rows[0]) if rows else 0
        return found

    async def read(self, after: Mapping[str, bytes], wait: float, most: int) -> dict[str, list[Row]]:
        """Up to `most` entries of each log after the ID given for it; waits up to `wait` seconds for the first."""
        streams = [stream_key(region) for region in after]
        command: Command = ("XREAD", "COUNT", most, "BLOCK", max(1, int(wait * 1000)), "STREAMS", *streams)
        reply = await self.link.execute((*command, *after.values()))
        names = {stream_key(region): region for region in after}
        return {names[stream]: rows for stream, rows in _streams(reply) if stream in names}

    async def recent(self, region: str, most: int) -> list[Row]:
        """The last `most` entries of a log, the newest first."""
        rows: list[Row] = _checked(
            await self.link.run([("XREVRANGE", stream_key(region), "+", "-", "COUNT", str(most))])
        )[0]
        return [(id_, dict(self.unseal(region, id_, fields)[0])) for id_, fields in rows]

    async def entry(self, region: str, mark: int) -> Row | None:
        """The entry with this mark, if it is still kept."""
        id_ = encode_id(mark)
        rows = _checked(await self.link.run([("XRANGE", stream_key(region), id_, id_)]))[0]
        if not rows or _mark_of(rows[0]) != mark:
            return None
        return rows[0][0], dict(self.unseal(region, *rows[0])[0])

    # --- copying

    async def copy(self, region: str, rows: Iterable[Row], *, pushed: bool = False) -> int:
        """Append entries of another region's log with their own IDs, as far as they are not here; how many were new.

        Entries that were `pushed` have not been read in their order: they are taken only where they fit.
        """
        arguments: list[bytes] = []
        for id_, fields in rows:
            listed = flattened(fields)
            arguments += [id_, b"%d" % len(listed), fields.get(b"i", b""), *listed]
        command = ("EVAL", COPY, "2", stream_key(region), REGIONS, region, self._retention, b"%d" % pushed, *arguments)
        taken: int = _checked(await self.link.run([command]))[0]
        return taken

    async def subscribe(self) -> AsyncIterator[tuple[str, Row]]:
        """Entries of this Valkey's own region, pushed as they are appended; some may be missed."""
        async with self.link.subscription() as subscription:
            await subscription.psubscribe(PUSHES + b"*")
            async for message in subscription.listen():
                try:
                    id_, *parts = [part.encode() for part in orjson.loads(message["data"])]
                    region = message["channel"].removeprefix(PUSHES).decode("ascii")
                    row = (id_, dict(zip(parts[::2], parts[1::2], strict=True)))
                except (ValueError, TypeError, AttributeError):
                    continue  # it will be read
                yield region, row

    async def record_contact(self, regions: Iterable[str]) -> None:
        """Record contact with these regions' logs."""
        commands: list[Command] = [("HINCRBY", BEATS, region, "1") for region in regions]
        if commands:
            _checked(await self.link.run(commands))

    async def contacts(self) -> dict[str, bytes]:
        """Contact counters by region."""
        found = _checked(await self.link.run([("HGETALL", BEATS)]))[0]
        return {name.decode("ascii", "replace"): value for name, value in found.items()}

    # --- progress of members

    async def report_progress(self, member: str, vector: bytes, *, changed: bool) -> None:
        """Heartbeat of `member`, which has applied `vector`; `changed` if that is new."""
        acks = b"%d" % (MOST_ACKS if changed else 0)
        _checked(await self.link.run([("EVAL", TELL, "2", POPS, ACKS, member, vector, acks)]))

    async def leave(self, *members: str) -> None:
        """Remove `members`."""
        _checked(await self.link.run([("HDEL", POPS, *members)]))

    async def members(self) -> list[LogMember]:
        """Current members, without those that have been silent for long."""
        (seconds, _), found = _checked(await self.link.run([("EVAL", MEMBERS, "1", POPS)]))[0]
        told = zip(found[::2], found[1::2], strict=True)
        return [member for name, value in told if (member := _member(name, value, int(seconds))) is not None]

    async def acks(self, since: int) -> list[tuple[int, str, Vector]]:
        """Acknowledgements with times in milliseconds of the server's clock, from `since` on; oldest first."""
        start = b"%d" % max(0, since)
        rows = _checked(await self.link.run([("XRANGE", ACKS, start, "+", "COUNT", str(MOST_ACKS))]))[0]
        return [ack for row in rows if (ack := _ack(*row)) is not None]

    async def claim_overdue(self, begun: int) -> bool:
        """Whether the caller is the first, in a while, to end the write with this mark."""
        command = ("SET", b"ec:{log}:overdue:" + encode_id(begun), "1", "NX", "PX", "10000")
        return bool(_checked(await self.link.run([command]))[0])


def _member(name: bytes, value: bytes, now: int) -> LogMember | None:
    when, _, vector = value.partition(b" ")
    silent = now - int(when) / 1000 if when.isdigit() else FORGOTTEN
    try:
        known = Vector.decode(vector)
    except ValueError:
        known = NOTHING
    return LogMember(name.decode("utf-8", "replace"), known, max(0.0, silent)) if silent < FORGOTTEN else None


def _ack(id_: bytes, fields: dict[bytes, bytes]) -> tuple[int, str, Vector] | None:
    try:
        when = int(id_.partition(b"-")[0])
        return when, fields[b"w"].decode("utf-8", "replace"), Vector.decode(fields[b"v"])
    except (KeyError, ValueError):
        return None


def _opening(known: int) -> tuple[bytes, bytes, bytes]:
    """What a script needs to see whether a log is what it was: incarnation and ID last seen, and one to begin with."""
    incarnation = version_vector.incarnation_of(known)
    new = version_vector.incarnation(version_vector.count_of(incarnation) + 1, int.from_bytes(urandom(4)))
    return encode_incarnation(incarnation), encode_id(known), encode_incarnation(new)


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _mark_of(row: Row) -> int:
    try:
        return decode_place(*row)[0]
    except ValueError:
        return 0


def _streams(reply: Any) -> list[tuple[bytes, list[Row]]]:
    return [(name, rows) for name, rows in reply] if reply else []
