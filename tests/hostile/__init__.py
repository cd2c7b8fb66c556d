"""Hostile input: tables of byte cases, the oracles that judge them, and three readers that must agree.

`tables/*.txt` are the hand-written cases; `tables.py` reads them, `arena.py` runs them against a POP over sockets,
`rig.py` against the protocol object alone. `rfc9112.py` is a strict reader written from the RFC; with h11 and llhttp
it makes the three of `readers.py`. Nothing here imports the product but `arena.py` (through the harness) and `rig.py`.
"""

import pytest

pytest.register_assert_rewrite("hostile.arena")
