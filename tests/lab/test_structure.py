"""The structure of the code: modules, functions and nesting stay small, and imports point down only."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
while not (ROOT / "pyproject.toml").exists():
    ROOT = ROOT.parent
PACKAGE = ROOT / "edgecache"
LONGEST_MODULE = 450  # lines
LONGEST_FUNCTION = 45  # lines
DEEPEST = 3  # blocks within blocks of one function
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)  # what a block can lie in


def depth(node: ast.AST, deep: int = 0) -> int:
    """How many blocks lie within each other; `elif` is one with its `if`, a function within is not counted."""
    most = deep
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, STATEMENTS) or isinstance(child, (*FUNCTIONS, ast.ClassDef)):
                continue
            elif_ = name == "orelse" and isinstance(node, ast.If) and isinstance(child, ast.If) and len(value) == 1
            most = max(most, depth(child, deep + (isinstance(child, BLOCKS) and not elif_)))
    return most


def violations(name: str, source: str) -> Iterator[str]:
    """What is too long or too deep in a module."""
    lines = source.count("\n")
    if lines > LONGEST_MODULE:
        yield f"{name}: {lines} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTIONS):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{name}: {node.name} has {length} lines"
            if depth(node) > DEEPEST:
                yield f"{name}: {node.name} is nested {depth(node)} deep"


def test_modules_functions_and_nesting_are_small() -> None:
    """450 lines, 45 lines, three levels; no exception."""
    found = [
        line
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in violations(str(path.relative_to(ROOT)), path.read_text())
    ]

    assert found == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("\n" * 451, "451 lines"),
        ("def f():\n" + "    x = 1\n" * 45, "f has 46 lines"),
        ("def f():\n if a:\n  for b in c:\n   while d:\n    with e: pass\n", "f is nested 4 deep"),
        ("def f():\n if a: pass\n elif b: pass\n elif c: pass\n elif d: pass\n", ""),
    ],
)
def test_what_is_too_large_is_found(source: str, said: str) -> None:
    """One planted violation of each bound, and a chain of `elif` that is none."""
    found = list(violations("planted", source))

    assert found == ([f"planted: {said}"] if said else [])


def contracts(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the import contracts of the package that lies in `root`."""
    linter = Path(sys.executable).with_name("lint-imports")
    command = [str(linter), "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False)


PLANTED = {
    "layers": ("semantics/vary.py", "import edgecache.proxy.edge"),
    "pure": ("semantics/vary.py", "import time"),
    "one protocol": ("proxy/deliver.py", "import edgecache.wire.h1.head"),
    "independence": ("proxy/middleware/planted.py", "import edgecache.proxy.middleware.{other}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("contract", PLANTED)
def test_a_planted_import_breaks_its_contract(contract: str, tmp_path: Path) -> None:
    """One wrong import per contract is found, by the contract that forbids it."""
    shutil.copytree(PACKAGE, tmp_path / "edgecache", ignore=shutil.ignore_patterns("__pycache__"))
    place, line = PLANTED[contract]
    path = tmp_path / "edgecache" / place
    other = min(one.stem for one in (PACKAGE / "proxy" / "middleware").glob("[a-z]*.py"))
    source = path.read_text() if path.exists() else '"""Planted."""\n'
    path.write_text(source + "\n" + line.format(other=other) + "\n")

    done = contracts(tmp_path)

    assert done.returncode == 1, done.stdout
    broken = [row for row in done.stdout.splitlines() if " BROKEN" in row]
    assert any(row.startswith(contract) for row in broken), done.stdout
