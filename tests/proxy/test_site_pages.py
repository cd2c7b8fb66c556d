"""The examples of pools, routes and certificates in docs/sites.md, running."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path

from harness.certificates import Authority
from harness.origin import OriginDouble, Reply, running_origin
from harness.pop import running_pop
from harness.site_pools import STORED
from harness.tls_client import secured

PAGE = Path(__file__).parents[2] / "docs" / "sites.md"


def example(mark: str) -> str:
    """The only example with these words."""
    (found,) = [one for one in re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.M | re.S) if mark in one]
    return str(found)


async def test_pools_and_routes(tmp_path: Path) -> None:
    """Each rule leads where the page says; S3 is signed; a canary has its clients."""
    (tmp_path / "bucket.key").write_text("secret")
    text = example("[pools.app]").replace("/etc/edgecache", str(tmp_path)).replace("/run/", f"{tmp_path}/")
    authority = Authority(tmp_path)
    files, tls = authority.issue("storage.example.org"), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.certificate, files.key)
    socket = OriginDouble()
    socket.otherwise(Reply(fields=STORED, body=b"api"))
    async with (
        running_origin() as app,
        running_origin() as second,
        running_origin() as following,
        running_origin(tls=tls) as media,
        await asyncio.start_unix_server(socket.serve, tmp_path / "api.sock"),
    ):
        for origin, url in ((app, "10.0.0.5:8080"), (second, "10.0.0.6:8080"), (following, "10.0.0.7:8080")):
            text = text.replace(f"http://{url}", origin.url)
            origin.otherwise(Reply(fields=STORED, body=b"next" if origin is following else b"app"))
        media.otherwise(Reply(fields=STORED, body=b"media"))
        text = text.replace("https://10.0.0.9", media.url).replace("tls_name", f'ca = "{authority.file}"\ntls_name')
        async with running_pop(app, sites=text) as pop:
            for target, cookie, body in (
                ("/", "edgecache-canary=50", b"app"),
                ("/", "edgecache-canary=49", b"next"),
                ("/page/7?a=b", "edgecache-canary=500", b"app"),
                ("/images/x.png", "edgecache-canary=500", b"media"),
                ("/api/users", "edgecache-canary=500", b"api"),
            ):
                response = await pop.get(target, ("Host", "shop.example.org"), ("Cookie", cookie))
                assert response.body == body, (target, cookie)
        asked = [request.target for request in (*app.requests, *second.requests) if request.target != "/health"]
        assert sorted(asked) == ["/", "/index.php?page=7&a=b"]
        (image,) = media.requests
        assert image.target == "/shop/images/x.png"
        assert (image.get("host"), image.get("cookie")) == ("media.s3.example.org", None)
        assert "/eu-central-1/s3/aws4_request" in (image.get("authorization") or "")
        (call,) = socket.requests
        assert (call.target, call.get("host")) == ("/users", "localhost")


async def test_certificates(tmp_path: Path, origin: OriginDouble) -> None:
    """Two sites, each with its own."""
    authority, text = Authority(tmp_path), example("b.pem")
    a, b = authority.issue("a.example.org", file="a"), authority.issue("b.example.org", file="b")
    (tmp_path / "b.pem").write_bytes(b.certificate.read_bytes() + b.key.read_bytes())
    assert a.certificate.name == "a.crt"
    text = text.replace("/etc/edgecache", str(tmp_path)).replace("http://10.0.0.5", origin.url)
    async with running_origin() as other:
        text = text.replace("http://10.0.0.6", other.url)
        origin.otherwise(Reply(body=b"of a"))
        other.otherwise(Reply(body=b"of b"))
        async with running_pop(origin, sites=text, tls_listen="127.0.0.1:0") as pop:
            for name in "ab":
                host = f"{name}.example.org"
                async with secured(pop.tls_port, authority.trusting(), host) as client:
                    assert (await client.ask("/", host)).body == f"of {name}".encode()
