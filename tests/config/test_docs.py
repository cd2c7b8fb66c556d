"""The documents say what the program does."""

import re
from pathlib import Path

import pytest

from edgecache.config.docs import reference, sample_file
from edgecache.config.secret_files import NAMES_OF_FILES
from edgecache.config.settings import GROUPS, PREFIX, ROWS, load
from edgecache.config.sources import parsed
from edgecache.config.types import KEY_PAIRS, SITES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "ARCHITECTURE.md", *DOCS.glob("*.md")])
SETTING = re.compile(r"EDGECACHE_[A-Z_]*[A-Z]")
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)")


def test_the_reference_of_settings_is_that_of_the_code() -> None:
    """Every setting is documented as it is; `make docs` writes the tables."""
    found = re.search(
        r"<!-- settings -->\n(.*)\n<!-- end of settings -->", (DOCS / "settings.md").read_text(), re.DOTALL
    )

    assert found is not None
    assert found[1] == reference()


def test_every_setting_is_documented_under_exactly_one_heading() -> None:
    """No setting is left out or repeated, and no heading is empty."""
    page = (DOCS / "settings.md").read_text()
    documented = re.findall(r"^\| `(EDGECACHE_\w+)` \|", page, re.MULTILINE)

    assert documented == list(ROWS)
    assert [name for rows in GROUPS.values() for name in rows] == list(ROWS)
    assert all(GROUPS.values())
    assert re.findall("^## (.*)$", reference(), re.MULTILINE) == list(GROUPS)


def test_the_sample_file_is_that_of_the_code() -> None:
    """Every setting is there once with its default; `make docs` writes it."""
    text = (DOCS / "edgecache.env.example").read_text()

    assert text == sample_file() + "\n"
    assert re.findall(r"^#(EDGECACHE_\w+)=", text, re.MULTILINE) == list(ROWS)


def test_the_sample_file_sets_nothing_else_than_the_defaults() -> None:
    """It can be used as it is, and with every setting uncommented but the origin."""
    text = sample_file()
    uncommented = re.sub(r"^#(?=EDGECACHE_)", "", text, flags=re.MULTILINE)
    origin = {"EDGECACHE_ORIGIN": "https://www.example.org"}

    assert parsed(text, "sample") == {}
    assert load({**parsed(uncommented, "sample"), **origin}) == load(origin)


@pytest.mark.parametrize("variable", [name for name, row in ROWS.items() if row.kind.example])
def test_every_example_is_a_value(variable: str) -> None:
    """What the reference gives as an example is accepted, as far as it names no files."""
    row = ROWS[variable]

    if row.kind in (KEY_PAIRS, SITES):
        with pytest.raises(ValueError, match="cannot be read"):
            row.value(row.kind.example)
    else:
        row.value(row.kind.example)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_names_only_settings_that_exist(page: Path) -> None:
    """No document names a setting that is gone; several of one beginning are named by that."""
    named = set(SETTING.findall(page.read_text())) - ROWS.keys() - NAMES_OF_FILES - {PREFIX + "NAME"}

    assert {name for name in named if not any(variable.startswith(name + "_") for variable in ROWS)} == set()


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_links_only_to_what_exists(page: Path) -> None:
    """Every link inside the repository leads to a file, and to a heading of it."""
    for where, heading in LINK.findall(page.read_text()):
        target = page.parent / where if where else page
        assert target.exists(), where
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if heading else []
        assert not heading or heading in [re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in headings]


def test_the_architecture_names_modules_that_exist() -> None:
    """Each path is one of `edgecache/`, each bare name a module of it, and every package is in the ladder."""
    package, text = ROOT / "edgecache", (ROOT / "ARCHITECTURE.md").read_text()
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    named = set(re.findall(r"`([a-z0-9_/]+\.py)`", text))
    ladder = set(re.findall(r"`([a-z]+)`", "".join(re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE))))

    assert {
        name for name in named if not any(module == name or module.endswith("/" + name) for module in modules)
    } == set()
    assert {path.name for path in package.iterdir() if (path / "__init__.py").exists()} - ladder == set()
    assert len(text.splitlines()) <= 80
