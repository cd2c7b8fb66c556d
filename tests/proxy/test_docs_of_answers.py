"""The example of redirects, responses and fields in docs/sites.md does what the text around it says."""

from __future__ import annotations

import re
from pathlib import Path

from harness.clock import FakeClock
from harness.origin import Reply, running_origin
from harness.pop import running_pop

DOCS = Path(__file__).parents[2] / "docs" / "sites.md"


def example(heading: str, origin: str) -> str:
    """The TOML under a heading, with `origin` in the place of its origin."""
    section = DOCS.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    match = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert match is not None, heading
    return match[1].replace("http://10.0.0.7", origin)


async def test_the_example_of_answers_runs() -> None:
    """Over http all is redirected; over https, behind a trusted proxy, the other rules show."""
    clock = FakeClock()
    async with running_origin(clock) as origin:
        origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60"), ("X-Powered-By", "x")], body=b"x"))
        text = example("Redirects, fixed responses and fields", origin.url)
        async with running_pop(origin, clock, sites=text, trusted_proxies="127.0.0.1") as pop:
            plain = await pop.get("/a?b", ("Host", "www.example.org"))
            assert (plain.status, plain.get("location")) == (308, "https://example.org/a?b")
            secure = ("X-Forwarded-Proto", "https")
            www = await pop.get("/a?b", ("Host", "www.example.org"), secure)
            assert (www.status, www.get("location")) == (301, "https://example.org/a?b")
            host = ("Host", "example.org")
            assert (await pop.get("/blog/12", host, secure)).get("location") == "/articles/12"
            assert (await pop.get("/robots.txt", host, secure)).body.startswith(b"User-agent")
            for result in ("MISS", "HIT"):
                page = await pop.get("/", host, secure, ("Origin", "https://a.partner.example"))
                assert page.get("x-cache") == result
                assert page.get("x-robots-tag") == "noarchive"
                assert page.get("x-powered-by") is None
                assert page.get("x-frame-options") == "SAMEORIGIN"
                assert page.get("access-control-allow-origin") == "https://a.partner.example"


async def test_the_example_of_compression_runs() -> None:
    """Compressed as it says, but for one path."""
    clock = FakeClock()
    async with running_origin(clock) as origin:
        origin.otherwise(
            Reply(fields=[("Cache-Control", "max-age=60"), ("Content-Type", "text/html")], body=b"text " * 1000)
        )
        text = example("Compression", origin.url)
        async with running_pop(origin, clock, sites=text) as pop:
            asked = [("Host", "example.org"), ("Accept-Encoding", "br, gzip")]
            for target, codings in (("/", [None, "gzip", "gzip", "gzip", "br"]), ("/account/x", [None] * 5)):
                found = []
                for _ in codings:
                    found.append((await pop.get(target, *asked)).get("content-encoding"))
                    if (task := pop.worker.edge.compressor.task) is not None:
                        await task
                    pop.worker.edge.sweep()
                    clock.advance(1)
                assert found == codings
