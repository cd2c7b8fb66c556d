"""The load tests as a package: each program is listed, and each module can be imported."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from harness.often import each_case

from loadtests.__main__ import PROGRAMS, summary

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("blog_site", "wagtail_site", "__main__")  # imported by Django, Wagtail, nobody
PATCHING = ("locust/locustfile", "locust/scenarios", "locust/visitor")  # by locust: it patches sockets
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "loadtests").rglob("*.py"))
    if not any(name in str(path) for name in (*ELSEWHERE, *PATCHING))
]


def test_they_can_be_imported() -> None:
    """Whatever was renamed in the product."""
    with each_case() as case:
        for module in MODULES:
            with case(module):
                importlib.import_module(module)


@pytest.mark.slow
def test_locust_imports_its_file() -> None:
    """It lists the scenarios, and imports everything else for that."""
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locust/locustfile.py", "--list"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert all(name in listed.stdout + listed.stderr for name in ("Flash", "Purge", "Write", "Zipf"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_says_in_one_line_what_it_is(name: str) -> None:
    """In its docstring; and it can be run."""
    assert summary(PROGRAMS[name]).endswith((".", ":"))
    assert callable(importlib.import_module(f"loadtests.{PROGRAMS[name]}").main)


def test_the_list_of_programs() -> None:
    """`--help` names them all; what is none of them is refused."""
    command = [sys.executable, "-m", "loadtests"]
    listed = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    unknown = subprocess.run([*command, "nothing"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert [line.split()[0] for line in listed.splitlines()[2:]] == list(PROGRAMS)
    assert (unknown.returncode, "no program 'nothing'" in unknown.stderr) == (2, True)


def test_make_help_lists_each_program() -> None:
    """`make` without a target says what there is."""
    help_ = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert {line.split()[0] for line in help_.splitlines()} >= {"test", "check", "docs", *PROGRAMS}
