"""Load tests of the product as processes, on the harness of its tests: `python -m loadtests --help` lists them."""

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))  # of `harness` and `hostile`
