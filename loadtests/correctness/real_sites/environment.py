"""What a service needs, apart from the project's own: a private virtual environment, or packages of npm."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from loadtests.correctness.real_sites.processes import say
from loadtests.lab.processes import Missing, last_line

INSTALL_SECONDS = 300
UNREACHABLE = (b"ECONNREFUSED", b"ENOTFOUND", b"EAI_AGAIN", b"ETIMEDOUT", b"NewConnectionError", b"NameResolutionError")


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


def node_packages(folder: Path, *packages: str) -> str:
    """The program `node`, with `packages` in `folder`/node_modules; installed if they are not there already."""
    node, npm, stamp = shutil.which("node"), shutil.which("npm"), folder / ".installed"
    if node is None or npm is None:
        raise Missing("node and npm are not installed")
    if not stamp.exists() or stamp.read_text() != repr(packages):
        say(f"installing {', '.join(packages)} into {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--no-audit", "--no-fund", "--no-save", "--no-update-notifier", "--fetch-retries=1"]
        _run(
            [npm, "install", "--prefix", str(folder), *options, *packages], f"npm cannot install {', '.join(packages)}"
        )
        stamp.write_text(repr(packages))
    return node


def _run(command: list[str], problem: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{problem}: {error}") from error
    if done.returncode:
        raise Missing(f"{problem}: {_reason(done.stderr)}")


def _reason(written: bytes) -> str:
    """That no registry is reached; or the first error that npm wrote, whose last line names a log; or the last line."""
    if any(sign in written for sign in UNREACHABLE):
        return "its registry cannot be reached"
    lines = written.decode(errors="replace").splitlines()
    told = [line.removeprefix("npm error ") for line in lines if line.startswith("npm error ")]
    return " ".join(told[:3]) or last_line(written)


def versions(python: Path, *packages: str) -> str:
    """The installed versions, for the report."""
    code = "import sys, importlib.metadata as m; print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    done = subprocess.run([str(python), "-c", code, *packages], capture_output=True, check=False, timeout=30)
    return done.stdout.decode().strip() or ", ".join(packages)
