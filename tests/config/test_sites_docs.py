"""The page of sites and the JSON Schema say what the program takes."""

from __future__ import annotations

import re
import tomllib
from itertools import count
from pathlib import Path

import jsonschema
import pytest

from edgecache.config.sites.parser import json_schema, parsed
from edgecache.server.cli import main

DOCS = Path(__file__).parents[2] / "docs"
SITE = '[[sites]]\nname = "a"\nhosts = ["a.test"]\norigin = "http://a"\n'
SCHEMA = jsonschema.Draft202012Validator(json_schema())
PARTS = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples() -> list[str]:
    """Every TOML text of the page; rules without a site are given one."""
    found = PARTS.findall((DOCS / "sites.md").read_text())
    return [text if "[[sites]]" in text else SITE + text for text in found]


def test_the_schema_is_that_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    """`make docs` writes it, as `check-config` prints it."""
    assert main(["check-config", "--sites-schema"]) == 0
    assert (DOCS / "sites.schema.json").read_text() == capsys.readouterr().out


def test_the_schema_is_one() -> None:
    """By the rules of JSON Schema; each table says what it is, for editors."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    without = [name for name, table in schema["$defs"].items() if not table.get("description")]

    assert without == []


@pytest.mark.parametrize("text", examples(), ids=count())
def test_an_example_is_right(text: str) -> None:
    """By the schema and by the parser."""
    SCHEMA.validate(tomllib.loads(text))
    assert parsed(text).sites


@pytest.mark.parametrize(
    "text",
    [
        SITE + "orgin = 'x'\n",
        SITE.replace('"a"', '"A b"'),
        SITE + "[[sites.rules]]\nname = 'r'\ncache = { ttl = '10' }\n",
        SITE + "[[sites.rules]]\nname = 'r'\nwhen = { negated = {} }\n",
        SITE + "[[sites.rules]]\nname = 'r'\nlimits = [{ rate = '1 per s' }]\n",
    ],
)
def test_the_schema_refuses_what_the_parser_does(text: str) -> None:
    """So that an editor underlines it."""
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate(tomllib.loads(text))
    with pytest.raises(ValueError, match="line"):
        parsed(text)
