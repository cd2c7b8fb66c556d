"""A link with a delay: `python -m loadtests.lab.delay PORT TARGET_PORT SECONDS` relays by the tests' fault proxy.

The delay is added in each direction: a round trip takes twice as long. Ends at SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from harness.fault_proxy import FaultProxy


async def relay(port: int, target_port: int, seconds: float) -> None:
    """Relay 127.0.0.1:`port` to `target_port` until SIGTERM."""
    proxy = FaultProxy(target_port)
    proxy.port = port
    proxy.up.latency = proxy.down.latency = seconds
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await proxy.start()
    await ended.wait()
    await proxy.stop()


if __name__ == "__main__":
    asyncio.run(relay(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
