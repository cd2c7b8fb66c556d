"""Make the blog's database once: a post for each module of Python's library, its documentation as the text."""

import ast
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(os.environ["BLOG_FOLDER"])


def main() -> None:
    """Leave a database that is there alone; one that is half made is made anew."""
    if (FOLDER / "blog.db").exists():
        print("the database is there")
        return
    draft = FOLDER / "draft"
    draft.mkdir(exist_ok=True)
    for left in draft.iterdir():
        left.unlink()
    given = {"users": ["alice", "bob"], "password": os.environ["BLOG_PASSWORD"], "packages": list(posts())}
    made = subprocess.run(
        [sys.executable, "-m", "blog_site.fill"],
        env={**os.environ, "BLOG_FOLDER": str(draft), "DJANGO_SETTINGS_MODULE": "blog_site.settings"},
        input=json.dumps(given).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    (draft / "blog.db").rename(FOLDER / "blog.db")
    print(f"made a blog of {len(json.loads(made.stdout)['posts'])} posts")


def posts() -> Iterator[dict[str, str]]:
    """Name, summary, section and text for each module that documents itself."""
    library = Path(sysconfig.get_path("stdlib"))
    for source in sorted(library.rglob("*.py")):
        parts = source.relative_to(library).with_suffix("").parts
        if parts[0] in ("site-packages", "dist-packages", "test", "idlelib", "lib2to3") or "tests" in parts:
            continue
        try:
            text = ast.get_docstring(ast.parse(source.read_bytes()))
        except (SyntaxError, ValueError):
            continue
        if text:
            name = "-".join(parts).removesuffix("-__init__")
            yield {"name": name, "summary": text.splitlines()[0], "section": parts[0], "text": text}


if __name__ == "__main__":
    main()
