"""The example of `docs/sites.md` about access is read, and does what is written beside it."""

from __future__ import annotations

import re
from pathlib import Path

import jwt as pyjwt
from harness.clock import FakeClock
from harness.origin import Reply, running_origin
from harness.pop import running_pop
from harness.tokens import PRIVATE, key_set

from edgecache.semantics.signing.own_format import token_for

DOCS = Path(__file__).parents[2] / "docs" / "sites.md"
HOST = ("Host", "media.example.org")
NOW = 1_700_000_000


def example() -> str:
    """The example."""
    part = DOCS.read_text().partition("\n## Access\n")[2].partition("\n## ")[0]
    found = re.search(r"```toml\n(.*?)```", part, re.DOTALL)
    assert found is not None
    return found[1]


async def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    """Each path is closed without what it demands, and open with it; the one that is public is open."""
    (tmp_path / "films.key").write_bytes(b"a secret of the tests")
    async with running_origin(FakeClock()) as origin, running_origin(FakeClock()) as other:
        origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=b"yes"))
        other.on("/jwks.json", Reply(200, [], key_set("rsa")))
        other.on("/check", lambda request: Reply(204 if request.get("cookie") else 403))
        text = example().replace("http://10.0.0.7", origin.url).replace("http://10.0.0.8", other.url)
        text = text.replace('jwks = "https://login.example.org', f'jwks = "{other.url}')
        text = text.replace("/etc/edgecache", str(tmp_path))
        claims = {"iss": "https://login.example.org/", "aud": "media", "exp": NOW + 60, "roles": ["editor"]}
        token = pyjwt.encode(claims, PRIVATE["rsa"], "RS256", headers={"kid": "rsa"})
        signed = token_for("k2", b"a secret of the tests", NOW + 60, host=b"media.example.org", target=b"/films/1")
        async with running_pop(origin, sites=text, trusted_proxies="127.0.0.1") as pop:
            for target, more, closed in (
                ("/internal", [("X-Forwarded-For", "10.1.1.1")], 403),
                ("/api/x", [("Authorization", f"Bearer {token}")], 401),
                ("/app/x", [("Cookie", "a=b")], 403),
            ):
                assert (await pop.get(target, HOST)).status == closed, target
                assert (await pop.get(target, HOST, *more)).status == 200, target
            assert (await pop.get("/films/1", HOST)).status == 403
            assert (await pop.get(f"/films/1?edgecache-token={signed.decode()}", HOST)).status == 200
            assert (await pop.get("/staging", HOST)).status == 401
            assert (await pop.get("/api/health", HOST)).status == 200
            assert (await pop.get("/", HOST)).status == 200
