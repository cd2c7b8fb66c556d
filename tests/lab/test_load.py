"""The parts of the load tests that decide: what is asked, what counts as right, and what the table says."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from loadtests.lab import objects
from loadtests.lab.chain import Plan, running_chain
from loadtests.lab.origin import application
from loadtests.locust import report, tiers, verify
from loadtests.locust.floors import Floors
from loadtests.locust.tally import Histogram, Tally
from loadtests.locust.traces import Zipf, from_trace, read_trace

ROOT = Path(__file__).parents[2]
TARGET = objects.target("news", "1", size=500, ttl=60)


# --- what is asked


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_trace_is_read_whether_it_is_gzipped_or_not(tmp_path: Path, pack: type[bytes]) -> None:
    """Lines of id,size become requests in their order, however the file is called; other lines are left out."""
    path = tmp_path / "trace"
    path.write_bytes(pack(b"a,10\nb,20\n\nnot,a,request\na,10\n"))

    assert read_trace(path) == [("a", 10), ("b", 20), ("a", 10)]
    assert read_trace(path, 2) == [("a", 10), ("b", 20)]


@pytest.mark.parametrize(
    "content",
    [b"", b"id\n", b"a,ten\n", gzip.compress(b"a,1\n" * 99)[:-9]],
    ids=["empty", "no size", "a word for a size", "cut short"],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, without sizes, with words for sizes, cut short."""
    path = tmp_path / "trace"
    path.write_bytes(content)

    with pytest.raises((ValueError, EOFError)):
        read_trace(path)


def test_load_generators_share_a_trace() -> None:
    """Each request is asked by one of them, in order, and from the beginning again after the end."""
    requests = [(str(number), 1) for number in range(7)]
    shares = [list(itertools.islice(from_trace(requests, share, 2), length)) for share, length in ((0, 4), (1, 3))]

    assert sorted(shares[0] + shares[1]) == requests
    assert [name for name, _ in shares[0]] == ["0", "2", "4", "6"]
    assert list(itertools.islice(from_trace(requests, 0, 2), 6))[4:] == shares[0][:2]


def test_zipf_asks_by_rank_and_the_same_again() -> None:
    """The first of a thousand objects is asked about twice as often as the second; sizes stay; a seed repeats."""
    drawn = list(itertools.islice(Zipf(1000, 1.0, seed=7), 20_000))
    counts = Counter(name for name, _ in drawn)

    assert drawn == list(itertools.islice(Zipf(1000, 1.0, seed=7), 20_000))
    assert 1.7 < counts["0"] / counts["1"] < 2.3
    assert len(set(drawn)) == len(counts) > 500
    assert min(size for _, size in drawn) >= 1


# --- the objects, and whether an answer is one


def test_a_body_is_as_long_as_asked_and_its_own() -> None:
    """Every version, variant and target has another body, of the size that was asked for."""
    bodies = {
        objects.body(target, version, variant, 500)
        for target in (TARGET, objects.target("news", "2", size=500))
        for version in (1, 2)
        for variant in objects.LANGUAGES
    }

    assert len(bodies) == 12
    assert {len(body) for body in bodies} == {500}
    assert objects.named(objects.body(TARGET, 3, "de", 1)) == objects.Named(TARGET, 3, "de")


@pytest.mark.parametrize("target", ["/x", "/o/tag", "/o/t/n?size=-1", "/o/t/n?size=99999999999", "/o/t/n?delay=99999"])
def test_the_origin_refuses_what_is_no_object(target: str) -> None:
    """And what would cost it too much."""
    with pytest.raises(ValueError, match=r"not|is"):
        objects.orders_of(target)


def heads(content: bytes, etag: str = '"2-any"') -> dict[str, str]:
    """The fields of a right answer."""
    return {"content-length": str(len(content)), "etag": etag}


def test_a_right_answer_is_right() -> None:
    """Its version is read out of it."""
    content = objects.body(TARGET, 2, "any", 500)

    assert verify.check(TARGET, "de", 200, heads(content), content) == verify.Seen(2)


@pytest.mark.parametrize(
    ("problem", "status", "content", "etag"),
    [
        ("status 502", 502, b"", '"2-any"'),
        ("no answer", 0, None, '"2-any"'),
        ("no object", 200, b"<html>", '"2-any"'),
        ("another object", 200, objects.body(TARGET + "0", 2, "any", 500), '"2-any"'),
        ("variant de instead of any", 200, objects.body(TARGET, 2, "de", 500), '"2-de"'),
        ("SHA-256 differs", 200, objects.body(TARGET, 2, "any", 500)[:-1] + b"?", '"2-any"'),
        ("SHA-256 differs", 200, objects.body(TARGET, 2, "any", 499), '"2-any"'),
        ("the head is of another version", 200, objects.body(TARGET, 2, "any", 500), '"1-any"'),
    ],
)
def test_a_wrong_answer_is_named(problem: str, status: int, content: bytes | None, etag: str) -> None:
    """Whatever is not the object that was asked for."""
    seen = verify.check(TARGET, "en", status, heads(content or b"", etag), content)

    assert seen.problem.startswith(problem)


def test_an_answer_that_is_cut_short_is_named() -> None:
    """Fewer bytes than its head announced."""
    content = objects.body(TARGET, 2, "any", 500)

    assert verify.check(TARGET, "en", 200, heads(content), content[:400]).problem == "cut short"


@pytest.mark.parametrize(("age", "expired"), [("", False), ("60", False), ("61", True), ("soon", True)])
def test_age_beyond_freshness_is_old(age: str, expired: bool) -> None:
    """Nothing of this origin may be used stale."""
    assert verify.is_expired(TARGET, {"age": age} if age else {}) is expired


async def test_versions_of_the_origin_only_grow() -> None:
    """A write is one more of its object, a bump one more of all of its tag; each is proven by its bytes."""
    other = objects.target("news", "2", size=500)
    async with TestClient(TestServer(application())) as client:

        async def version(target: str, language: str = "en") -> int:
            answer = await client.get(target, headers={"Accept-Language": language})
            fields = {name.lower(): value for name, value in answer.headers.items()}
            seen = verify.check(target, language, answer.status, fields, await answer.read())
            assert not seen.problem
            return seen.version

        assert await version(TARGET) == 1
        assert await (await client.put(TARGET, data=b"new")).json() == {"version": 2}
        assert (await version(TARGET), await version(other)) == (2, 1)
        await client.post("/_origin/bump?tag=news")
        assert (await version(TARGET), await version(other)) == (3, 2)
        assert await version(objects.target("news", "3", vary=1), "de") == 2


async def test_the_origin_counts_what_it_is_asked() -> None:
    """Whole answers and validations, in all and for the object of a tag that was asked for most."""
    async with TestClient(TestServer(application())) as client:
        first = await client.get(TARGET)
        await client.get(TARGET)
        again = await client.get(TARGET, headers={"If-None-Match": first.headers["ETag"]})
        await client.get(objects.target("other", "1"))

        assert again.status == 304
        assert await (await client.get("/_origin/asked?tag=news")).json() == {
            "objects": 1,
            "full": 2,
            "most_full": 2,
            "validated": 1,
            "most_validated": 1,
        }
        assert await (await client.get("/_origin/counts")).json() == {"requests": 4, "not_modified": 1, "bytes": 2000}


# --- tiers, floors, figures


@pytest.mark.parametrize(
    ("cache_status", "tier"),
    [
        ("", tiers.NONE),
        ("shield; fwd=uri-miss; fwd-status=200; stored, edge-eu; hit; ttl=60", tiers.MEMORY),
        ("eu/regional; hit; ttl=9, edge-eu; fwd=uri-miss", tiers.REGIONAL),
        ("shield; hit; ttl=60, edge-eu; fwd=uri-miss; fwd-status=200; stored", tiers.PARENT),
        ("shield/regional; hit; ttl=9, shield; fwd=uri-miss, edge-eu; fwd=uri-miss", tiers.PARENT),
        ("shield; fwd=uri-miss, edge-eu; fwd=uri-miss; collapsed", tiers.SHARED),
        ("shield; fwd=stale; fwd-status=304, edge-eu; fwd=stale; fwd-status=304", tiers.ORIGIN),
    ],
)
def test_the_tier_is_the_hit_nearest_to_the_client(cache_status: str, tier: str) -> None:
    """Members are listed from the origin to the client."""
    assert tiers.tier_of(cache_status) == tier


def test_a_floor_holds_from_its_time_on() -> None:
    """What is older than the floor is late by the time since the floor rose above it."""
    floors = Floors()
    floors.rise("tag", 2, 10.0)
    floors.rise("tag", 4, 20.0)
    floors.rise("tag", 3, 21.0)  # out of order

    assert [floors.least("tag", at) for at in (9.9, 10.0, 19.9, 20.0, 30.0)] == [1, 2, 2, 4, 4]
    assert [floors.lateness("tag", version, 25.0) for version in (1, 2, 3, 4)] == [15.0, 5.0, 5.0, 0.0]
    assert (floors.least("unknown", 99.0), floors.lateness("unknown", 0, 99.0)) == (1, 0.0)


def test_percentiles_are_true_to_two_percent() -> None:
    """Of many times, of one, and of none."""
    times = Histogram()
    for milliseconds in range(1, 10_001):
        times.add(milliseconds / 10)

    assert times.percentile(0.5) == pytest.approx(500, rel=0.02)
    assert times.percentile(0.999) == pytest.approx(999, rel=0.02)
    assert times.percentile(1.0) == 1000
    assert Histogram().percentile(0.5) == 0.0


def tallied() -> Tally:
    """What came of a small run."""
    tally = Tally()
    for tier, count in ((tiers.MEMORY, 90), (tiers.REGIONAL, 5), (tiers.ORIGIN, 5)):
        for _ in range(count):
            tally.time(tier, 2.0)
    tally.counts["bytes"] = 10_000
    return tally


def test_tallies_of_processes_add_up() -> None:
    """What another process saw arrives through JSON, and counts as if it had been seen here."""
    other = tallied()
    other.error("cut short")
    other.older("from edge memory")
    both = tallied()
    both.merge(Tally.from_document(json.loads(json.dumps(other.document()))))

    assert both.times[tiers.MEMORY].count == 180
    assert both.times[tiers.MEMORY].percentile(0.99) == pytest.approx(2.0, rel=0.02)
    assert (both.errors["cut short"], both.old["from edge memory"], both.counts["bytes"]) == (1, 1, 20_000)


def test_a_run_is_well_only_if_something_was_asked_and_nothing_was_wrong() -> None:
    """An error, an old answer or silence fails it."""
    failed, old = tallied(), tallied()
    failed.error("status 502")
    old.older("from edge memory")

    assert [tally.well for tally in (tallied(), failed, old, Tally())] == [True, False, False, False]


def test_problems_are_bounded() -> None:
    """An error that is different each time does not fill the memory."""
    tally = Tally()
    for number in range(1000):
        tally.error(f"problem {number}")

    assert len(tally.errors) <= 51
    assert tally.errors.total() == 1000


def test_the_table_says_what_came() -> None:
    """Shares per tier, hit ratio, offload, and each problem."""
    tally = tallied()
    tally.older("from edge memory")
    text = report.table(report.Run("zipf: 10 s", 10.0, {"requests": 5, "bytes": 1000}), tally)

    assert "| edge memory | 90 | 90.00 % | 2.00 | 2.00 | 2.00 | 2.00 |" in text
    assert "| hit ratio at the edges | 95.00 % |" in text
    assert "| origin offload, requests | 95.00 % |" in text
    assert "| origin offload, bytes | 90.00 % |" in text
    assert "| errors | 0 |" in text
    assert "| old answers | 1 |" in text
    assert "old answer: 1 × from edge memory" in text


def test_answers_that_got_lost_are_seen() -> None:
    """What was begun and never answered is at most what was under way at the end."""
    tally = tallied()
    tally.counts[report.BEGUN] = 103

    assert report.under_way(tally) == 3


def test_the_table_says_how_long_old_bytes_came() -> None:
    """After the acknowledgement of a purge, the latest of them; or that there were none."""
    tally = tallied()
    tally.time(report.PURGED, 3.0)
    none = report.figures(report.Run("purge", 1.0), tally)
    tally.time(report.LATE, 1.0)
    tally.time(report.LATE, 12.5)
    some = report.figures(report.Run("purge", 1.0), tally)

    assert none["last old byte after an acknowledgement"] == "none"
    assert some["last old byte after an acknowledgement"] == "12.5 ms"


# --- all of it


def ask(url: str, target: str) -> tuple[int, str]:
    """Status and tier of a GET."""
    request = urllib.request.Request(url + target, headers={"Host": "www.example.org"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, tiers.tier_of(", ".join(answer.headers.get_all("Cache-Status", [])))


@pytest.mark.slow
def test_a_chain_can_be_killed_in_part_and_ends_whole(tmp_path: Path) -> None:
    """Edges share the shield; one that was killed comes back where it was, to a warm region; nothing is left behind."""
    plan = Plan(delays={("edge-us", "shield"): 0.01})
    with running_chain(plan, tmp_path) as chain:
        europe, america = chain.edges
        assert ask(europe.url, TARGET) == (200, tiers.ORIGIN)
        assert ask(america.url, TARGET) == (200, tiers.PARENT)
        europe.process.kill()
        assert ask(america.url, TARGET) == (200, tiers.MEMORY)
        europe.process.start()
        assert ask(europe.url, TARGET) == (200, tiers.REGIONAL)
        pids = [chain.origin.pid, *(pop.process.pid for pop in chain.pops.values())]

    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    with pytest.raises(urllib.error.URLError):
        ask(america.url, TARGET)


@pytest.mark.slow
def test_every_scenario_runs_without_an_error_or_an_old_answer() -> None:
    """A chain of real processes and locust, in two processes, for a few seconds each."""
    command = [sys.executable, "-m", "loadtests", "load", "zipf", "flash", "purge", "write"]
    command += ["--seconds", "4", "--users", "8", "--rate", "100", "--processes", "2"]
    patient = {**os.environ, "LOAD_BOUND": "20"}  # seconds that a write may take elsewhere: how fast it is, is no test
    done = subprocess.run(command, cwd=ROOT, env=patient, capture_output=True, text=True, timeout=150, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert all(
        what in done.stdout for what in ("| purge, applied by all |", "| write seen elsewhere without a token |")
    )
    assert done.stdout.count("| errors | 0 |\n| old answers | 0 |") == 4, done.stdout


class Yes(BaseHTTPRequestHandler):
    """An admin listener that acknowledges every purge and does nothing."""

    def do_POST(self) -> None:
        """Answer."""
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.slow
def test_a_purge_that_does_nothing_is_found_out(tmp_path: Path) -> None:
    """The storm fails if what was acknowledged as purged is answered nevertheless."""
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locust/locustfile.py", "Purge", "--headless"]
    command += ["-u", "8", "-r", "8", "-t", "3s", "--rate", "100", "--json-file", str(tmp_path / "locust")]
    with running_chain(Plan(regions=("eu",)), tmp_path) as chain, ThreadingHTTPServer(("127.0.0.1", 0), Yes) as liar:
        threading.Thread(target=liar.serve_forever, daemon=True).start()
        told = {
            "LOAD_EDGES": chain.edges[0].url,
            "LOAD_ADMINS": f"http://127.0.0.1:{liar.server_port}",
            "LOAD_OBJECT_ORIGIN": chain.origin_url,
        }
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **told}, capture_output=True, text=True, timeout=60, check=False
        )
        liar.shutdown()

    assert done.returncode == 1, done.stdout + done.stderr
    assert "old answer: " in done.stdout
    assert "| errors | 0 |" in done.stdout
