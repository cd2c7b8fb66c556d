"""Run one load test: `python -m loadtests NAME [ARGS]`."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
PROGRAMS: Final = {
    "bench": "bench.compare",
    "heads-cost": "bench.heads_cost",
    "compression": "bench.compression",
    "restart": "bench.restart",
    "slices": "bench.slices",
    "store": "bench.store",
    "machine-store": "bench.machine_store",
    "trace-policies": "bench.trace_policies",
    "load": "locust.run",
    "local-chain": "locust.local_chain",
    "chain": "faults.chain",
    "hostile-load": "faults.hostile_load",
    "purge-load": "faults.purge_load",
    "reload-load": "faults.reload_load",
    "limits": "faults.limits_load",
    "correctness": "correctness.random_walk",
    "real-sites": "correctness.crawl_real_sites",
    "wordpress": "correctness.crawl_wordpress",
    "wagtail": "correctness.crawl_wagtail",
    "nextjs": "correctness.crawl_nextjs",
    "plugin-purges": "correctness.purge_by_plugins",
    "dashboards-check": "correctness.dashboards_check",
}


def summary(module: str) -> str:
    """The first line of a program's docstring, without running it."""
    source = (HERE / module.replace(".", "/")).with_suffix(".py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def usage() -> str:
    """All programs, one a line."""
    rows = [f"  {name:<17} {summary(module)}" for name, module in PROGRAMS.items()]
    return "\n".join(["usage: python -m loadtests NAME [ARGS]; NAME --help lists its ARGS", "", *rows])


def main() -> int:
    """Hand the rest of the command line to the program."""
    name = sys.argv[1].replace("_", "-") if len(sys.argv) > 1 else ""
    if name in ("", "-h", "--help"):
        print(usage())
        return 0 if name else 2
    if name not in PROGRAMS:
        print(f"loadtests: no program {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    sys.argv = [f"python -m loadtests {name}", *sys.argv[2:]]
    try:
        program = importlib.import_module(f"loadtests.{PROGRAMS[name]}")
    except ModuleNotFoundError as absent:
        print(f"{name}: {absent.name} is not installed; `make {name}` installs what it needs", file=sys.stderr)
        return 2
    code: int | None = program.main()
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
