"""The README says what the program does."""

import re
from pathlib import Path

from edgecache.settings_table import markdown_table

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_readme_holds_the_table_of_settings() -> None:
    """Every setting is documented as it is; `make readme` writes the table."""
    found = re.search(r"<!-- settings -->\n(.*)\n<!-- end of settings -->", README, re.DOTALL)

    assert found is not None
    assert found[1] == markdown_table()


def test_the_readme_names_only_settings_that_exist() -> None:
    """No text of the README names a setting that is gone."""
    named = set(re.findall(r"EDGECACHE_[A-Z_]*[A-Z]", README))

    assert {name for name in named if name not in markdown_table()} == set()
