"""Run wrk: it cycles through requests that were built beforehand, and reports as JSON what it saw.

Each server is asked on from where the last run ended: what was asked lately may be in a small memory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from loadtests.bench.load import Load

SOCKET_ERRORS = ("connect", "read", "write", "timeout")
SCRIPT = """\
local requests, count, last = {}, 0, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  for text in file:read("*a"):gmatch("%Z+") do
    count = count + 1
    requests[count] = text
  end
  file:close()
  last = tonumber(args[2]) % count
end

function request()
  last = last % count + 1
  return requests[last]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\\nBENCH {"requests":%d,"us":%d,"bytes":%.0f,"p50":%.1f,"p99":%.1f,' ..
    '"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
"""


def available() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


class Wrk:
    """wrk with one set of requests, written to files once and used for every server and round."""

    def __init__(self, directory: Path, requests: Sequence[bytes], connections: int, scheme: str = "http") -> None:
        self._scheme = scheme
        self._script = directory / "wrk.lua"
        self._requests = directory / "wrk.requests"
        self._connections = connections
        self._next: dict[int, int] = {}  # the request that comes next, by port
        self._script.write_text(SCRIPT)
        self._requests.write_bytes(b"\0".join(requests))

    def run(self, port: int, seconds: int) -> Load:
        """Load 127.0.0.1:`port` for `seconds`; one thread, keep-alive."""
        command = ["wrk", "-t1", f"-c{self._connections}", f"-d{seconds}s", "--timeout", "5s"]
        command += [
            "-s",
            str(self._script),
            f"{self._scheme}://127.0.0.1:{port}/",
            "--",
            str(self._requests),
            str(self._next.get(port, 0)),
        ]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
        except subprocess.TimeoutExpired:
            return Load(0, seconds, 0, 0, 0, [f"wrk did not end within {seconds + 30} s"])
        load = _parse(ran.stdout, ran.stderr)
        self._next[port] = self._next.get(port, 0) + load.requests + self._connections
        return load


def _parse(output: str, errors: str) -> Load:
    line = next((text for text in output.splitlines() if text.startswith("BENCH ")), None)
    if line is None:
        return Load(0, 0, 0, 0, 0, [f"wrk failed: {(errors or output).strip()[-200:]}"])
    seen = json.loads(line.removeprefix("BENCH "))
    problems = [f"{seen[kind]} {kind} errors" for kind in SOCKET_ERRORS if seen[kind]]
    if seen["status"]:
        problems.append(f"{seen['status']} answers were neither 2xx nor 3xx")
    if not seen["requests"]:
        problems.append("wrk completed no request")
    return Load(
        requests=seen["requests"],
        seconds=seen["us"] / 1e6,
        received=int(seen["bytes"]),
        p50_ms=seen["p50"] / 1000,
        p99_ms=seen["p99"] / 1000,
        problems=problems,
    )
