"""Datasette with a database of this machine's packages and of the files of /usr/share."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from loadtests.correctness.real_sites import data
from loadtests.correctness.real_sites.data import File, Package
from loadtests.correctness.real_sites.environment import private_python, versions
from loadtests.correctness.real_sites.rules import Moving
from loadtests.correctness.real_sites.site import Page, Site
from loadtests.lab.processes import Missing, Process, free_port

HOST = "data.test"
PAGE = "/shared/packages?_facet=section_id"
MOST_FILES = 20_000
LEAST_ROWS = 10_000
SETTINGS = {
    "default_cache_ttl": "300",
    "suggest_facets": "off",  # which facets are suggested depends on how long the queries took
    "facet_time_limit_ms": "20000",
    "sql_time_limit_ms": "20000",
}
SCHEMA = """
create table sections (id integer primary key, name text unique);
create table extensions (id integer primary key, name text unique);
create table packages (name text primary key, version text, section_id integer references sections(id),
    kibibytes integer, maintainer text, summary text, text text);
create table files (id integer primary key, path text, name text, extension_id integer references extensions(id),
    bytes integer, modified integer);
create virtual table packages_fts using fts5 (name, summary, text, content="packages");
create view large_files as select id, path, bytes from files where bytes > 100000;
"""
MOVING = (
    Moving("the time that the queries took", r"Queries took [0-9.,e-]+ms"),
    Moving("the same in JSON", r'"query_ms": [0-9.e-]+'),
)
HERDS = (  # the last is not storable, and streams
    "/shared/files?_sort=name&_size=max",
    "/shared/files.json?_sort=path&_size=max",
    "/shared/files.csv?_stream=1&_sort=bytes",
)
STATIC = "import pathlib, datasette; print(pathlib.Path(datasette.__file__).parent / 'static')"


def site(folder: Path, environments: Path, count: int) -> Site:
    """Datasette, ready to be started with at least `count` targets."""
    python = private_python(environments / "datasette", "datasette", "setuptools<81")
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "shared.db"
    packages, files = data.packages(), data.files(MOST_FILES)
    if len(files) < LEAST_ROWS:
        raise Missing(f"{data.SHARE} holds {len(files)} files, {LEAST_ROWS} are needed")
    fill(database, packages, files)
    port = free_port()
    options = [word for name, value in SETTINGS.items() for word in ("--setting", name, value)]
    serve = [str(python), "-m", "datasette", "serve", "-i", str(database), "-h", "127.0.0.1", "-p", str(port), *options]
    wanted = [*general(), *static(python), *spread_over(packages, len(files), count)]
    rows = f"{len(files)} files, {len(packages)} packages"
    return Site(
        name="datasette",
        host=HOST,
        about=f"{versions(python, 'datasette', 'uvicorn')}; {rows}; {', '.join(map('='.join, SETTINGS.items()))}",
        server=Process("datasette", serve, port, "/-/versions.json", folder, status=499),
        targets=list(dict.fromkeys(wanted)),
        page=Page(PAGE, ["packages", packages[0].name], ["/-/static/app.css"]),
        moving=MOVING,
        herds=HERDS,
    )


def fill(database: Path, packages: Sequence[Package], files: Sequence[File]) -> None:
    """Write the database."""
    sections = {name: number for number, name in enumerate(sorted({one.section for one in packages}), 1)}
    extensions = {name: number for number, name in enumerate(sorted({one.extension for one in files}), 1)}
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(SCHEMA)
        connection.executemany("insert into sections values (?, ?)", [(n, name) for name, n in sections.items()])
        connection.executemany("insert into extensions values (?, ?)", [(n, name) for name, n in extensions.items()])
        connection.executemany(
            "insert into packages values (?, ?, ?, ?, ?, ?, ?)",
            [(p.name, p.version, sections[p.section], p.kibibytes, p.maintainer, p.summary, p.text) for p in packages],
        )
        connection.executemany(
            "insert into files values (?, ?, ?, ?, ?, ?)",
            [(n, f.path, f.name, extensions[f.extension], f.size, f.modified) for n, f in enumerate(files, 1)],
        )
        connection.execute("insert into packages_fts (packages_fts) values ('rebuild')")


def general() -> Iterator[str]:
    """Pages that there are once."""
    yield from (
        "/",
        PAGE,
        "/.json",
        "/shared",
        "/shared.json",
        "/shared/packages",
        "/shared/sections",
        "/shared/large_files",
    )
    yield from ("/-/versions.json", "/-/plugins.json", "/-/settings.json", "/-/metadata.json", "/-/databases.json")
    yield from ("/shared/files", "/shared/files/", "/shared/absent", "/absent", "/shared/files/99999999")
    yield from ("/shared/packages.csv?_stream=1", "/shared/files.csv?_stream=1", "/shared/large_files.csv?_stream=1")
    yield from ("/shared/packages.csv?_stream=1&_dl=1", "/shared/packages.json?_nl=on&_shape=array&_size=max")
    for statement in ("select 1", "select count(*) from files", "select * from packages order by kibibytes desc"):
        yield from (f"/shared{suffix}?sql={quote(statement)}" for suffix in ("", ".json", ".csv"))


def static(python: Path) -> Iterator[str]:
    """The files that Datasette's pages load."""
    done = subprocess.run([str(python), "-c", STATIC], capture_output=True, check=False, timeout=60)
    folder = Path(done.stdout.decode().strip())
    yield from (f"/-/static/{quote(path.name)}" for path in sorted(folder.glob("*")) if path.is_file())


def spread_over(packages: Sequence[Package], rows: int, count: int) -> Iterator[str]:
    """Rows, tables by page, order, facet and search, as HTML, JSON and CSV: about `count` in all."""

    def some(share: int) -> range:
        return range(1, rows, max(1, rows * 100 // (count * share)))

    yield from (f"/shared/files/{number}" for number in some(25))
    yield from (f"/shared/files/{number}.json" for number in some(10))
    yield from (f"/shared/files?_size=30&_next={number}" for number in some(12))
    yield from (f"/shared/files?_sort_desc=bytes&_size=10&bytes__lt={number}" for number in some(6))
    yield from (f"/shared/files.json?_size=50&_next={number}&_labels=on" for number in some(14))
    yield from (f"/shared/files.csv?_size=50&_next={number}" for number in some(8))
    yield from (f"/shared/files.csv?_stream=1&bytes__gt={number * 50}" for number in some(2))
    yield from (f"/shared/files?_facet=extension_id&_size=5&id__gt={number}" for number in some(5))
    step = max(1, len(packages) * 100 // (count * 10))
    for package in packages[::step]:
        name = quote(package.name.replace("~", "~7E").replace(".", "~2E").replace("+", "~2B"), safe="~")
        yield f"/shared/packages/{name}"
        yield f"/shared/packages?_search={quote(package.name.split('-')[0])}&_size=5"
