"""What clients cost that read slowly or not at all: memory here, memory of the kernel, time of others (FAULTS D)."""

from __future__ import annotations

import fcntl
import struct

from harness.client import let_others_run
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop

FRESH = ("Cache-Control", "max-age=60")
MIB = 1024 * 1024
SIOCOUTQ = 0x5411  # bytes that the kernel holds for the peer


async def test_the_kernel_holds_little_for_who_does_not_read(origin: OriginDouble) -> None:
    """Of an answer that nobody reads the kernel takes no megabytes: memory that no budget of ours knows."""
    origin.on("/big", Reply(fields=[FRESH], body=bytes(16 * MIB)))
    async with running_pop(origin, memory="256MiB") as pop:
        await pop.get("/big")
        async with pop.client(receive_buffer=4096) as client:
            await client.request("GET", "/big")
            (connection,) = pop.worker.connections
            held = before = -1
            while held <= 0 or held != before:
                await let_others_run(200)
                before = held
                descriptor = connection.transport.get_extra_info("socket").fileno()
                (held,) = struct.unpack("i", fcntl.ioctl(descriptor, SIOCOUTQ, b"\0" * 4))

            assert held < 1 * MIB
