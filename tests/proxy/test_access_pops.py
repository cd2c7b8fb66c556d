"""Access where POPs ask each other: decided where the client is, and nothing that it adds is shared at the parent."""

from __future__ import annotations

from contextlib import AsyncExitStack

from harness.clock import FakeClock
from harness.origin import ReceivedRequest, Reply, running_origin
from harness.parents import SECRET
from harness.pop import running_pop

HOST = ("Host", "a.test")
RULES = """
[[sites]]
name = "a"
hosts = ["a.test"]
origin = "{origin}"
[[sites.rules]]
name = "app"
when = {{ path_prefix = "/app" }}
access.forward_auth = {{ url = "{decider}/check", pass_headers = ["X-User"] }}
"""


def decide(request: ReceivedRequest) -> Reply:
    """Admit the cookie `user=…`."""
    user = (request.get("cookie") or "").removeprefix("user=")
    return Reply(204, [("X-User", user)]) if user else Reply(401, [("WWW-Authenticate", "Cookie")])


async def test_the_parent_shares_nothing_between_users() -> None:
    """It demands nothing of its child, keys by the fields that the child adds, and demands all of its own clients."""
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(running_origin(clock))
        decider = await stack.enter_async_context(running_origin(clock))
        decider.on("/check", decide)
        origin.otherwise(
            lambda request: Reply(200, [("Cache-Control", "max-age=60")], (request.get("x-user") or "-").encode())
        )
        sites = RULES.format(origin=origin.url, decider=decider.url)
        parent = await stack.enter_async_context(
            running_pop(origin, clock, sites=sites, pop="parent", pop_secret=SECRET)
        )
        children = [
            await stack.enter_async_context(
                running_pop(
                    origin,
                    clock,
                    sites=sites,
                    pop=f"child-{number}",
                    pop_secret=SECRET,
                    parents=f"http://127.0.0.1:{parent.port}",
                )
            )
            for number in range(2)
        ]
        for _ in range(3):
            for child in children:
                for user in ("ann", "bob"):
                    response = await child.get("/app/x", HOST, ("Cookie", f"user={user}"))
                    assert (response.status, response.body) == (200, user.encode())
                refused = await child.get("/app/x", HOST)
                assert refused.status == 401
                assert refused.get("cache-status") is None
        assert len(origin.requests) == 2
        for pop in (parent, *children):
            forged = await pop.get("/app/x", HOST, ("X-User", "ann"), ("Edgecache-Pop", "child-0"))
            assert forged.status in (400, 401, 403)
