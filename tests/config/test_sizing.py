"""Memory and workers by what the machine or the container allows: fake trees of cgroups, and a real cgroup."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config import settings as config
from edgecache.config import sizing, system_resources
from edgecache.config.docs import effective_table
from edgecache.config.settings import load
from edgecache.config.sizing import (
    MIB,
    ConfiguredSizes,
    Resources,
    Shares,
    configured_sizes,
    refuse_too_much,
    shared_out,
)
from edgecache.config.sources import Source
from edgecache.semantics.errors import ConfigError
from edgecache.server import config_reload
from edgecache.server.config_reload import Configuration
from edgecache.telemetry.metrics import Registry

ORIGIN = {"EDGECACHE_ORIGIN": "http://origin.example"}
V1 = Path("/sys/fs/cgroup/memory")


def written(root: Path, files: dict[str, str]) -> Path:
    """A machine's file tree with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "600000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n2:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_cores_follow_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    """The tightest CPU quota of cgroup v2 or v1 counts, wherever in the tree it is set, rounded up to a core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))

    assert system_resources.usable_cores(written(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.high": "4096\n"}, 4096),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/x\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.stat": "cache 5\nhierarchical_memory_limit 8192\ntotal_rss 1\n",
            },
            8192,
        ),
    ],
)
def test_limits_that_are_set_elsewhere_count(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    """Where a cgroup is throttled, and what v1 says of the parents that a container does not see."""
    assert system_resources.memory_limit(written(tmp_path, files)) == limit


def test_the_machine_tells_its_memory(tmp_path: Path) -> None:
    """In bytes; nothing where it does not tell."""
    tree = written(tmp_path, {"proc/meminfo": "MemTotal:        1024 kB\nMemFree: 5 kB\n"})

    assert system_resources.total_memory(tree) == 1024 * 1024
    assert system_resources.total_memory(tmp_path / "nothing") is None


EMBEDDED = ConfiguredSizes(embedded=True)


@pytest.mark.parametrize(
    ("limits", "wanted", "shares"),
    [
        (Resources(None, None, 4), ConfiguredSizes(), Shares(4, 256 * MIB, 256 * MIB)),
        (Resources(None, 16384 * MIB, 4), EMBEDDED, Shares(4, 256 * MIB, 256 * MIB)),
        (Resources(None, 512 * MIB, 2), EMBEDDED, Shares(2, 154 * MIB, 136 * MIB)),  # a small machine without a cgroup
        (Resources(128 * MIB, 16384 * MIB, 4), ConfiguredSizes(), Shares(1, 30 * MIB, 256 * MIB)),
        (Resources(128 * MIB, 16384 * MIB, 4), EMBEDDED, Shares(1, 9 * MIB, 16 * MIB)),
        (Resources(256 * MIB, 16384 * MIB, 4), ConfiguredSizes(), Shares(3, 66 * MIB, 256 * MIB)),
        (Resources(512 * MIB, 16384 * MIB, 2), ConfiguredSizes(), Shares(2, 256 * MIB, 256 * MIB)),
        (Resources(1024 * MIB, 16384 * MIB, 1), ConfiguredSizes(memory=64 * MIB), Shares(1, 64 * MIB, 256 * MIB)),
        (
            Resources(256 * MIB, None, 4),
            ConfiguredSizes(workers=1, regional=32 * MIB, embedded=True),
            Shares(1, 90 * MIB, 32 * MIB),
        ),
        (Resources(256 * MIB, None, 8), ConfiguredSizes(memory=100 * MIB), Shares(2, 100 * MIB, 256 * MIB)),
        (
            Resources(256 * MIB, None, 8),
            ConfiguredSizes(beside=60 * MIB),
            Shares(1, 81 * MIB, 256 * MIB),
        ),  # a GEO_DB each
    ],
)
def test_what_is_shared_out(limits: Resources, wanted: ConfiguredSizes, shares: Shares) -> None:
    """The processes come first, then the embedded Valkey and the objects; what is set stays as it is set."""
    assert shared_out(limits, wanted) == shares


SIZES = st.integers(1, 64 * 1024).map(lambda size: size * MIB)


@given(SIZES, st.integers(1, 256), st.booleans(), st.booleans())
def test_what_is_found_fits(size: int, cores: int, embedded: bool, kept: bool) -> None:
    """Where the limit can hold one worker and the least of everything, what is found by itself fits into it."""
    wanted = ConfiguredSizes(embedded=embedded, kept=kept)
    found = shared_out(Resources(size, None, cores), wanted)
    least = wanted.processes(1) + wanted.valkey(sizing.LEAST_REGIONAL) + 2 * MIB

    assert found.workers <= cores
    assert size < least or wanted.processes(found.workers) + wanted.valkey(found.regional) + found.memory <= size


@pytest.mark.parametrize(
    ("size", "workers", "names"),
    [(None, 4, 100_000), (128 * MIB, 1, 16384), (512 * MIB, 2, 32768), (16384 * MIB, 2, 100_000), (64 * MIB, 64, 1000)],
)
def test_purged_names_take_an_eighth_of_a_container(size: int | None, workers: int, names: int) -> None:
    """A flood of purges or writes does not outgrow a small one; elsewhere the usual number is remembered."""
    assert sizing.registers(Resources(size, None, 1), workers) == names


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {"EDGECACHE_WORKERS": "4"},
            "EDGECACHE_WORKERS: does not fit into the 128MiB that the cgroup allows: 1MiB for objects, 208MiB for the "
            "supervisor and 4 workers",
        ),
        ({"EDGECACHE_MEMORY": "64MiB"}, "EDGECACHE_MEMORY: does not fit into the 128MiB that the cgroup allows: "),
        (
            {"EDGECACHE_REGIONAL": "embedded", "EDGECACHE_REGIONAL_MEMORY": "64MiB"},
            "EDGECACHE_REGIONAL_MEMORY: does not fit into the 128MiB that the cgroup allows: 1MiB for objects, 88MiB "
            "for the supervisor and 1 worker, 88MiB for the embedded Valkey",
        ),
        ({"EDGECACHE_REGIONAL_MEMORY": "64MiB"}, ""),  # of a Valkey that is not there
        ({}, ""),
        ({"EDGECACHE_REGIONAL": "embedded"}, ""),
    ],
)
def test_a_limit_that_cannot_hold_what_is_set_refuses(
    environ: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, which names what is set and says what takes how much; what is found by itself is never refused."""
    limits = Resources(128 * MIB, 4096 * MIB, 1)
    monkeypatch.setattr(config, "of_machine", lambda: limits)
    settings = load({**ORIGIN, **environ})
    if not line:
        return refuse_too_much(settings, environ, limits)
    with pytest.raises(ConfigError) as refused:
        refuse_too_much(settings, environ, limits)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)
    return None


def test_the_table_shows_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check-config` prints the values of this container; those that are set stay."""
    monkeypatch.setattr(config, "of_machine", lambda: Resources(128 * MIB, None, 8))
    lines = {line.split()[0]: line.split()[1:3] for line in effective_table({**ORIGIN}).splitlines()}

    assert lines["EDGECACHE_WORKERS"] == ["1", "default"]
    assert lines["EDGECACHE_MEMORY"] == ["30MiB", "default"]
    assert lines["EDGECACHE_PURGE_REGISTERS"] == ["16384", "default"]
    assert configured_sizes(load({**ORIGIN, "EDGECACHE_MEMORY": "5MiB"})).memory == 5 * MIB


def test_a_reload_does_not_outgrow_the_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """More memory than the container can hold beside the embedded Valkey is refused; less is taken."""
    limits = Resources(128 * MIB, None, 1)
    monkeypatch.setattr(config, "of_machine", lambda: limits)
    monkeypatch.setattr(config_reload, "of_machine", lambda: limits)
    file = tmp_path / "edgecache.conf"
    file.write_text("EDGECACHE_MEMORY=5MiB\n")
    source = Source({**ORIGIN, "EDGECACHE_REGIONAL": "embedded"}, str(file))
    source.found = config.found_by_machine(source.read())
    source.fix("EDGECACHE_REGIONAL", "valkey+unix:///s")
    configuration = Configuration(source, load(source.merged()), Registry())

    file.write_text("EDGECACHE_MEMORY=20MiB\n")
    with pytest.raises(ConfigError, match=r"^EDGECACHE_MEMORY: does not fit into the 128MiB"):
        configuration.read_again()
    file.write_text("EDGECACHE_MEMORY=6MiB\n")
    assert configuration.read_again().settings.memory == 6 * MIB


@pytest.fixture
def container() -> Iterator[Path]:
    """A real cgroup of 128 MiB."""
    group = V1 / f"edgecache-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(128 * MIB))
    except OSError:
        with suppress(OSError):
            group.rmdir()
        pytest.skip("no cgroup of version 1 can be made here")
    yield group
    group.rmdir()


@pytest.mark.slow
def test_a_real_cgroup_is_followed(container: Path) -> None:
    """Inside it `check-config` finds what fits, and refuses what does not."""

    def check(**environ: str) -> subprocess.CompletedProcess[str]:
        command = f"echo $$ > {container}/cgroup.procs; exec {sys.executable} -m edgecache check-config"
        known = {"PATH": os.environ["PATH"], **ORIGIN, **environ}
        return subprocess.run(["sh", "-c", command], env=known, capture_output=True, text=True, check=False)

    found, refused = check(EDGECACHE_REGIONAL="embedded"), check(EDGECACHE_WORKERS="4")
    assert found.returncode == 0, found.stderr
    assert {"EDGECACHE_MEMORY", "9MiB", "EDGECACHE_REGIONAL_MEMORY", "16MiB"} <= set(found.stdout.split())
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "the 128MiB that the cgroup allows" in refused.stderr
