"""A private virtual environment for a service, apart from the project's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from loadtests.correctness.real_sites.processes import say
from loadtests.lab.processes import Missing, last_line

INSTALL_SECONDS = 300


def private_python(folder: Path, *packages: str) -> Path:
    """The Python of a virtual environment in `folder` that has `packages`; made if it is not there already."""
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if stamp.exists() and stamp.read_text() == repr(packages):
        return python
    say(f"installing {', '.join(packages)} into {folder}")
    _run([sys.executable, "-m", "venv", str(folder)], "python3 cannot make a virtual environment (python3-venv)")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    _run(pip, f"pip cannot install {', '.join(packages)}")
    stamp.write_text(repr(packages))
    return python


def _run(command: list[str], problem: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{problem}: {error}") from error
    if done.returncode:
        raise Missing(f"{problem}: {last_line(done.stderr)}")


def versions(python: Path, *packages: str) -> str:
    """The installed versions, for the report."""
    code = "import sys, importlib.metadata as m; print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    done = subprocess.run([str(python), "-c", code, *packages], capture_output=True, check=False, timeout=30)
    return done.stdout.decode().strip() or ", ".join(packages)
