"""The requests of the benchmark: what a browser sends, the same bytes for every load generator."""

from __future__ import annotations

from collections.abc import Iterator

ETAG = '"65f1c2aa-400"'
SITE = "www.example.com"

# With Host these are 15 fields, as Chrome sends them for a page it reached by a link.
BROWSER_FIELDS = (
    ("Connection", "keep-alive"),
    ("sec-ch-ua", '"Chromium";v="128", "Not;A=Brand";v="24", "Google Chrome";v="128"'),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", '"Linux"'),
    ("Upgrade-Insecure-Requests", "1"),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0 Safari/537.36",
    ),
    (
        "Accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    ),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Referer", "https://www.example.com/catalogue/shoes?page=3&sort=price"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
    ("Cookie", "_ga=GA1.1.1934870212.1724061234; consent=yes; theme=dark; session=@SESSION@"),
)

_OWN = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.@N@ Safari/537",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8,x-@N@;q=0.1",
    "Referer": "https://www.example.com/catalogue/shoes?page=@N@&sort=price",
}


def request(method: str, path: str, session: int = 0, etag: str | None = None, *, own: bool = False) -> bytes:
    """One request as bytes; `session` only changes the value of its cookie, `etag` adds If-None-Match.

    With `own`, its client has an agent, a language and a referrer of its own too, and the request an id.
    """
    fields = [("Host", SITE), *BROWSER_FIELDS]
    if own:
        fields = [(name, _OWN.get(name, value).replace("@N@", str(session))) for name, value in fields]
        fields.append(("X-Request-Id", "@SESSION@"))
    if etag is not None:
        fields.append(("If-None-Match", etag))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    head = f"{method} {path} HTTP/1.1\r\n{lines}\r\n"
    return head.replace("@SESSION@", f"{session * 2654435761 % 2**32:08x}c0ffee{session:08x}").encode()


def objects(count: int) -> Iterator[bytes]:
    """GET each of `count` distinct cacheable 1 KiB objects once."""
    return (request("GET", f"/o/{number}") for number in range(count))
