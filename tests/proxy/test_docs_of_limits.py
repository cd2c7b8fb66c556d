"""The example of limits in docs/sites.md does what the text around it says."""

from __future__ import annotations

import re
from pathlib import Path

from harness.origin import OriginDouble, Reply
from harness.pop import running_pop

DOCS = Path(__file__).parents[2] / "docs" / "sites.md"
HOST = ("Host", "api.example.org")


def example() -> str:
    """The TOML under the heading."""
    found = re.search(r"^## Limits\n+```toml\n(.*?)```", DOCS.read_text(), re.S | re.M)
    assert found is not None
    return found[1]


async def test_the_example_runs(origin: OriginDouble) -> None:
    """Bursts of clients and of one path; the token's rate; uploads."""
    text = example().replace("http://10.0.0.7", origin.url)
    origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=b"x"))
    async with running_pop(origin, sites=text) as pop:
        logins = [(await pop.request("POST", "/login", HOST, body=b"x")).status for _ in range(7)]
        assert logins == [200] * 5 + [429] * 2
        assert (await pop.request("POST", "/upload/a", HOST, body=bytes(21 << 20))).status == 413
        async with pop.client() as client:
            found = []
            for _ in range(200):
                await client.request("GET", "/", [HOST])
                found.append(await client.response())
        assert [one.status for one in found] == [200] * 195 + [429] * 5  # the logins count, too
