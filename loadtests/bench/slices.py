"""Origin bytes of a large object in slices: viewers who seek, aria2c, HLS by ranges; beside nginx with `slice 1m`.

    python -m loadtests slices [--megabytes 200] [--only NAME ...]

One file on an nginx that is the origin; in front of it edgecache with slices of 1 MiB, edgecache without, and nginx's
proxy_cache with `slice 1m`, each with room for the file. Two more rows of edgecache have a memory of a quarter of the
file; the second one has the store of the machine behind it. The last row is `auto`, and has no bounds. Every byte
that a client gets is compared with the file. Where Chromium and ffmpeg are installed, a browser seeks in a video of
120 MB, too. Exit code: 0 if each bound holds, 1 if not, 2 if nothing could be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from loadtests.lab import processes
from loadtests.lab.processes import Missing, Process, StartError, free_port

MIB: Final = 1024 * 1024
CHAPTERS: Final = 5  # places that each viewer seeks to
SEEN: Final = 8 * MIB  # bytes of each that are played
LATER: Final = 0.02  # of the first viewer's origin bytes: what a later one may cost
BROWSER: Final = 1.1  # times nginx's bytes for a browser, in all: it reads ahead as it likes, each time another stretch
RECEIVED: Final = 128 * 1024  # bytes of the receive buffer of each viewer
VISIT: Final = 60.0  # seconds that one visit of a browser may take
LINGER: Final = 0.1  # seconds for which a player has enough, and reads no further, before it seeks
SETTLE: Final = 0.5  # seconds until what was under way when a client left has come
OVERHEAD: Final = 48 * MIB  # resident beside the memory for objects, and the process at rest

ORIGIN: Final = """
daemon off; user root; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log emerg;
events {{ worker_connections 1024; }}
http {{
  log_format bytes "$body_bytes_sent $request_uri"; access_log {folder}/bytes.log bytes; sendfile on; {temporary}
  server {{ listen 127.0.0.1:{port}; root {folder}/www; add_header Cache-Control "max-age=3600"; }}
}}
"""
SLICED: Final = """
daemon off; user root; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log emerg;
events {{ worker_connections 1024; }}
http {{
  access_log off; {temporary}
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=films:8m max_size=4g inactive=2h use_temp_path=off;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      slice 1m; proxy_cache films; proxy_cache_key $uri$is_args$args$slice_range; proxy_cache_lock on;
      proxy_set_header Range $slice_range; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache_valid 200 206 1h; proxy_pass http://127.0.0.1:{origin};
    }}
  }}
}}
"""


PAGE: Final = """<video muted preload="auto" src="/video.mp4"></video><script>
const video = document.querySelector("video"), visit = location.hash.slice(1);
const once = name => new Promise(done => video.addEventListener(name, done, {once: true}));
video.addEventListener("error", () => fetch("/failed?" + visit));
(async () => {
  if (!video.duration) await once("loadedmetadata");
  for (const place of [0.8, 0.2, 0.5, 0.95, 0.05]) {
    const seeked = once("seeked");
    video.currentTime = place * video.duration;
    await seeked;
    await video.play();
    await new Promise(done => setTimeout(done, 400));
    video.pause();
  }
  await fetch("/seen?" + visit, {cache: "no-store"});
})();
</script>"""


class Wrong(Exception):
    """A client got bytes that are not the file's."""


@dataclass(frozen=True)
class Film:
    """The file, and what its origin has sent."""

    content: bytes
    log: Path

    def sent(self) -> int:
        """Body bytes that the origin has sent so far."""
        return sum(int(line.split()[0]) for line in self.log.read_text().splitlines())

    def asked(self, target: str) -> bool:
        """Whether the origin was asked for `target`."""
        return any(line.endswith(f" {target}") for line in self.log.read_text().splitlines())


@dataclass
class Row:
    """What one server cost the origin, in bytes, by scenario and turn."""

    name: str
    server: Process
    costs: dict[str, list[int]] = field(default_factory=dict)
    resident: int = 0  # bytes, the most that was seen
    at_rest: int = 0


async def watched(port: int, film: Film, first: int, wanted: int | None, last: int | None = None) -> int:
    """Read `wanted` bytes of a range, or all of it, and leave; each is compared."""
    reader, writer = await asyncio.open_connection(sock=await _connected(port))
    try:
        end = "" if last is None else str(last)
        writer.write(b"GET /film.mp4 HTTP/1.1\r\nHost: films\r\nRange: bytes=%d-%b\r\n\r\n" % (first, end.encode()))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 206 " not in head.partition(b"\r\n")[0]:
            raise Wrong(head.partition(b"\r\n")[0].decode())
        stop = (len(film.content) if last is None else last + 1) if wanted is None else first + wanted
        at = first
        while at < min(stop, len(film.content)):
            piece = await reader.read(min(256 * 1024, stop - at))
            if not piece or film.content[at : at + len(piece)] != piece:
                raise Wrong(f"byte {at}")
            at += len(piece)
        if wanted is not None:
            await asyncio.sleep(LINGER)
        return at - first
    finally:
        writer.close()


async def _connected(port: int) -> socket.socket:
    """A connection that holds as much unread as one over a common line does: on loopback it would be megabytes."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def view(port: int, film: Film, seed: int) -> None:
    """One viewer: the beginning, the index at the end, then the chapters in an order of its own."""
    size = len(film.content)
    await watched(port, film, 0, 2 * MIB)
    await watched(port, film, size - MIB // 2, None)
    places = [size * (chapter + 1) // (CHAPTERS + 2) for chapter in range(CHAPTERS)]
    for place in random.Random(seed).sample(places, CHAPTERS):
        await watched(port, film, place, SEEN)


def four_viewers(port: int, film: Film) -> Iterator[None]:
    """Four, one after the other."""
    for seed in range(4):
        yield asyncio.run(view(port, film, seed))


def viewers_at_once(port: int, film: Film) -> Iterator[None]:
    """Four at the same time, and one after them."""

    async def crowd() -> None:
        await asyncio.gather(*(view(port, film, seed) for seed in range(4)))

    yield asyncio.run(crowd())
    yield asyncio.run(view(port, film, 9))


def segments(port: int, film: Film) -> Iterator[None]:
    """Three players of HLS with EXT-X-BYTERANGE: the file in order, in ranges of 0.4 to 3 MB."""
    chance = random.Random(7)
    cuts = [0]
    while cuts[-1] < len(film.content):
        cuts.append(min(len(film.content), cuts[-1] + chance.randrange(400_000, 3_000_000)))

    async def play() -> None:
        for first, end in pairwise(cuts):
            await watched(port, film, first, None, end - 1)

    for _ in range(3):
        yield asyncio.run(play())


def downloads(port: int, film: Film) -> Iterator[None]:
    """aria2c with eight connections, three times; eight clients of our own where it is not installed."""
    for _ in range(3):
        yield _aria(port, film) if shutil.which("aria2c") else asyncio.run(_eight(port, film))


def _aria(port: int, film: Film) -> None:
    with tempfile.TemporaryDirectory(prefix="edgecache-slices-") as folder:
        command = ["aria2c", "-q", "-x8", "-s8", "-k1M", "--file-allocation=none", "--no-conf", "-d", folder]
        subprocess.run([*command, f"http://127.0.0.1:{port}/film.mp4"], check=True, timeout=120)
        if (Path(folder) / "film.mp4").read_bytes() != film.content:
            raise Wrong("the file that aria2c has put together")


async def _eight(port: int, film: Film) -> None:
    share = -(-len(film.content) // 8)
    spans = [(at, min(at + share, len(film.content)) - 1) for at in range(0, len(film.content), share)]
    await asyncio.gather(*(watched(port, film, first, None, last) for first, last in spans))


def browsed(port: int, film: Film) -> Iterator[None]:
    """Three visits of Chromium, each with an empty cache: it seeks in a video, and plays a little of each place."""
    for turn in range(3):
        yield _browse(port, film, f"{port}-{turn}")


def _browse(port: int, film: Film, visit: str) -> None:
    with tempfile.TemporaryDirectory(prefix="edgecache-slices-", ignore_cleanup_errors=True) as profile:
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--autoplay-policy=no-user-gesture-required", f"http://127.0.0.1:{port}/seek.html#{visit}"]
        browser = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            until = time.monotonic() + VISIT
            while not film.asked(f"/seen?{visit}"):
                if time.monotonic() > until or film.asked(f"/failed?{visit}"):
                    raise Wrong("Chromium could not play the video")
                time.sleep(0.1)
        finally:
            processes.end(browser)


def _make_video(folder: Path) -> None:
    noise = "testsrc2=size=640x360:rate=24,noise=alls=80:allf=t"
    command = ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", noise, "-t", "120", "-c:v", "libx264"]
    command += ["-preset", "ultrafast", "-b:v", "8M", "-maxrate", "8M", "-bufsize", "8M", "-g", "48"]
    command += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", str(folder / "video.mp4")]
    subprocess.run(command, check=True, timeout=180)
    (folder / "seek.html").write_text(PAGE)


SCENARIOS: Final[dict[str, Callable[[int, Film], Iterator[None]]]] = {
    "viewers": four_viewers,
    "at-once": viewers_at_once,
    "aria2c": downloads,
    "hls": segments,
    "chromium": browsed,
}


def measure(row: Row, names: Sequence[str], film: Film, folder: Path) -> None:
    """Play the scenarios, each on a server that has nothing stored."""
    for name in names:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        with row.server as server:
            row.at_rest = max(row.at_rest, server.resident())
            costs = row.costs[name] = []
            before = film.sent()
            for _ in SCENARIOS[name](server.port, film):
                time.sleep(SETTLE)
                costs.append(film.sent() - before)
                before += costs[-1]
                row.resident = max(row.resident, server.resident())


def servers(folder: Path, origin: int, size: int) -> list[Row]:
    """The servers that are compared, with enough memory for the file but for two of them."""

    def pop(name: str, **settings: object) -> Row:
        more = {"origin": f"http://127.0.0.1:{origin}", "workers": 1, "memory": f"{4 * size // MIB}MiB", **settings}
        return Row(name, processes.pop(name, folder / name, **more).process)

    quarter = f"{size // MIB // 4}MiB"
    return [
        pop("slices", slice_size="1MiB"),
        Row("nginx-slice-1m", _nginx(SLICED, "nginx-slice-1m", folder / "nginx", origin)),
        pop("whole", slice_size="0"),
        pop("slices-small", slice_size="1MiB", memory=quarter),
        pop("slices-store", slice_size="1MiB", memory=f"{9 * size // MIB // 4}MiB", store_size=f"{2 * size // MIB}MiB"),
        pop("auto", slice_size="auto"),
    ]


def _nginx(template: str, name: str, folder: Path, origin: int = 0) -> Process:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise Missing("nginx is not installed, which is the origin")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    port = free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(template.format(folder=folder, port=port, origin=origin, temporary=temporary))
    return Process(name, [program, "-p", str(folder), "-c", str(config), "-e", "stderr"], port, "", folder)


@contextmanager
def film_of(folder: Path, size: int, *, video: bool = False) -> Iterator[tuple[Film, int]]:
    """The file on its origin, and the origin's port; with a real video beside it, if wanted."""
    content = random.Random(1).randbytes(size)
    (folder / "www").mkdir(parents=True)
    (folder / "www" / "film.mp4").write_bytes(content)
    if video:
        _make_video(folder / "www")
    with _nginx(ORIGIN, "origin", folder) as origin:
        yield Film(content, folder / "bytes.log"), origin.port


def problems(rows: Sequence[Row], size: int) -> Iterator[str]:
    """Bounds that do not hold."""
    ours, other, _, small, *_ = rows
    for name, costs in ours.costs.items():
        browser = name == "chromium"
        if sum(costs) > (BROWSER if browser else 1.0) * sum(other.costs[name]):
            yield f"{name}: {sum(costs):,} bytes of the origin, {sum(other.costs[name]):,} by nginx"
        if max(costs[1:]) > LATER * costs[0] and not browser:
            yield f"{name}: a later turn cost {max(costs[1:]) / costs[0]:.1%} of the first"
    bound = small.at_rest + size // 4 + OVERHEAD
    if small.resident > bound:
        yield f"memory: {small.resident / MIB:.0f} MiB resident, the bound is {bound / MIB:.0f} MiB"


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Origin bytes by scenario and turn, in MB, and what was resident."""
    lines = ["| server | " + " | ".join(names) + " | resident |", "|---" * (len(names) + 2) + "|"]
    for row in rows:
        cells = [", ".join(f"{cost / 1e6:.1f}" for cost in row.costs[name]) for name in names]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {row.at_rest / MIB:.0f} → {row.resident / MIB:.0f} MiB |")
    return "\n".join(lines)


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    options = parser.parse_args()
    size, names = options.megabytes * 1_000_000, options.only
    if "chromium" in names and not (shutil.which("chromium") and shutil.which("ffmpeg")):
        print("slices: without chromium, which needs Chromium and ffmpeg", file=sys.stderr)
        names.remove("chromium")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="edgecache-slices-") as name,
            film_of(Path(name), size, video="chromium" in names) as (film, port),
        ):
            Path(name).chmod(0o755)
            rows = servers(Path(name), port, size)
            for row in rows:
                measure(row, names, film, row.server.folder)
    except (StartError, Wrong) as error:
        print(f"slices: {error}", file=sys.stderr)
        return 1 if isinstance(error, Wrong) else 2
    print(f"MB of the origin's, by turn; a file of {options.megabytes} MB\n\n{table(rows, names)}\n")
    found = list(problems(rows, size))
    print("\n".join(found) or "each bound holds")
    return 1 if found else 0
