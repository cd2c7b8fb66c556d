"""The settings: what may be written, what it becomes, and how a bad one is refused."""

import dataclasses
import ipaddress
import re
from pathlib import Path

import pytest
from harness.often import each_case

from edgecache.config import system_resources
from edgecache.config.docs import effective_table
from edgecache.config.settings import ROWS, Address, Origin, Settings, load
from edgecache.config.types import count, duration, size
from edgecache.semantics.errors import ConfigError, EdgecacheError

ORIGIN = {"EDGECACHE_ORIGIN": "http://origin.example"}


def loaded(**settings: str) -> Settings:
    """The settings with these variables, written without their prefix, on top of an origin."""
    return load(ORIGIN | {f"EDGECACHE_{name}": text for name, text in settings.items()})


def refused(**settings: str) -> str:
    """The line with which these settings refuse the start."""
    with pytest.raises(ConfigError) as refusal:
        loaded(**settings)
    assert len(str(refusal.value).splitlines()) == 1
    return str(refusal.value)


def test_an_origin_is_all_that_must_be_set() -> None:
    """With an origin alone, everything else has the documented default."""
    settings = load(ORIGIN)

    assert settings.origin == Origin("http", "origin.example", 80)
    assert settings.listen == Address("127.0.0.1", 8080)
    assert settings.admin_listen == Address("127.0.0.1", 9900)
    assert (settings.max_line, settings.max_head, settings.head_timeout) == (8192, 32768, 10.0)
    assert (settings.access_log, settings.memory_policy, settings.hosts) == (1.0, "s3fifo", ())


def test_the_origin_is_required() -> None:
    """Without an origin the error says what to set."""
    with pytest.raises(ConfigError, match=r"^EDGECACHE_ORIGIN: is required: http\(s\)://host\[:port\]"):
        load({})


def test_settings_can_be_made_without_an_environment() -> None:
    """Code and tests may build Settings directly: every row but the origin has its default there too."""
    assert Settings(origin=Origin("http", "origin.example", 80)) == load(ORIGIN)


def test_an_empty_value_counts_as_not_set() -> None:
    """Composed environments write empty values for what is not set."""
    assert loaded(WORKERS="", MAX_HEAD=" ", LISTEN="") == load(ORIGIN)


def test_other_variables_are_none_of_our_business() -> None:
    """Variables without the prefix, and those Kubernetes makes for a Service named edgecache, are ignored."""
    others = {
        "PATH": "/bin",
        "EDGECACHE_SERVICE_HOST": "10.0.0.1",
        "EDGECACHE_SERVICE_PORT_HTTP": "80",
        "EDGECACHE_PORT": "tcp://10.0.0.1:80",
        "EDGECACHE_PORT_80_TCP_ADDR": "10.0.0.1",
    }

    assert load(ORIGIN | others) == load(ORIGIN)


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    """A misspelt name is refused, and the name that was meant is suggested."""
    assert refused(MAX_HAED="1KiB") == "EDGECACHE_MAX_HAED: is not a setting; did you mean EDGECACHE_MAX_HEAD?"
    assert refused(QQQQQQQQQQQQQQQQ="1") == "EDGECACHE_QQQQQQQQQQQQQQQQ: is not a setting"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1000", 1000),
        ("64KiB", 65536),
        ("256MiB", 268435456),
        ("1GB", 10**9),
        ("1.5kib", 1536),
        ("7B", 7),
        ("2TiB", 2**41),
    ],
)
def test_sizes_take_units(text: str, expected: int) -> None:
    """A size is bytes, by binary or decimal units."""
    assert size(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0.0), ("250ms", 0.25), ("10s", 10.0), ("1.5m", 90.0), ("1h", 3600.0), ("1d", 86400.0)],
)
def test_durations_take_units(text: str, expected: float) -> None:
    """A duration is seconds."""
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "10", "10 s", "-1s", "1e3s", "10S", "s", "infs", "١s", "1m30s"])
def test_a_duration_needs_a_number_and_a_unit(text: str) -> None:
    """Anything but one number and one unit is no duration."""
    with pytest.raises(ValueError, match="is not a duration"):
        duration(text)


@pytest.mark.parametrize("text", ["", "-1", "1 KiB", "KiB", "1K", "0x10", "1e9", "٣", "9" * 40])
def test_a_size_needs_a_number_and_at_most_a_unit(text: str) -> None:
    """Anything but one number and at most one unit is no size."""
    with pytest.raises(ValueError, match="is not a size"):
        size(text)


@pytest.mark.parametrize("text", ["", "-1", "1.0", "٣", "1_000", "9" * 40])
def test_a_count_is_digits(text: str) -> None:
    """Anything but a bounded row of ASCII digits is no number."""
    with pytest.raises(ValueError, match="is not a whole number"):
        count(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[0:0::1]:0", Address("::1", 0)),
        ("Localhost:65535", Address("localhost", 65535)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    """An address is a host and a port, IPv6 in brackets."""
    assert loaded(LISTEN=text).listen == expected


@pytest.mark.parametrize("text", ["80808", ":8080", "::1:8080", "[::1]", "host:65536", "[::g]:1", "a b:1", "h:1\nx"])
def test_what_is_no_address(text: str) -> None:
    """A bad address is refused in one line that quotes it."""
    shown = text.replace("\n", "\\n")

    assert refused(LISTEN=text) == f'EDGECACHE_LISTEN: "{shown}" is not host:port'


@pytest.mark.parametrize(
    ("text", "origin", "authority"),
    [
        ("https://example.org", Origin("https", "example.org", 443), "example.org"),
        ("http://example.org:80/", Origin("http", "example.org", 80), "example.org"),
        ("https://Example.org:8443", Origin("https", "example.org", 8443), "example.org:8443"),
        ("http://[::1]:8000", Origin("http", "::1", 8000), "[::1]:8000"),
    ],
)
def test_origins(text: str, origin: Origin, authority: str) -> None:
    """An origin is a scheme, a host and a port, and knows what a Host field calls it."""
    assert loaded(ORIGIN=text).origin == origin
    assert origin.authority == authority


@pytest.mark.parametrize(
    "text",
    [
        "example.org",
        "ftp://example.org",
        "http://",
        "http://example.org/path",
        "http://example.org?q",
        "http://a:99999",
    ],
)
def test_what_is_no_origin(text: str) -> None:
    """An origin with a path, a query or another scheme is refused."""
    assert refused(ORIGIN=text) == (
        f'EDGECACHE_ORIGIN: "{text}" is not http(s)://host[:port] without path, user or query'
    )


@pytest.mark.parametrize("text", ["http://user:hunter2@example.org", "user:hunter2@example.org", "http://u:hunter/2@h"])
def test_a_password_in_an_origin_is_refused_and_never_shown(text: str) -> None:
    """Neither the error nor the table repeats a password."""
    line = refused(ORIGIN=text)
    table = effective_table({"EDGECACHE_ORIGIN": text})

    assert "********@" in line
    assert "hunter" not in line + table


def test_lists() -> None:
    """Names and networks are comma lists; spaces and empty parts do not matter."""
    settings = loaded(HOSTS="Example.ORG., www.example.org,,", TRUSTED_PROXIES="10.0.0.0/8, ::1")

    assert settings.hosts == ("example.org", "www.example.org")
    assert settings.trusted_proxies == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))


@pytest.mark.parametrize(("text", "expected"), [("json", 1.0), ("off", 0.0), ("0.01", 0.01), ("1", 1.0)])
def test_the_access_log_is_a_fraction(text: str, expected: float) -> None:
    """All, none, or a fraction of the requests."""
    assert loaded(ACCESS_LOG=text).access_log == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("on", True), ("True", True), ("1", True), ("off", False), ("0", False)]
)
def test_switches(text: str, expected: bool) -> None:
    """A switch takes the usual words."""
    assert loaded(HEURISTICS=text).heuristics is expected


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("WORKERS", "0", '"0" is less than 1'),
        ("WORKERS", "257", '"257" is more than 256'),
        ("MEMORY", "1KiB", '"1KiB" is less than 1MiB'),
        ("HEAD_TIMEOUT", "1d", '"1d" is more than 10m'),
        ("HEURISTICS", "yes", '"yes" is not on or off'),
        ("MEMORY_POLICY", "fifo", '"fifo" is not lru, sieve or s3fifo'),
        ("ACCESS_LOG", "0", '"0" is not json, off or a fraction above 0 and up to 1'),
        ("ACCESS_LOG", "nan", '"nan" is not json, off or a fraction above 0 and up to 1'),
        ("POP", "my pop", '"my pop" is not 1 to 64 letters, digits, dots, dashes or underscores'),
        ("HOSTS", "a.org:80", '"a.org:80" holds a.org:80: names go without a port'),
        ("ORIGIN_HOST", "a b", '"a b" is not client, origin or host[:port]'),
        ("ORIGIN_CA", "/nowhere.pem", '"/nowhere.pem" cannot be read: No such file or directory'),
        ("ADMIN_TOKEN", "two words", "******** holds characters other than visible ASCII"),
    ],
)
def test_bad_values_are_refused(name: str, text: str, problem: str) -> None:
    """The line names the variable, quotes what was written (never a secret), and says what is wrong."""
    assert refused(**{name: text}) == f"EDGECACHE_{name}: {problem}"


def test_a_network_with_host_bits_is_refused() -> None:
    """10.0.0.1/8 may mean two things, so it means none."""
    assert "10.0.0.1/8 has host bits set" in refused(TRUSTED_PROXIES="10.0.0.1/8")


def test_a_long_value_is_quoted_in_part() -> None:
    """An error stays one readable line whatever was pasted."""
    assert len(refused(LISTEN="x" * 5000)) < 150


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    """A PEM file that holds no certificate is found out at the start, not at the first request."""
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")

    line = refused(ORIGIN="https://example.org", ORIGIN_CA=str(empty))

    assert line.endswith("holds no certificate in PEM form")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"MAX_LINE": "64KiB"}, "EDGECACHE_MAX_LINE: is more than EDGECACHE_MAX_HEAD"),
        (
            {"MEMORY": "1MiB", "WORKERS": "4", "MAX_OBJECT_MEMORY": "512KiB"},
            "EDGECACHE_MAX_OBJECT_MEMORY: is more than the share of one worker: "
            "EDGECACHE_MEMORY / EDGECACHE_WORKERS = 262144 bytes",
        ),
        ({"ADMIN_LISTEN": "127.0.0.1:8080"}, "EDGECACHE_ADMIN_LISTEN: is the same as EDGECACHE_LISTEN"),
        ({"ORIGIN": "http://127.0.0.1:8080"}, "EDGECACHE_ORIGIN: is this POP itself: the same as EDGECACHE_LISTEN"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, str], line: str) -> None:
    """Two settings that cannot both be meant refuse the start."""
    assert refused(**settings) == line


def test_two_free_ports_are_no_contradiction() -> None:
    """Port 0 is a different port each time."""
    assert loaded(LISTEN="127.0.0.1:0", ADMIN_LISTEN="127.0.0.1:0").listen.port == 0


def test_memory_is_shared_by_the_workers() -> None:
    """A worker holds its share, and by default no object of more than a tenth of it."""
    settings = loaded(MEMORY="100MiB", WORKERS="4", STORE="off")

    assert settings.worker_memory == 25 * 1024 * 1024
    assert settings.largest_object == settings.worker_memory // 10
    assert dataclasses.replace(settings, max_object_memory=7).largest_object == 7


@pytest.mark.parametrize(
    ("given", "store", "size", "worker"),
    [
        ({"MEMORY": "256MiB", "WORKERS": "2", "STORE": "memory"}, "memory", 192, 32),
        (
            {"MEMORY": "256MiB", "WORKERS": "16", "STORE": "memory"},
            "memory",
            80,
            11,
        ),
        ({"MEMORY": "256MiB", "WORKERS": "2", "MAX_OBJECT_MEMORY": "100MiB", "STORE": "memory"}, "memory", 56, 100),
        ({"MEMORY": "256MiB", "WORKERS": "2", "MAX_OBJECT_MEMORY": "125MiB"}, "off", 16, 128),
        ({"MEMORY": "26MiB", "WORKERS": "1"}, "off", 16, 26),
        ({"MEMORY": "27MiB", "WORKERS": "1", "STORE": "memory"}, "memory", 16, 11),
        ({"MEMORY": "64MiB", "WORKERS": "1", "STORE": "memory", "STORE_SIZE": "60MiB"}, "memory", 60, 4),
        ({"MEMORY": "64MiB", "WORKERS": "1", "STORE": "disk:/srv/store"}, "disk:/srv/store", 1024, 64),
        ({"MEMORY": "64MiB", "WORKERS": "1", "STORE": "off"}, "off", 48, 64),
    ],
)
def test_a_store_in_memory_is_a_part_of_it(given: dict[str, str], store: str, size: int, worker: int) -> None:
    """By default three quarters; on a disk it is beside it. In MiB."""
    settings = loaded(**given)

    assert (settings.store, settings.store_size >> 20, settings.worker_memory >> 20) == (store, size, worker)


def test_a_store_in_memory_leaves_some_for_the_workers() -> None:
    """Or the start is refused."""
    with pytest.raises(ConfigError, match=r"EDGECACHE_STORE_SIZE: leaves less than 1MiB of EDGECACHE_MEMORY"):
        loaded(MEMORY="64MiB", WORKERS="2", STORE="memory", STORE_SIZE="63MiB")


def test_secrets_are_never_shown() -> None:
    """Neither repr nor the table of check-config shows a secret."""
    environ = ORIGIN | {"EDGECACHE_ADMIN_TOKEN": "hunter2"}

    assert load(environ).admin_token == "hunter2"
    assert "hunter2" not in repr(load(environ))
    assert "hunter2" not in effective_table(environ)
    assert re.search(r"^EDGECACHE_ADMIN_TOKEN +\*{8} +set ", effective_table(environ), re.MULTILINE)


def test_the_table_tells_what_is_set() -> None:
    """Each line of check-config has a name, the value in force, where it is from, and its documentation."""
    lines = {line.split()[0]: line for line in effective_table({"EDGECACHE_MAX_HEAD": "16KiB"}).splitlines()}

    assert list(lines) == list(ROWS)
    assert lines["EDGECACHE_MAX_HEAD"].split(maxsplit=3)[1:3] == ["16KiB", "set"]
    assert lines["EDGECACHE_MAX_LINE"].split(maxsplit=3)[1:3] == ["8KiB", "default"]
    assert lines["EDGECACHE_ORIGIN"].split(maxsplit=3)[1:3] == ["-", "missing"]


def test_every_row_is_whole() -> None:
    """Every row has one line of documentation, and a default within its own bounds."""
    with each_case() as case:
        for variable, row in ROWS.items():
            with case(variable):
                assert row.doc.endswith(".")
                assert "\n" not in row.doc
                assert "|" not in row.doc
                if row.default is not None:
                    row.value(row.default_text())


def written(root: Path, files: dict[str, str]) -> Path:
    """A machine's file tree with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 536870912),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "1000\n",
            },
            1000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,memory:/docker/x\n1:cpu:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000\n",
            },
            2000,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
        ),
    ],
)
def test_the_memory_limit_is_that_of_the_cgroup(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    """The tightest limit of cgroup v2 or v1 counts, wherever in the tree it is set."""
    assert system_resources.memory_limit(written(tmp_path, files)) == limit


def test_errors_have_one_root() -> None:
    """A caller can catch whatever edgecache raises on purpose."""
    assert issubclass(ConfigError, EdgecacheError)
