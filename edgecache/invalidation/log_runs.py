"""Runs of the Valkey server: detection of logs that were rolled back to a snapshot.

    ec:{log}:run    the run (`run_id`) of the server that has the region's log

A server that ends without having saved comes back with an older snapshot: records and log are equally old, and nothing
in them shows what was purged since. So a run that finds a log of another run begins a new incarnation: everything older
is validated once. The embedded server's directory proves more: a mark beside the data, written once the server has
ended as it should, says how far the log had come; a server that comes back with no less goes on with it. The mark is
taken away before the server is used, so that it says nothing of any later end.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Final

from redis import Redis, RedisError

RUN: Final = b"ec:{log}:run"
MARK: Final = "edgecache.log-mark"
WITHIN: Final = 2.0  # seconds that the server has to answer
THIS_RUN: Final = """
local said = redis.pcall('INFO', 'server')
local run = type(said) == 'string' and string.match(said, 'run_id:(%w+)') or ''
"""
_STATE: Final = f"""{THIS_RUN}
local tops = {{}}
for _, region in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  local last = redis.call('XREVRANGE', KEYS[3] .. region, '+', '-', 'COUNT', 1)[1]
  table.insert(tops, region)
  table.insert(tops, last and last[1] or '0-0')
end
return {{run, redis.call('GET', KEYS[1]) or '', tops}}
"""
_ADOPT: Final = f"{THIS_RUN} return redis.call('SET', KEYS[1], run)"
_KEYS: Final = (RUN, b"ec:{log}:regions", b"ec:{log}:region:")
State = tuple[str, dict[str, str]]  # the run that had the log, and the last ID of each region's


def state_of(socket: Path) -> State | None:
    """How far the logs of the server at `socket` have come; None if this run has not taken them over, or is silent."""
    with contextlib.suppress(RedisError, OSError, ValueError), contextlib.closing(_client(socket)) as client:
        run, stored, tops = _read(client)
        return (run, tops) if run and run == stored else None
    return None


def adopt(socket: Path, state: State) -> bool:
    """Let the server at `socket` go on with its logs, if it holds all of `state`; whether it does."""
    with contextlib.suppress(RedisError, OSError, ValueError), contextlib.closing(_client(socket)) as client:
        run, stored, tops = _read(client)
        whole = all(_id(tops.get(region, "0-0")) >= _id(last) for region, last in state[1].items())
        if run and stored == state[0] and whole:
            client.eval(_ADOPT, 1, RUN)
            return True
    return False


def write_mark(directory: Path, state: State) -> None:
    """Keep `state` in `directory`, for good."""
    with contextlib.suppress(OSError):  # without it, the next run begins anew
        temporary = directory / (MARK + ".new")
        with temporary.open("w") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(directory / MARK)
        _sync(directory)


def take_mark(directory: Path) -> State | None:
    """What was kept in `directory`, which is there no more; None if nothing was. Raises OSError if it stays."""
    path = directory / MARK
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    path.unlink()
    _sync(directory)
    try:
        run, tops = json.loads(text)
        return str(run), {str(region): str(last) for region, last in tops.items()}
    except (ValueError, TypeError, AttributeError):
        return None


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _client(socket: Path) -> Redis:
    return Redis(unix_socket_path=str(socket), socket_timeout=WITHIN)


def _read(client: Redis) -> tuple[str, str, dict[str, str]]:
    reply: Any = client.eval(_STATE, len(_KEYS), *_KEYS)
    run, stored, tops = reply
    words = [word.decode() for word in tops]
    return run.decode(), stored.decode(), dict(zip(words[::2], words[1::2], strict=True))


def _id(text: str) -> tuple[int, int]:
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence)
