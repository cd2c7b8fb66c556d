"""Changes that the house is built for: each is applied to a copy of the package, touches one room, and works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from harness.often import slow

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "edgecache"


class Change(NamedTuple):
    """A patch, and a program that shows what it does."""

    room: str
    patch: dict[str, list[tuple[str, str]]]  # per file, what is replaced by what; of a new file, nothing by its text
    program: str


REGISTERED = (
    "from edgecache.proxy.middleware.purge import Purge",
    "from edgecache.proxy.middleware.planted import Planted\nfrom edgecache.proxy.middleware.purge import Purge",
)
IN_THE_LIST = ("    Purge,\n", "    Purge,\n    Planted,\n")
MIDDLEWARE = '''
"""Planted."""

from edgecache.proxy.hooks import NOTHING, Middleware


class Planted(Middleware):
    """Planted."""

    order = 950
'''
TWINS = """
import asyncio
from hostile.heads import fill, head
from hostile.twins import Twins

async def play():
    twins = Twins()
    fill(twins)
    {0}

asyncio.run(play())
"""
HEADER = Change(
    "proxy",
    {
        "proxy/pipeline.py": [REGISTERED, IN_THE_LIST],
        "proxy/middleware/planted.py": [
            (
                "",
                MIDDLEWARE
                + """    reads = NOTHING

    @classmethod
    def configured(cls, context):
        return cls()

    def on_deliver(self, scheme, says):
        return [(b"X-Served-By", b"edgecache")]
""",
            )
        ],
    },
    TWINS.format(
        """
    for number in range(8):
        for target in (b"/a", b"/unknown"):
            for one in (head(target, b"Cookie: %d" % number), head(target)):
                assert (await twins.agree(one)).count(b"X-Served-By: edgecache") == 1, one
    assert twins.quick.alike > 3
    assert len(twins.quick.worker.edge.known) > 0
"""
    ),
)
COOKIE = Change(
    "proxy",
    {
        "proxy/pipeline.py": [REGISTERED, IN_THE_LIST],
        "proxy/middleware/planted.py": [
            (
                "",
                MIDDLEWARE
                + """
    @classmethod
    def configured(cls, context):
        return cls()

    def on_lookup(self, exchange):
        return exchange.request.fields.get(b"cookie")
""",
            )
        ],
    },
    TWINS.format(
        """
    assert b" 200 Asked" not in await twins.agree(head(b"/a"))
    for number in range(8):
        answer = await twins.agree(head(b"/a", b"Cookie: %d" % (number % 2)))
        assert answer.startswith(b"HTTP/1.1 200 Asked"), "nothing is stored for that cookie"

    import random, re
    from hostile.heads import a_head, reads, something_happens
    dice, stored, asked = random.Random(5), 0, 0
    for number in range(2000):  # generated heads, as in proxy/test_head_template.py
        if number % 40 == 0:
            something_happens(dice, twins)
        one = a_head(dice)
        answer = await twins.agree(*reads(dice, one))
        if answer.startswith(b"HTTP/1.1 200"):
            is_asked = answer.startswith(b"HTTP/1.1 200 Asked")
            if re.search(rb"(?i)\\ncookie: *[^ \\r]", one):
                assert is_asked, (one, answer)
                asked += 1
            else:
                stored += not is_asked
    assert stored > 20 and asked > 20, (stored, asked)
    assert twins.quick.alike == 0
"""
    ),
)
SCOPE = Change(
    "invalidation",
    {
        "invalidation/scopes.py": [
            ('in b"utgps" and', 'in b"utgpse" and'),
            (
                '    names = [b"u" + name, b"s" + host, EVERYTHING]\n',
                '    names = [b"u" + name, b"s" + host, EVERYTHING, b"e" + name.rpartition(b".")[2]]\n',
            ),
        ]
    },
    TWINS.format(
        """
    for target in (b"/x.css", b"/x.js"):
        from hostile.heads import FRESH, request
        twins.store(request(target), [FRESH], target)
    for twin in twins.both:
        twin.worker.edge.invalidation.append([b"ecss"])
    assert (await twins.agree(head(b"/x.js"))).endswith(b"/x.js")
    assert (await twins.agree(head(b"/x.css"))).startswith(b"HTTP/1.1 200 Asked")
"""
    ),
)
SETTING = Change(
    "config",
    {
        "config/groups/serving.py": [
            ("    hsts: str = setting(", '    motto: str = setting(HSTS, "", "Planted.")\n    hsts: str = setting(')
        ],
        "config/settings.py": [('        "hsts",\n', '        "hsts",\n        "motto",\n')],
    },
    """
import asyncio
from harness.pop import environment
from edgecache.config.settings import LIVE, load
from edgecache.server.worker import Worker

async def play():
    worker = Worker(load(environment("http://127.0.0.1:9", [])))
    await worker.reload(load(environment("http://127.0.0.1:9", [("motto", "max-age=7")])))
    assert "motto" in LIVE
    assert worker._settings.motto == "max-age=7"
    await worker.stop()

asyncio.run(play())
""",
)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(HEADER, id="a header"),
        slow(pytest.param(COOKIE, id="a cookie")),
        slow(pytest.param(SCOPE, id="a purge scope")),
        slow(pytest.param(SETTING, id="a live setting")),
    ],
)
def test_a_change_touches_one_room(change: Change, tmp_path: Path) -> None:
    """A header on every response, a middleware that reads a cookie, a new purge scope, a live setting."""
    assert {place.split("/")[0] for place in change.patch} == {change.room}
    copy = tmp_path / "edgecache"
    shutil.copytree(PACKAGE, copy)  # with its bytecode, of which only that of the patched files is out of date
    for place, replaced in change.patch.items():
        path = copy / place
        source = path.read_text() if path.exists() else ""
        for old, new in replaced:
            assert source.count(old) == 1, (place, old)
            source = source.replace(old, new)
        path.write_text(source)
    program = tmp_path / "program.py"
    program.write_text(change.program)

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT / "tests"), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
